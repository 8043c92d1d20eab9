"""The claims that benchmarks score: made by the persona world, or read from files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, claims_from_rows, gold_from_rows, read_rows
from icmjax.errors import ClaimsError, Fault
from icmjax.persona_world import World, make_task, make_world

MAX_MADE = 1024  # claims: 8 groups of 128
GROUPS_OF_A_TIER = 2
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

# A claim of the world is three words. A survey asks about it at the length of real surveys: these
# parts follow one another, so that a labelled claim has 40 to 70 tokens or so.
OPENINGS = (
    "When it comes to {topic},",
    "When you think about {topic} in your country today,",
    "When you hear or read news stories about {topic}, whether at home or abroad,",
    "Some people say that {topic} can matter a great deal, and others disagree. As for yourself,",
)
ASKINGS = (
    "which statement comes closer to your view?",
    "which of these statements comes closer to your view, even if neither is exactly right?",
    "do you agree or disagree with this?",
)
ANSWERS = (
    "The majority of people from {group} would answer this question as: '{claim}'",
    "Most people from {group}, if they were asked, would say that '{claim}'",
)


def made_claims(num_claims: int = MAX_MADE) -> tuple[ClaimSet, np.ndarray]:
    """Claims of the persona world in the words of a survey, and their gold labels.

    They are the same in every run, and fewer claims are the first of more. Eight groups, two of
    each tier, take turns with a claim and its opposite. No rule ties them.

    Returns:
      N claims, and int8 `[N]`.

    Raises:
      ClaimsError: more claims are asked for than are made.
    """
    if not 1 <= num_claims <= MAX_MADE:
        rule = f"The world makes 1 to {MAX_MADE} claims for the benchmark."
        remedy = "ask for fewer, or give files of claims"
        raise ClaimsError(Fault(rule, str(num_claims), "num_claims", remedy))
    world = make_world()
    groups = [tier[place] for place in range(GROUPS_OF_A_TIER) for tier in world.tiers.values()]
    by_group = [_rows_of_group(world, group, MAX_MADE // len(groups)) for group in groups]
    starts = range(0, MAX_MADE // len(groups), 2)
    rows = [row for start in starts for group in by_group for row in group[start : start + 2]]
    return _claims_and_gold(rows[:num_claims])


def read_claims(paths: Sequence[Path]) -> tuple[ClaimSet, np.ndarray]:
    """The claims of files one after another, and their gold labels; no rule ties them.

    Args:
      paths: files, and folders for all the claim files right in them, by name.

    Returns:
      N claims, and int8 `[N]`, -1 where a claim has no gold label.

    Raises:
      ClaimsError: a file is absent or cannot be read, or there is none.
    """
    files: list[Path] = []
    for path in paths:
        inside = path.iterdir() if path.is_dir() else [path]
        files += sorted(file for file in inside if file == path or file.suffix in SUFFIXES)
    faults: list[Fault] = []
    rows = [dict(row.values) for file in files for row in read_rows(file, faults)]
    if not files:
        names = ", ".join(map(str, paths))
        faults.append(Fault("A folder of claims has claim files.", "none", names, "name another"))
    if faults:
        raise ClaimsError(faults)
    return _claims_and_gold(rows)


def _rows_of_group(world: World, group: str, num_claims: int) -> list[dict[str, Any]]:
    """Rows about one group, a claim and its opposite under the same question."""
    task = make_task(world, group, 0, "search", num_claims)
    rng = np.random.default_rng(world.group_index(group))
    opening, asking, answer = (
        rng.integers(len(parts), size=num_claims // 2) for parts in (OPENINGS, ASKINGS, ANSWERS)
    )
    rows = []
    for index, (claim, label) in enumerate(zip(task.claims.claims, task.gold.labels, strict=True)):
        pair, topic = index // 2, claim.choice.split()[0].lower()
        question = f"{OPENINGS[opening[pair]]} {ASKINGS[asking[pair]]}"
        rows.append(
            {
                "question": question.format(topic=topic),
                "choice": ANSWERS[answer[pair]].format(group=claim.persona, claim=claim.choice),
                "consistency_id": claim.consistency_id,
                "persona": claim.persona,
                "label": int(label),
            }
        )
    return rows


def _claims_and_gold(rows: list[dict[str, Any]]) -> tuple[ClaimSet, np.ndarray]:
    claims, gold = claims_from_rows(rows, rule="none"), gold_from_rows(rows)
    unlabelled = np.full(len(claims), UNLABELLED, np.int8)
    return claims, unlabelled if gold is None else gold.labels
