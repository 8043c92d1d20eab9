"""`icmjax check`: what was understood of claims, before anything is spent on them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

import icmjax
from icmjax.cli.config import config_option
from icmjax.cli.faults import reports_faults
from icmjax.cli.inputs import read_personas
from icmjax.cli.machine import Machine, machine_options
from icmjax.cli.options import (
    ALGORITHMS,
    ClaimsOptions,
    ModelOptions,
    ScorerOptions,
    claims_options,
    optional_model_options,
    personas_option,
    scorer_options,
)
from icmjax.cli.output import json_option
from icmjax.errors import printable

if TYPE_CHECKING:
    from icmjax import ClaimSet, GoldLabels
    from icmjax.lm import LanguageModel
    from icmjax.prompts import Template
    from icmjax.scoring import AnyScorer

FEW = 32  # claims, from which on the experiments took them
NUM_SHOWN = 2  # demonstrations of the second prompt
TIMED_TOKENS = 512  # at the most, of a text that is read to see how fast that goes
RULE_WIDTH = 96


@click.command("check")
@optional_model_options
@claims_options
@personas_option
@scorer_options
@json_option
@config_option
@reports_faults
@machine_options
def command(
    model: ModelOptions,
    source: ClaimsOptions,
    personas: str | None,
    scoring: ScorerOptions,
    is_json: bool,
    machine: Machine,
) -> None:
    """Say what was understood of claims, and what labelling them will take.

    With --model also how it will read them, in full, and the tokens and the time of the default
    search. Nothing is searched, and nothing is written.
    """
    tasks = [source.read()] if personas is None else [*read_personas(source, personas).values()]
    found: dict[str, Any] = {"claims": [facts_of(*task) for task in tasks]}
    if model.model is not None:
        lm, first = model.load(machine.mesh), tasks[0][0]
        template = icmjax.prompts.resolve_template(model.template, lm.default_template, first)
        scorers = [scoring.make(lm, claims, model.template, machine) for claims, _ in tasks]
        found |= {
            "prompts": prompts_of(lm, first, template),
            "label_forms": dict(zip(first.options, template.label_forms, strict=True)),
            "ignored_fields": lm.ignored_fields,
            "search": costs_of(lm, scorers, machine.memory_budget),
        }
    if is_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for line in lines_of(found):
        click.echo(printable(line, keep="\n"))


def lines_of(found: Mapping[str, Any]) -> Iterator[str]:
    """All that was understood, for people."""
    for facts in found["claims"]:
        yield from understood(facts)
    if len(found["claims"]) > 1:
        total = sum(facts["num_claims"] for facts in found["claims"])
        yield f"{len(found['claims'])} personas, {total} claims; each is labelled by itself"
    if "prompts" not in found:
        yield "\n--model NAME shows the prompts that it will read, and says what they cost."
        return
    for prompt in found["prompts"]:
        title = (
            f"-- {prompt['about']}: {prompt['num_tokens']} tokens, template {prompt['template']} "
        )
        yield "\n" + title.ljust(RULE_WIDTH, "-")
        yield prompt["text"]
    yield "-- what may follow: ".ljust(RULE_WIDTH, "-")
    yield "; ".join(
        f"{option}: {' or '.join(map(repr, forms))}"
        for option, forms in found["label_forms"].items()
    )
    yield from costs(found["search"], found["ignored_fields"])


def facts_of(claims: ClaimSet, gold: GoldLabels | None) -> dict[str, Any]:
    """Claims, personas, labels and pairs, by name."""
    numbers = dict.fromkeys(claims.personas, 0)
    for claim in claims.claims:
        numbers[claim.persona] += 1
    first = [claims.claims[index] for pair in claims.rules.pairs[:1] for index in pair]
    return {
        "about": claims.describe(),
        "num_claims": len(claims),
        "personas": numbers,
        "options": claims.options,
        "num_gold": 0 if gold is None else int((gold.labels != icmjax.UNLABELLED).sum()),
        "num_pairs": len(claims.rules.pairs),
        "first_pair": {claim.id: claim.choice for claim in first},
        "preamble": claims.preamble,
        "first": {"question": claims.claims[0].question, "choice": claims.claims[0].choice},
        "warnings": icmjax.runs.warnings_of_claims(claims, ALGORITHMS["marginals"]),
        "unread_columns": claims.unread,
    }


def understood(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of one claim set in lines."""
    yield facts["about"]
    named = [f"{name or '(none)'}: {number}" for name, number in facts["personas"].items()]
    yield f"personas: {', '.join(named)}"
    yield f"labels to choose from: {', '.join(facts['options'])}"
    if facts["num_gold"]:
        yield f"gold labels: {facts['num_gold']} of {facts['num_claims']}; a search never sees them"
    else:
        yield "gold labels: none, so that nothing can be said of accuracy"
    if facts["first_pair"]:
        yield "the first pair that a rule ties:"
    for name, choice in facts["first_pair"].items():
        yield f"  {name}: {choice}"
    first = [text for text in facts["first"].values() if text.strip()]
    yield f"the first claim: {' / '.join(first)}"
    if facts["unread_columns"]:
        yield f"columns that nothing reads: {', '.join(facts['unread_columns'])}"
    if facts["num_claims"] < FEW:
        yield f"these are few claims: from {FEW} on borders and shares are better known"
    if facts["preamble"]:
        yield f"before all claims stands: {facts['preamble']}"
    yield from (f"warning: {warning}" for warning in facts["warnings"])


def prompts_of(lm: LanguageModel, claims: ClaimSet, template: Template) -> list[dict[str, Any]]:
    """Two prompts in full, as the model will read them."""
    query, groups = claims.claims[0], claims.group_index
    # A group's other claims may give its answer away.
    others = [claims.claims[index] for index in range(len(claims)) if groups[index] != groups[0]]
    shown = others[:NUM_SHOWN]
    # Some labels, so that one sees where they stand; a search chooses them.
    labelled = [(claim, index % len(claims.options)) for index, claim in enumerate(shown)]
    found = []
    for what, demonstrations in (
        ("without demonstrations", []),
        (f"after {len(labelled)} claims, whose labels here are made up", labelled),
    ):
        text = template.prompt_text(claims.preamble, demonstrations, query)
        num_tokens = len(lm.tokenizer(text)["input_ids"])
        about = f"claim {query.id} {what}"
        found.append(
            {"about": about, "num_tokens": num_tokens, "template": template.name, "text": text}
        )
    return found


def costs_of(lm: LanguageModel, scorers: Sequence[AnyScorer], memory_budget: int) -> dict[str, Any]:
    """Tokens and time of searches by the default algorithm, by name."""
    rate, compiling = tokens_per_second(lm)
    num_tokens = sum(map(icmjax.Marginals().expected_tokens, scorers))
    return {
        "plan": str(icmjax.scoring.describe(scorers[0], memory_budget)),
        "num_searches": len(scorers),
        "num_tokens": num_tokens,
        "tokens_per_second": rate,
        "seconds": num_tokens / rate,
        "seconds_to_compile_a_text": compiling,
    }


def costs(search: Mapping[str, Any], ignored_fields: Sequence[str]) -> Iterator[str]:
    """Tokens and time in lines."""
    num_contexts, num = icmjax.Marginals().num_iterations - 2, search["num_searches"]
    yield "\n" + search["plan"]
    if ignored_fields:
        yield f"fields of config.json that nothing is computed from: {', '.join(ignored_fields)}"
    who = "a search" if num == 1 else f"the {num} searches, one a persona, together"
    yield (
        f"by default {who} will read about {search['num_tokens']:,} tokens: "
        f"all claims once, {num_contexts} times after a few of them, and one whole pass"
    )
    seconds = search["seconds"]
    time_taken = "under 1 s" if seconds < 1 else f"about {seconds:.0f} s"
    yield (
        f"that takes {time_taken} without compiling, by a text that was read here at "
        f"{search['tokens_per_second']:,.0f} tokens/s; long prompts are slower"
    )
    yield (
        "compiling comes before it: that of the text took "
        f"{search['seconds_to_compile_a_text']:.0f} s here, and a search compiles several "
        "programs, each of which may take longer"
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
