"""The loop that drives a search: blocks of steps on device, and what the host does between them."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import Array, lax

from icmjax.arrays import on_device
from icmjax.claims import PairRules, violated_pairs
from icmjax.errors import (
    ClaimsError,
    Fault,
    Kind,
    Preempted,
    RunError,
    ScoreError,
    check_kinds,
)
from icmjax.notebooks import facts_html
from icmjax.scoring import label_log_odds, num_options_of
from icmjax.search import hosts
from icmjax.search.base import Account, Algorithm, RunStore, Scorer
from icmjax.search.progress import Progress

COLLAPSED_SHARE = 0.95
_GIVE_RULES = "give claims.rules, as of icmjax.load_claims"
BLOCK_SECONDS = 5.0  # that a block may take: progress and Ctrl-C wait for its end
# On the host, operation by operation, they would be a dozen programs each.
_log_odds, _violated = jax.jit(label_log_odds), jax.jit(violated_pairs)


class SearchResult(NamedTuple):
    """The labels that a search found, and how it found them; all arrays are numpy."""

    labels: np.ndarray  # int8 [N]
    log_odds: np.ndarray  # float32 [N], log P(True) − log P(False); own label against rest if Y > 2
    marginals: np.ndarray  # float32 [N, Y], probability of every label
    utility: float
    label_log_probs: np.ndarray  # float32 [N, Y], of every claim given all the other labels
    trace: Any  # the algorithm's Info, every field [num_steps, ...]
    tokens: np.ndarray  # int64 [num_steps], read by the scorer in each step
    diagnostics: dict[str, Any]  # plain numbers, lists of them, and `warnings` in words

    def __repr__(self) -> str:
        num_steps, num_passes = len(self.tokens), self.diagnostics.get("num_passes")
        return (
            f"SearchResult(N = {len(self.labels)}, label counts {_counts(self.labels)}, "
            f"U = {self.utility:.3f}, {num_steps} steps, {num_passes} passes)"
        )

    def _repr_html_(self) -> str:
        facts = {
            "labels": _counts(self.labels),
            "utility U": self.utility,
            "mean entropy of the marginals, nats": self.diagnostics["mean_marginal_entropy"],
            "steps": len(self.tokens),
            "tokens": f"{int(self.tokens.sum()):,}",
        }
        warnings = {f"warning {n}": text for n, text in enumerate(self.diagnostics["warnings"], 1)}
        return facts_html(f"labels of {len(self.labels)} claims", facts | warnings)


def run_search(
    scorer: Scorer,
    rules: PairRules,
    algorithm: Algorithm,
    rng_key: Array,
    *,
    clamped: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    run: RunStore | None = None,
    progress: bool = True,
    stop_fn: Callable[[], bool] | None = None,
) -> SearchResult:
    """Search for the labels of highest utility.

    No argument holds gold labels. `clamped` is for the answers of people who were asked. A
    KeyboardInterrupt goes through; the last checkpoint of `run` is whole, and a search of the same
    arguments goes on from it.

    Args:
      scorer: gives the label log-probs of N claims.
      rules: pair rules over the same N claims.
      algorithm: for example `ICM()`.
      rng_key: a typed key; the same key gives the same result, bit for bit, on the same device.
      clamped: int8 `[N]`, labels that never move, -1 where free.
      groups: int `[N]`, the consistency group of every claim, by which `ICM` draws; by default
        those that the rules tie.
      run: where to keep checkpoints; a run that has one goes on from there.
      progress: whether to tell on stderr how far it is; the logger `icmjax` is told in any case.
      stop_fn: asked before each block whether the search is to end there. Where there are several
        hosts it ends on all of them, also when JAX's preemption service tells of a SIGTERM.

    Raises:
      Preempted: the search ended as it was asked to; `run` holds all steps that it took.
      InputError: the rules are no pair rules, or the algorithm is a name or a class.
      ClaimsError: the rules or the clamped labels do not fit the claims or one another.
      ScoreError: the scorer gave a label log-prob that is not finite.
      RunError: what `run` kept is of another version.
    """
    step_key, first = start(scorer, rules, algorithm, rng_key, clamped, groups)
    rules = on_device(rules)
    restored = None if run is None else hosts.restore(run, first)
    state, blocks, account = (first, [], Account(0, 0.0)) if restored is None else restored
    state = _copied(state)  # because the blocks donate it
    tokens_of = TokenCounter(algorithm, scorer)
    tokens = [tokens_of(_info_of(algorithm, block)) for block in blocks]
    num_steps = sum(map(len, tokens))
    earlier_seconds, started = account.seconds, time.perf_counter()
    pace = Pace(algorithm.block_size)

    with Progress(
        algorithm.num_steps(scorer.num_claims),
        num_steps,
        account.num_tokens,
        algorithm.expected_tokens(scorer),
        progress,
    ) as told:
        while not np.all(algorithm.is_finished(state)):
            if hosts.is_asked_to_stop(stop_fn):
                raise Preempted(num_steps)
            with pace.block(num_steps) as size:
                block = jnp.int32(num_steps), jnp.int32(size)
                state, info = run_block(step_key, state, scorer, rules, *block, algorithm=algorithm)
                host_state = jax.tree.map(np.array, state)
            check_scores(host_state.is_nonfinite)
            num_taken = int(host_state.num_steps.max()) - num_steps
            info = algorithm.info_type(*(np.array(field)[:num_taken] for field in info))
            num_steps += num_taken
            tokens.append(tokens_of(info))
            account = Account(
                num_tokens=account.num_tokens + int(tokens[-1].sum()),
                seconds=earlier_seconds + time.perf_counter() - started,
            )
            blocks.append(info._asdict())
            if run is not None:
                run.save(host_state, info, num_steps, account)
            told.update(num_steps, account.num_tokens, _describe(info))

    return make_result(
        algorithm, jax.tree.map(np.array, state), blocks, np.concatenate(tokens), account
    )


@jax.jit
def _copied(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)


def _info_of(algorithm: Algorithm, block: dict[str, np.ndarray]) -> Any:
    """The Info of steps that an earlier session kept.

    Raises:
      RunError: it has other fields than today's.
    """
    if block.keys() != set(algorithm.info_type._fields):  # type: ignore[attr-defined]
        rule = "The steps of a search have the fields that they have today."
        remedy = "complete it with the version of icmjax that began it, or start anew"
        found = ", ".join(sorted(block.keys() ^ set(algorithm.info_type._fields)))  # type: ignore[attr-defined]
        raise RunError(Fault(rule, f"one of the two has {found} alone", "its checkpoints", remedy))
    return algorithm.info_type(**block)


def start(
    scorer: Scorer,
    rules: PairRules,
    algorithm: Algorithm,
    rng_key: Array,
    clamped: np.ndarray | None,
    groups: np.ndarray | None = None,
) -> tuple[Array, Any]:
    """The key of a search's steps and its first state; raises as `run_search` does."""
    check_kinds(
        rules=Kind(rules, isinstance(rules, PairRules), "the pair rules of claims", _GIVE_RULES),
        algorithm=kind_of_algorithm(algorithm),
    )
    num_claims = scorer.num_claims
    unlabelled = np.full((num_claims,), -1, np.int8)
    clamped = unlabelled if clamped is None else np.asarray(clamped)
    num_options = num_options_of(scorer)
    _validate(rules, clamped, groups, num_claims, num_options)
    init_key, step_key = jax.random.split(rng_key)
    state = algorithm.init(
        init_key, rules, clamped.astype(np.int8), num_options=num_options, groups=groups
    )
    return step_key, state


def kind_of_algorithm(algorithm: Any) -> Kind:
    """Whether it is an algorithm, and not its name or its class."""
    is_right = hasattr(algorithm, "step") and not isinstance(algorithm, type)
    name = algorithm.__name__ if isinstance(algorithm, type) else "Marginals"
    return Kind(algorithm, is_right, "an algorithm with its settings", f"give icmjax.{name}()")


def make_result(
    algorithm: Algorithm,
    state: Any,
    blocks: Sequence[dict[str, np.ndarray]],
    tokens: np.ndarray,
    account: Account,
) -> SearchResult:
    """What a finished search found, from its last state and its Info by block, all numpy."""
    trace = algorithm.info_type(
        **{name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    )
    labelling, marginals, diagnostics = algorithm.finish(state, trace)
    labels, logp = np.asarray(labelling.labels), np.asarray(labelling.label_log_probs)
    shares = np.bincount(labels, minlength=logp.shape[-1]) / len(labels)
    diagnostics |= {
        "label_shares": shares.tolist(),
        "is_collapsed": bool(shares.max() > COLLAPSED_SHARE),
        "warnings": [*diagnostics.get("warnings", []), *_warnings(shares)],
        "mean_marginal_entropy": mean_entropy(marginals),
        "num_tokens": account.num_tokens,
        "seconds": account.seconds,
    }
    return SearchResult(
        labels=labels,
        log_odds=log_odds_of(logp, labels),
        marginals=marginals,
        utility=float(labelling.utility),
        label_log_probs=logp,
        trace=trace,
        tokens=tokens,
        diagnostics=diagnostics,
    )


def take_block(
    rng_key: Array,
    state: Any,
    scorer: Scorer,
    rules: PairRules,
    first_step: Array,
    num_steps: Array,
    *,
    algorithm: Algorithm,
) -> tuple[Any, Any]:
    """Some steps; step n has the key of its number, whatever block it falls in.

    One program serves blocks of every length, since their length is data: Info has `block_size`
    rows, of which the first `num_steps` are written. The last block may be longer than what is left
    to do, since a step of a finished state is the identity.

    Args:
      first_step: int32 `[]`, the number of the first step.
      num_steps: int32 `[]`, up to the algorithm's `block_size`.
    """

    # Traced once, for the shapes of Info and for the program.
    @jax.jit
    def step(state: Any, n: Array) -> tuple[Any, Any]:
        return algorithm.step(jax.random.fold_in(rng_key, n), state, scorer, rules)

    def take(i: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, infos = carry
        state, info = step(state, first_step + i)
        write = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=0)
        return state, jax.tree.map(write, infos, info)

    _, info = jax.eval_shape(step, state, first_step)
    rows = jax.tree.map(lambda x: jnp.zeros((algorithm.block_size, *x.shape), x.dtype), info)
    return lax.fori_loop(jnp.int32(0), num_steps, take, (state, rows))


run_block = jax.jit(take_block, static_argnames="algorithm", donate_argnames="state")


class Pace:
    """How many steps the next block takes: as many as fill some seconds, by those of the last one.

    A block takes at most twice the steps of the one before it, and none reaches over a multiple of
    the block size: one step that costs much more than those before it costs little waiting. The
    slowest host sets the pace of all.

    Args:
      block_size: the most steps of a block.
      seconds: that a block may take.
    """

    def __init__(self, block_size: int, seconds: float = BLOCK_SECONDS) -> None:
        self.block_size, self.seconds = block_size, seconds
        self.size = 1

    @contextlib.contextmanager
    def block(self, num_steps: int) -> Iterator[int]:
        """The length of the block after `num_steps` steps; the time inside of it is taken."""
        size = min(self.size, self.block_size - num_steps % self.block_size)
        started = time.perf_counter()
        yield size
        per_step = (time.perf_counter() - started) / size
        fitting = int(self.seconds / max(per_step, 1e-9))
        self.size = hosts.least(max(1, min(2 * self.size, fitting, self.block_size)))


class TokenCounter:
    """Counts the tokens that the steps of a search read; on the host.

    Labellings that label the same claims count alike, so that few are looked at: exact where all
    label options have as many tokens.
    """

    def __init__(self, algorithm: Algorithm, scorer: Scorer) -> None:
        self._tokens_fn = functools.partial(algorithm.tokens_per_pass, scorer)
        self._scored_labels = algorithm.scored_labels
        self._known: dict[bytes, int] = {}

    def __call__(self, info: Any) -> np.ndarray:
        """Tokens of each of S steps, int64 `[S]`, by their Info (numpy)."""
        labels, num_passes = self._scored_labels(info)
        tokens = np.zeros(num_passes.shape, np.int64)
        for index in zip(*np.nonzero(num_passes), strict=True):
            key = (labels[index] >= 0).tobytes()
            if key not in self._known:
                self._known[key] = self._tokens_fn(labels[index])
            tokens[index] = num_passes[index] * self._known[key]
        return tokens.reshape(len(tokens), -1).sum(axis=1)


def _describe(info: Any) -> dict[str, str]:
    known = info.utility[-1][np.isfinite(info.utility[-1])]
    return {"U": f"{known.max():.3f}"} if known.size else {}


def _counts(labels: np.ndarray) -> str:
    """How many claims have each of the commonest labels."""
    values, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts)
    shown = [f"{values[i]}: {counts[i]}" for i in order[:4]]
    return ", ".join([*shown, "..."] if len(order) > 4 else shown)


def _warnings(shares: np.ndarray) -> list[str]:
    """What a reader of the labels should know, in sentences."""
    warnings = []
    if shares.max() > COLLAPSED_SHARE:
        warnings.append(
            f"{shares.max():.0%} of the labels are the same one: the search may have collapsed. "
            "Declare a pair rule (--rule), or let --algorithm marginals take off what the model "
            "says of all claims (--bias clusters, or --balance where the share of true is known)."
        )
    return warnings


def mean_entropy(marginals: np.ndarray) -> float:
    """Mean entropy of rows of probabilities `[N, Y]`, nats."""
    return float(scipy.special.entr(np.asarray(marginals, np.float64)).sum(axis=-1).mean())


def log_odds_of(logp: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What a result says of labels int8 `[N]` with log-probs `[N, Y]`: float32 `[N]`, nats.

    log P(True) − log P(False) of two options; of more, the own label against all others.
    """
    odds = np.asarray(_log_odds(logp))
    if logp.shape[-1] == 2:
        return odds[:, 1]
    return np.take_along_axis(odds, labels[:, None].astype(np.int64), axis=-1)[:, 0]


def check_scores(is_nonfinite: np.ndarray) -> None:
    """Raise a ScoreError for the claims, bool `[..., N]`, whose scores were not finite."""
    claims = np.flatnonzero(is_nonfinite.reshape(-1, is_nonfinite.shape[-1]).any(axis=0))
    if claims.size:
        raise ScoreError(
            [
                Fault(
                    rule="Every label log-prob must be a finite number.",
                    found="NaN or infinity",
                    where=f"the scores of claim {claim}",
                    remedy="load the model in a wider dtype, or look at this claim's text",
                )
                for claim in claims
            ]
        )


def _validate(
    rules: PairRules,
    clamped: np.ndarray,
    groups: np.ndarray | None,
    num_claims: int,
    num_options: int,
) -> None:
    faults = []
    if groups is not None and np.shape(groups) != (num_claims,):
        faults.append(
            Fault(
                rule="Every claim has a consistency group.",
                found=f"groups {np.shape(groups)}, {num_claims} claims",
                where="groups",
                remedy="give a whole number for each claim, the same within a group",
            )
        )
    pairs = np.asarray(rules.pairs)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= num_claims):
        faults.append(
            Fault(
                rule="A pair rule ties two of the claims that are scored.",
                found=f"claims {pairs.min()} to {pairs.max()} in the rules, {num_claims} claims",
                where="rules.pairs",
                remedy="make the scorer and the rules from the same claims",
            )
        )
    if np.shape(rules.penalties)[1:] != (num_options, num_options):
        faults.append(
            Fault(
                rule="A pair rule has a penalty for every two label options.",
                found=f"penalties {np.shape(rules.penalties)}, {num_options} label options",
                where="rules.penalties",
                remedy="make the scorer and the rules from the same claims",
            )
        )
    if clamped.shape != (num_claims,) or not np.issubdtype(clamped.dtype, np.integer):
        faults.append(
            Fault(
                rule="Clamped labels are integers, one for each claim, -1 where free.",
                found=f"{clamped.dtype} {clamped.shape}, {num_claims} claims",
                where="clamped",
                remedy="give an int8 array with one entry for each claim",
            )
        )
    elif clamped.min() < -1 or clamped.max() >= num_options:
        faults.extend(
            Fault(
                rule=f"A clamped label is one of 0 to {num_options - 1}, or -1 for a free claim.",
                found=str(clamped[claim]),
                where=f"clamped, claim {claim}",
                remedy="map this answer to a label option",
            )
            for claim in np.flatnonzero((clamped < -1) | (clamped >= num_options))
        )
    elif clamped.min() >= 0:
        faults.append(
            Fault(
                rule="A search needs a claim whose label is free.",
                found=f"all {num_claims} claims clamped",
                where="clamped",
                remedy="score these labels by `icmjax.utility`, or free some of them",
            )
        )
    if not faults:
        is_broken = np.asarray(_violated(clamped.astype(np.int8), rules))
        faults = [
            Fault(
                rule="Clamped labels keep the hard pair rules.",
                found=f"labels {clamped[i]} and {clamped[j]}",
                where=f"clamped, claims {i} and {j}",
                remedy="clamp only one of the two, or correct its label",
            )
            for i, j in pairs[is_broken & np.asarray(rules.is_hard)]
        ]
    if faults:
        raise ClaimsError(faults)
