"""How well a language model reads the world: claims, preferences and open answers of a group."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.draws import unit_rng
from icmjax.claims import ClaimSet
from icmjax.lm import LanguageModel
from icmjax.persona_world import (
    World,
    make_observer_steerer,
    make_open_task,
    make_preference_task,
    make_task,
    text,
)
from icmjax.steering import generate, make_steerer

COUNTS = (0, 1, 2, 4, 8, 16, 32)
NUM_FORMAT_DEMOS = 16
NUM_PARTICLES = 2048


def shown(gold: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The first k gold labels for each count, the others unlabelled: int8 `[counts, N]`."""
    return np.where(np.arange(len(gold)) < np.array(counts)[:, None], gold, -1).astype(np.int8)


def log_odds(label_log_probs: np.ndarray) -> np.ndarray:
    """log P(True) − log P(False) of `[..., 2]`."""
    return np.asarray(label_log_probs)[..., 1] - np.asarray(label_log_probs)[..., 0]


def run_claims(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Parts 1 and 2."""
    sets = [
        make_task(world, group, seed, split, num, is_paired=False)
        for split, num in (("search", 32), ("test", 64))
    ]
    labels = shown(sets[0].gold.labels, COUNTS)
    claims = [task.claims for task in sets]
    model = np.asarray(make_steerer(lm, *claims)(labels))
    observer = make_observer_steerer(
        world, *claims, knows_groups=False, num_particles=NUM_PARTICLES
    )(labels)
    unnamed = [
        make_task(world, group, seed, split, num, is_named=False, is_paired=False).claims
        for split, num in (("search", 32), ("test", 64))
    ]
    labels = shown(sets[0].gold.labels, (NUM_FORMAT_DEMOS,))
    pair = (
        make_steerer(lm, *unnamed)(labels),
        make_observer_steerer(world, *unnamed, num_particles=NUM_PARTICLES)(labels),
    )

    def accuracy(label_log_probs: np.ndarray) -> list[float]:
        return (label_log_probs.argmax(-1) == sets[1].gold.labels).mean(-1).tolist()

    return {
        "accuracy": accuracy(model),
        "observer_accuracy": accuracy(np.asarray(observer)),
        "log_odds": [log_odds(logp)[0].round(4).tolist() for logp in pair],
    }


def run_preferences(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Part 3."""
    queries, gold = make_preference_task(world, group, seed, "test", 32)
    demonstrations = {
        "preferences": make_preference_task(world, group, seed, "search", NUM_FORMAT_DEMOS),
        "claims": make_task(world, group, seed, num_claims=NUM_FORMAT_DEMOS, is_paired=False),
    }
    accuracy = {}
    for name, (claims, labels) in demonstrations.items():
        logp = make_steerer(lm, claims, queries)(labels.labels)
        accuracy[f"preferences after {name}"] = float((logp.argmax(-1) == gold.labels).mean())
    return accuracy


def run_answers(lm: LanguageModel, world: World, group: str, seed: int) -> dict:
    """Part 4."""
    held_out = make_open_task(world, group, seed, "test")
    asked = make_open_task(world, group, seed, num_questions=NUM_FORMAT_DEMOS)
    claims, gold = make_task(world, group, seed, num_claims=NUM_FORMAT_DEMOS, is_paired=False)
    wording = int(unit_rng(group, seed).integers(2**31))  # which words each answer is told in
    told = {
        "answers": asked.demonstrations(wording),
        "claims": told_claims(claims, gold.labels),
    }
    return {f"answers after {name}": ask(lm, held_out, words) for name, words in told.items()}


def told_claims(claims: ClaimSet, labels: np.ndarray) -> list[str]:
    """Claims with labels int8 `[N]`, as pieces of text that open questions may follow."""
    return [
        text.claim_query(claim.choice) + text.LABELS[label]
        for claim, label in zip(claims.claims, labels, strict=True)
    ]


def ask(lm: LanguageModel, held_out: Any, told: Sequence[str]) -> dict[str, Any]:
    """Answers to an open task after what was told, and the shares that are right.

    Returns:
      "parse", "stance" and "level", the shares of answers that can be read, take the right side and
      have the right level; and "texts".
    """
    answers = generate(lm, (held_out.header, *told), held_out.queries)
    levels = [text.parse_answer(answer) for answer in answers]
    pairs = list(zip(levels, held_out.levels.tolist(), strict=True))
    return {
        "parse": float(np.mean([level is not None for level in levels])),
        "stance": float(np.mean([_has_stance_of(a, b) for a, b in pairs])),
        "level": float(np.mean([a == b for a, b in pairs])),
        "texts": answers,
    }


def _has_stance_of(level: int | None, gold: int) -> bool:
    """Whether an answer can be read and takes the side that the gold level takes."""
    return level is not None and text.is_in_favor(level) == text.is_in_favor(gold)
