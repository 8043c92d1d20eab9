"""The numbers behind a run's figures: how its search went, and how sure it is of what it found."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.runs.reading import TOKENS, RunRecord
from icmjax.search import SearchResult
from icmjax.statistics import ReliabilityBin, reliability

READ_QUANTILES = (0.1, 0.5, 0.9)


class Found(NamedTuple):
    """What a search found and how, whether it has just ended or its run was read back."""

    trace: Mapping[str, np.ndarray]  # [num_steps, ...] each
    labels: np.ndarray  # int8 [N]
    marginals: np.ndarray  # float32 [N, Y]
    diagnostics: Mapping[str, Any]
    options: Sequence[str]  # Y label options
    gold: np.ndarray  # int8 [N], UNLABELLED where it is not known
    is_held: np.ndarray  # bool [N], labels that the search was given
    group_index: np.ndarray  # int [N], consistency groups

    @property
    def confidence(self) -> np.ndarray:
        """The probability of every label that was found, float64 `[N]`."""
        rows = np.arange(len(self.labels))
        return self.marginals[rows, self.labels].astype(np.float64)

    @property
    def is_judged(self) -> np.ndarray:
        """The claims whose label was found and can be held to gold, bool `[N]`."""
        return (self.gold != UNLABELLED) & ~self.is_held


def found_by(
    result: SearchResult,
    claims: ClaimSet,
    gold: GoldLabels | None = None,
    is_held: np.ndarray | None = None,
) -> Found:
    """What a search of claims that has just ended found.

    Args:
      is_held: bool `[N]`, the labels that it was given; None for none.
    """
    return Found(
        result.trace._asdict() | {TOKENS: result.tokens},
        result.labels,
        result.marginals,
        result.diagnostics,
        claims.options,
        _gold_of(len(claims), gold),
        np.zeros(len(claims), bool) if is_held is None else is_held,
        claims.group_index,
    )


def found_in(run: RunRecord, gold: GoldLabels | None) -> Found:
    """What a run that was read back found."""
    return Found(
        run.trace,
        run.labels,
        run.marginals,
        run.summary.get("diagnostics", {}),
        run.claims.options,
        _gold_of(len(run.labels), gold),
        held_fast(run.claims, run.manifest["configuration"]),
        run.claims.group_index,
    )


def held_fast(claims: ClaimSet, configuration: Mapping[str, Any]) -> np.ndarray:
    """The claims whose labels a search was given, bool `[N]`."""
    clamped = configuration.get("clamped", {})
    return np.array([claim.id in clamped for claim in claims.claims], bool)


def _gold_of(num_claims: int, gold: GoldLabels | None) -> np.ndarray:
    return np.full(num_claims, UNLABELLED, np.int8) if gold is None else np.asarray(gold.labels)


class UtilityCurve(NamedTuple):
    """U of wholly labelled claims by what was read; of fewer claims it is not comparable."""

    used: np.ndarray  # [S], tokens or passes so far
    unit: str
    chains: np.ndarray  # [S, C], of the coldest rung where there are rungs
    best: np.ndarray  # [S], so far


def utility_curve(found: Found) -> UtilityCurve | None:
    """The curve of U; None where fewer than two steps have one."""
    trace, num_steps = found.trace, num_steps_of(found)
    if num_steps < 2:
        return None
    used, unit = used_by_step(trace)
    chains = trace["utility"].reshape(num_steps, trace["utility"].shape[1], -1)[:, :, 0]
    is_known = trace["num_labelled"].reshape(num_steps, -1).min(axis=1) == len(found.labels)
    is_known &= np.isfinite(chains).all(axis=1)
    if is_known.sum() < 2:
        return None
    used, chains = used[is_known], chains[is_known]
    if "best_utility" in trace:
        best = trace["best_utility"][is_known].max(axis=1)
    else:
        best = np.maximum.accumulate(chains.max(axis=1))
    return UtilityCurve(used, unit, chains, best)


def num_steps_of(found: Found) -> int:
    """Steps whose U the trace tells; 0 for an algorithm of a caller's own that tells none."""
    return len(found.trace.get("utility", ()))


def used_by_step(trace: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """What was read up to every step, `[num_steps]`: tokens, or passes where no run told."""
    if TOKENS in trace and trace[TOKENS].any():
        return np.cumsum(trace[TOKENS]), "tokens"
    return np.cumsum(
        trace["num_passes"].reshape(len(trace["num_passes"]), -1).sum(axis=1)
    ), "passes"


def label_shares(found: Found) -> np.ndarray | None:
    """The share of claims that have each label after every step, `[S, Y]`; None for no labels."""
    labels = found.trace.get("cold_labels", found.trace.get("labels"))  # of the coldest rung
    if labels is None:
        return None
    options = range(len(found.options))
    return np.stack([np.mean(labels == option, axis=(1, 2)) for option in options], axis=1)


def has_readings(found: Found) -> bool:
    """Whether the trace keeps what every pass said of every claim."""
    kept = found.trace.get("label_log_probs")
    return kept is not None and kept.shape[2] > 0


def readings(found: Found) -> np.ndarray:
    """What every pass said of the claims that its context did not show.

    Returns:
      float64 `[S, N]`, nats: of binary claims the log-odds of the second option, of others those of
      the label that was found against all others; NaN where a claim was shown.
    """
    logp = found.trace["label_log_probs"][:, 0].astype(np.float64)
    if logp.shape[-1] == 2:
        log_odds = logp[..., 1] - logp[..., 0]
    else:
        index = np.broadcast_to(found.labels[:, None].astype(int), (*logp.shape[:2], 1))
        own = np.take_along_axis(logp, index, axis=-1)[..., 0]
        log_odds = own - np.log(np.maximum(-np.expm1(own), 1e-300))
    shown = found.trace["labels"][:, 0] != UNLABELLED
    # In a pass that shows all claims each is read without its own label.
    is_left_out = shown.all(axis=1, keepdims=True) | ~shown
    return np.where(is_left_out, log_odds, np.nan)


def quantiles_by_pass(values: np.ndarray) -> np.ndarray:
    """The 10, 50 and 90 % quantiles of each row's numbers, `[S, 3]`; NaN for a row without any."""
    rows = [row[~np.isnan(row)] for row in values]
    nothing = np.full(len(READ_QUANTILES), np.nan)
    return np.array([np.quantile(row, READ_QUANTILES) if len(row) else nothing for row in rows])


def calibration(found: Found) -> list[ReliabilityBin]:
    """How often labels of like probability are right; empty where no gold label is known.

    Claims of a consistency group are right or wrong together, and count once in an interval.
    """
    index = np.flatnonzero(found.is_judged)
    if not len(index):
        return []
    is_right = (found.labels == found.gold)[index]
    clusters = found.group_index[index].tolist()
    return reliability(np.minimum(found.confidence[index], 1.0), is_right, clusters)
