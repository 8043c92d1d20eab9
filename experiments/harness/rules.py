"""What claims and their labels must keep: gold, hard rules, opposite pairs, one accuracy."""

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, PairRules
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.persona_world import Task


def hard_rules(claims: ClaimSet) -> PairRules:
    """The rules of the claims, none of which a search may break."""
    return claims.rules._replace(is_hard=np.ones(len(claims.rules.pairs), bool))


def require_gold(task: Task, name: str) -> None:
    """Raises unless every search claim has a gold label that keeps the claims' pair rules."""
    claims, gold = task
    faults = []
    if (gold.labels == UNLABELLED).any():
        found = f"{int((gold.labels == UNLABELLED).sum())} claims without"
        rule, remedy = "Every search claim has a gold label.", "label them, or leave them out"
        faults.append(Fault(rule, found, f"claims of {name or 'all personas'}", remedy))
    if faults:
        raise ClaimsError(faults)
    first, second = gold.labels[claims.rules.pairs].T.astype(int)
    costs = np.asarray(claims.rules.penalties)[np.arange(len(first)), first, second]
    faults = [
        Fault(
            "Gold labels keep the pair rules.",
            f"{claims.options[gold.labels[one]]} and {claims.options[gold.labels[other]]}",
            f"claims {claims.claims[one].id} and {claims.claims[other].id}",
            "correct one of them, or leave the pair out",
        )
        for one, other in np.asarray(claims.rules.pairs)[costs > 0]
    ]
    if faults:
        raise ClaimsError(faults)


def check_pairs(task: Task, name: str) -> None:
    """Raises unless the claims are opposite pairs whose gold labels say so.

    Raises:
      ClaimsError: some claims are in no pair, or in several; or gold is missing or breaks a rule.
    """
    require_gold(task, name)
    rules = task.claims.rules
    times = np.bincount(np.ravel(rules.pairs), minlength=len(task.claims))
    is_one_true = (np.asarray(rules.penalties) == [[1, 0], [0, 1]]).all() if len(rules.pairs) else 0
    if not (times == 1).all() or not is_one_true:
        found = f"{int((times != 1).sum())} of {len(times)} claims in no pair, or in several"
        rule = "Matched sets are of claims in pairs of which exactly one is true."
        remedy = "keep two opposite claims of every consistency_id, under such a rule"
        raise ClaimsError(Fault(rule, found, f"claims of {name or 'all personas'}", remedy))


def share_broken(labels: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Share of opposite pairs whose two labels are equal: int8 `[..., N]` → float64 `[...]`."""
    return (labels[..., pairs[:, 0]] == labels[..., pairs[:, 1]]).mean(-1)


def check_matched(
    labels: np.ndarray, gold: np.ndarray, pairs: np.ndarray, num_wrong: np.ndarray | int
) -> None:
    """Raises unless all sets `[..., N]` have so many wrong pairs, and one True a pair.

    Raises:
      InputError: the sets are not matched.
    """
    remedy = "report it: the moves of these chains are wrong"
    faults = []
    if not (labels[..., pairs].sum(-1) == 1).all():
        rule, found = "Matched sets have one True a pair.", "a pair that is not consistent"
        faults.append(Fault(rule, found, "matched sets", remedy))
    num_errors = (labels != gold).sum(-1)
    if not (num_errors == 2 * np.asarray(num_wrong)).all():
        rule, found = "Matched sets have one accuracy.", f"{np.unique(num_errors)} wrong labels"
        faults.append(Fault(rule, found, "matched sets", remedy))
    if faults:
        raise InputError(faults)
