"""`icmjax check`: what was understood of claims, before anything is spent on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.faults import reports_faults
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import (
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    claims_options,
    optional_model_options,
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
@scorer_options
@config_option
@reports_faults
@machine_options
def command(
    model: ModelOptions, source: ClaimsOptions, scoring: ScorerOptions, machine: Machine
) -> None:
    """Say what was understood of claims, and what labelling them will take.

    With --model also how it will read them, in full, and the tokens and the time of the default
    search. Nothing is searched, and nothing is written.
    """
    claims, gold = source.read()
    for line in understood(claims, gold):
        click.echo(printable(line))
    if model.model is None:
        click.echo("\n--model NAME shows the prompts that it will read, and says what they cost.")
        return
    lm = model.load(machine.mesh)
    template = icmjax.prompts.resolve_template(model.template, lm.default_template, claims)
    for line in prompts(lm, claims, template):
        click.echo(printable(line, keep="\n"))
    scorer = scoring.make(lm, claims, model.template, machine)
    for line in costs(lm, scorer, machine.memory_budget):
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
        yield "  one search labels all of them together; --persona takes one"
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


def costs(lm: LanguageModel, scorer: AnyScorer, memory_budget: int) -> Iterator[str]:
    """Tokens and time of a search by the default algorithm, in lines."""
    algorithm = icmjax.Marginals()
    num_contexts = algorithm.num_iterations - 2
    num_tokens = algorithm.expected_tokens(scorer)
    yield "\n" + str(icmjax.scoring.describe(scorer, memory_budget))
    if lm.ignored_fields:
        yield f"fields of config.json that nothing is computed from: {', '.join(lm.ignored_fields)}"
    yield (
        f"the default search reads about {num_tokens:,} tokens: all claims once, {num_contexts} "
        "times after a few of them, and one whole pass"
    )
    rate = tokens_per_second(lm)
    seconds = num_tokens / rate
    time_taken = "under 1 s" if seconds < 1 else f"about {seconds:.0f} s"
    yield (
        f"that takes {time_taken}, by a text that was read here at {rate:,.0f} tokens/s; compiling "
        "comes first, and long prompts are slower"
    )


def tokens_per_second(lm: LanguageModel) -> float:
    """How fast one text is read here, compiled."""
    import jax
    import jax.numpy as jnp

    length = min(TIMED_TOKENS, lm.max_length)
    positions = jnp.arange(length, dtype=jnp.int32)[None]
    row = jnp.zeros((1, length), jnp.int32), positions, jnp.ones((1, length), bool)

    @jax.jit
    def read(lm: LanguageModel) -> jax.Array:
        return lm.decoder()(*row)[0].sum()

    jax.block_until_ready(read(lm))
    started = time.perf_counter()
    jax.block_until_ready(read(lm))
    return length / (time.perf_counter() - started)
