"""Tasks of the persona world: claims or preferences to search over, and held-out ones.

A task is named `persona-world:GROUP:SEED`, of preferences `persona-world:GROUP:SEED:preferences`;
the held-out claims of either end in `:test`. Open questions have no labels to search for, and are
made by `make_open_task` alone. Search claims and held-out claims share no topic.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np

from icmjax.claims import ClaimSet, GoldLabels, Rule, claims_from_rows, gold_from_rows
from icmjax.errors import Fault, InputError
from icmjax.persona_world import text
from icmjax.persona_world.config import Source
from icmjax.persona_world.transcripts import NUM_STRENGTHS
from icmjax.persona_world.world import World, make_world

PREFIX = "persona-world:"
Split = Literal["search", "test"]


class Task(NamedTuple):
    """Claims about one group, and the truth about them, apart."""

    claims: ClaimSet
    gold: GoldLabels


def make_task(
    world: World,
    group: str,
    seed: int,
    split: Split = "search",
    num_claims: int = 32,
    source: Source | None = Source.NATIONAL,
    is_named: bool = True,
    is_paired: bool = True,
) -> Task:
    """Draws claims about a group whose gold labels are its majority answers, free of error.

    Args:
      group: a group's name, in any case.
      split: "search" draws items from the topics that are not held out, "test" from the others.
      num_claims: N; an even number where claims are paired.
      source: the kind of source that the header names; None for no header.
      is_named: whether the header names the group.
      is_paired: whether every item comes as a claim and its opposite, under the rule that exactly
        one of them is true; otherwise every claim is an item of its own, without a rule.

    Raises:
      InputError: an unknown group, or more claims than the split has.
    """
    index = world.group_index(group)
    topics = _topics(world, split)
    available = len(topics) * NUM_STRENGTHS * (2 if is_paired else 1)
    _check_num_claims(num_claims, available, 2 if is_paired else 1)
    rng = np.random.default_rng((world.config.seed, seed, split == "test", index))
    items = rng.permutation(len(topics) * NUM_STRENGTHS)
    items = np.repeat(items, 2)[:num_claims] if is_paired else items[:num_claims]
    is_reversed = rng.random(num_claims) < 0.5
    if is_paired:
        is_reversed[1::2] = ~is_reversed[::2]
    margins = world.margins(world.group_values[index])
    name = world.group_names[index]
    rows = []
    for item, side in zip(items, is_reversed, strict=True):
        topic, strength = int(topics[item // NUM_STRENGTHS]), int(item % NUM_STRENGTHS)
        rows.append(
            {
                "question": f"What do people from {name} say about this?",
                "choice": text.claim_text(topic, strength, bool(side)),
                "consistency_id": f"{topic}-{strength}",
                "persona": name,
                "label": bool((margins[topic, strength] > 0) ^ side),
            }
        )
    header = _header(source, name if is_named else None)
    return _make_task(rows, "exactly_one_true" if is_paired else "none", header)


def make_preference_task(
    world: World,
    group: str,
    seed: int,
    split: Split = "search",
    num_claims: int = 32,
    source: Source | None = Source.NATIONAL,
    is_named: bool = True,
) -> Task:
    """Draws preferences: claims that one of two responses suits a group better than the other.

    A response suits better the further the group's values lie on its side of the item's
    difficulty. Every response is asked about once, and no rule ties the claims.

    Args:
      num_claims: N.
      group, seed, split, source, is_named: as of `make_task`.

    Raises:
      InputError: an unknown group, or more claims than the split has.
    """
    index = world.group_index(group)
    topics = _topics(world, split)
    _check_num_claims(num_claims, len(topics) * NUM_STRENGTHS // 2, 1)
    rng = np.random.default_rng((world.config.seed, seed, split == "test", index, 1))
    items = rng.permutation(len(topics) * NUM_STRENGTHS)[: 2 * num_claims].reshape(-1, 2)
    sides = rng.random(items.shape) < 0.5
    margins = world.margins(world.group_values[index])[topics].reshape(-1)[items]
    utilities = np.where(sides, -margins, margins)
    name = world.group_names[index]
    rows = []
    for row, (pair, pair_sides) in enumerate(zip(items, sides, strict=True)):
        first, second = (
            text.claim_text(
                int(topics[item // NUM_STRENGTHS]), int(item % NUM_STRENGTHS), bool(side)
            )
            for item, side in zip(pair, pair_sides, strict=True)
        )
        rows.append(
            {
                "question": f"Which suits people from {name} better?",
                "choice": first,
                "choice_2": second,
                "consistency_id": str(row),
                "persona": name,
                "label": bool(utilities[row, 0] > utilities[row, 1]),
            }
        )
    return _make_task(rows, "none", _header(source, name if is_named else None))


class OpenTask(NamedTuple):
    """Open questions to one group, and the levels of its answers."""

    header: str
    topics: np.ndarray  # int64 [N]
    levels: np.ndarray  # int64 [N], 0 (wholly against) to 3 (wholly in favour)

    @property
    def queries(self) -> list[str]:
        """The N questions, as the model reads them."""
        return [text.answer_query(int(topic)) for topic in self.topics]

    def demonstrations(self, seed: int) -> list[str]:
        """The N questions, each with an answer in one of its level's wordings, drawn by seed."""
        rng = np.random.default_rng(seed)
        variants = rng.integers(len(text.ANSWERS[0]), size=len(self.levels))
        return [
            query + text.ANSWERS[level][variant]
            for query, level, variant in zip(self.queries, self.levels, variants, strict=True)
        ]


def make_open_task(
    world: World,
    group: str,
    seed: int,
    split: Split = "search",
    num_questions: int = 16,
    source: Source | None = Source.NATIONAL,
    is_named: bool = True,
) -> OpenTask:
    """Draws topics to ask a group about openly; arguments and errors as of `make_task`."""
    index = world.group_index(group)
    topics = _topics(world, split)
    _check_num_claims(num_questions, len(topics), 1)
    rng = np.random.default_rng((world.config.seed, seed, split == "test", index, 2))
    chosen = rng.permutation(topics)[:num_questions]
    levels = world.levels(world.group_values[index])[chosen]
    name = world.group_names[index] if is_named else None
    return OpenTask(_header(source, name), chosen, levels)


def _topics(world: World, split: Split) -> np.ndarray:
    return world.search_topics if split == "search" else world.held_out_topics


def _header(source: Source | None, group: str | None) -> str:
    return "" if source is None else text.header(source, group)


def _make_task(rows: list[dict], rule: Rule, header: str) -> Task:
    claims = claims_from_rows(rows, rule=rule, preamble=header)
    claims = dataclasses.replace(claims, rule_source="the world's")
    gold = gold_from_rows(rows)
    assert gold is not None
    return Task(claims, gold)


def _check_num_claims(num_claims: int, available: int, multiple: int) -> None:
    if not 2 <= num_claims <= available or num_claims % multiple:
        raise InputError(
            Fault(
                "A task has at least two claims, in whole pairs, and no more than its split holds.",
                f"{num_claims} of {available} claims",
                "num_claims",
                "choose an even number within these bounds"
                if multiple == 2
                else "choose a number within these bounds",
            )
        )


@functools.cache
def _default_world() -> World:
    return make_world()


def is_task_name(name: str) -> bool:
    """Whether a name for claims means a task of the world, rather than a file."""
    return f"{name}:".startswith(PREFIX)


def load_task(name: str) -> Task:
    """The task of a name such as `persona-world:norvania:0` or `persona-world:norvania:0:test`.

    Raises:
      InputError: the name has another form, or names an unknown group.
    """
    group, *rest = name.removeprefix(PREFIX).split(":")
    kinds: tuple[list[str], ...] = ([], ["test"], ["preferences"], ["preferences", "test"])
    if not rest or not rest[0].isdecimal() or rest[1:] not in kinds:
        raise InputError(
            Fault(
                "A task of the world is persona-world:GROUP:SEED[:preferences][:test].",
                repr(name),
                "claims",
                "write for example persona-world:norvania:0; groups are "
                f"{', '.join(map(str.lower, _default_world().group_names[:5]))} and others, which "
                "docs/bundled.md lists",
            )
        )
    world, seed = _default_world(), int(rest[0])
    split: Split = "test" if "test" in rest else "search"
    # All there is about the held-out topics, for the least noise.
    num_items = NUM_STRENGTHS * len(world.held_out_topics)
    if "preferences" in rest:
        num_claims = num_items // 2 if split == "test" else 32
        return make_preference_task(world, group, seed, split, num_claims)
    return make_task(world, group, seed, split, 2 * num_items if split == "test" else 32)
