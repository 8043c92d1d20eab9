"""`icmjax check`: what was understood of claims, before anything is spent on them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import read_personas
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    claims_options,
    optional_model_options,
    personas_option,
    scorer_options,
)
from icmjax.errors import printable

if TYPE_CHECKING:
    from icmjax import ClaimSet, GoldLabels
    from icmjax.lm import LanguageModel
    from icmjax.prompts import Template
    from icmjax.scoring import AnyScorer

NUM_SHOWN = 2  # demonstrations of the second prompt
TIMED_TOKENS = 512  # at the most, of a text that is read to see how fast that goes
RULE_WIDTH = 96


@click.command("check")
@optional_model_options
@claims_options
@personas_option
@scorer_options
@config_option
@reports_faults
@machine_options
def command(
    model: ModelOptions,
    source: ClaimsOptions,
    personas: str | None,
    scoring: ScorerOptions,
    machine: Machine,
) -> None:
    """Say what was understood of claims, and what labelling them will take.

    With --model also how it will read them, in full, and the tokens and the time of the default
    search. Nothing is searched, and nothing is written.
    """
    tasks = [source.read()] if personas is None else [*read_personas(source, personas).values()]
    for claims, gold in tasks:
        for line in understood(claims, gold):
            click.echo(printable(line))
    if personas is not None:
        total = sum(len(claims) for claims, _ in tasks)
        click.echo(f"{len(tasks)} personas, {total} claims; each is labelled by itself")
    if model.model is None:
        click.echo("\n--model NAME shows the prompts that it will read, and says what they cost.")
        return
    lm = model.load(machine.mesh)
    first = tasks[0][0]
    template = icmjax.prompts.resolve_template(model.template, lm.default_template, first)
    for line in prompts(lm, first, template):
        click.echo(printable(line, keep="\n"))
    scorers = [scoring.make(lm, claims, model.template, machine) for claims, _ in tasks]
    for line in costs(lm, scorers, machine.memory_budget):
        click.echo(printable(line))


def understood(claims: ClaimSet, gold: GoldLabels | None) -> Iterator[str]:
    """Claims, personas, labels and pairs, in lines."""
    yield claims.describe()
    numbers = dict.fromkeys(claims.personas, 0)
    for claim in claims.claims:
        numbers[claim.persona] += 1
    named = [f"{name or '(none)'}: {number}" for name, number in numbers.items()]
    yield f"personas: {', '.join(named)}"
    if len(named) > 1:
        yield "  one search labels all of them together; --persona takes one, --personas all each"
    yield f"labels to choose from: {', '.join(claims.options)}"
    num_gold = 0 if gold is None else int((gold.labels != icmjax.UNLABELLED).sum())
    if num_gold:
        yield f"gold labels: {num_gold} of {len(claims)}; a search never sees them"
    else:
        yield "gold labels: none, so that nothing can be said of accuracy"
    for first, second in claims.rules.pairs[:1]:
        yield "the first pair that a rule ties:"
        for index in (first, second):
            yield f"  {claims.claims[index].id}: {claims.claims[index].choice}"
    if claims.preamble:
        yield f"before all claims stands: {claims.preamble}"


def prompts(lm: LanguageModel, claims: ClaimSet, template: Template) -> Iterator[str]:
    """Two prompts in full, as the model will read them, in lines."""
    query, groups = claims.claims[0], claims.group_index
    # A group's other claims may give its answer away.
    others = [claims.claims[index] for index in range(len(claims)) if groups[index] != groups[0]]
    shown = others[:NUM_SHOWN]
    # Some labels, so that one sees where they stand; a search chooses them.
    labelled = [(claim, index % len(claims.options)) for index, claim in enumerate(shown)]
    for what, demonstrations in (
        ("without demonstrations", []),
        (f"after {len(labelled)} claims, whose labels here are made up", labelled),
    ):
        text = template.prompt_text(claims.preamble, demonstrations, query)
        num_tokens = len(lm.tokenizer(text)["input_ids"])
        title = f"-- claim {query.id} {what}: {num_tokens} tokens, template {template.name} "
        yield "\n" + title.ljust(RULE_WIDTH, "-")
        yield text
    forms = [" or ".join(repr(form) for form in forms) for forms in template.label_forms]
    yield "-- what may follow: ".ljust(RULE_WIDTH, "-")
    yield "; ".join(f"{option}: {form}" for option, form in zip(claims.options, forms, strict=True))


def costs(lm: LanguageModel, scorers: Sequence[AnyScorer], memory_budget: int) -> Iterator[str]:
    """Tokens and time of searches by the default algorithm, in lines."""
    num_contexts = icmjax.Marginals().num_iterations - 2
    num_tokens = sum(map(icmjax.Marginals().expected_tokens, scorers))
    whose = "search reads" if len(scorers) == 1 else f"{len(scorers)} searches read"
    yield "\n" + str(icmjax.scoring.describe(scorers[0], memory_budget))
    if lm.ignored_fields:
        yield f"fields of config.json that nothing is computed from: {', '.join(lm.ignored_fields)}"
    yield (
        f"the default {whose} about {num_tokens:,} tokens: all claims once, {num_contexts} "
        "times after a few of them, and one whole pass"
    )
    rate, compiling = tokens_per_second(lm)
    seconds = num_tokens / rate
    time_taken = "under 1 s" if seconds < 1 else f"about {seconds:.0f} s"
    yield (
        f"that takes {time_taken} without compiling, by a text that was read here at {rate:,.0f} "
        "tokens/s; long prompts are slower"
    )
    yield (
        f"compiling comes before it: that of the text took {compiling:.0f} s here, and a search "
        "compiles several programs, each of which may take longer"
    )


def tokens_per_second(lm: LanguageModel) -> tuple[float, float]:
    """How fast one text is read here, and the seconds that its program took to compile."""
    import jax
    import jax.numpy as jnp

    length = min(TIMED_TOKENS, lm.max_length)
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    row = jnp.zeros((1, length), jnp.int32), positions, jnp.ones((1, length), bool)

    @jax.jit
    def read(lm: LanguageModel) -> jax.Array:
        return lm.decoder()(*row)[0].sum()

    started = time.perf_counter()
    compiled = read.lower(lm).compile()
    compiling = time.perf_counter() - started
    jax.block_until_ready(compiled(lm))
    started = time.perf_counter()
    jax.block_until_ready(compiled(lm))
    return length / (time.perf_counter() - started), compiling
