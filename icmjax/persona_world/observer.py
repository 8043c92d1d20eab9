"""The Bayes observer of the survey world: the best that anyone can predict of a label.

The posterior predictive of a claim's label given other labelled claims and the header, under the
very model that `transcripts` draws from. Styles, sources and errors are summed over exactly;
values that the header leaves open are particles from their prior, scrambled Sobol points (Owen
1998), which the labels weight. It is the ceiling of every method on the world's tasks.

An item is a topic at a strength. A claim and its opposite are about one item, and the respondent's
answer to it, endorsed or not, is one answer with one error wherever the style answers by item.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from icmjax.claims import BINARY_OPTIONS, UNLABELLED, ClaimSet
from icmjax.errors import Fault, InputError
from icmjax.persona_world import text
from icmjax.persona_world.config import Source, Style
from icmjax.persona_world.world import World
from icmjax.scoring import Leave

BATCH_SIZE = 32  # labellings in memory at a time; changes memory and speed, not scores


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ObserverScorer:
    """Label log-probs of every claim given all the other labelled claims.

    A pytree, to be called inside or outside jit; make one by `make_observer_scorer`. S is the
    number of sources that the header leaves open, P of particles, J of items.
    """

    items: jax.Array  # int32 [N], the item of each claim, below J
    is_reversed: jax.Array  # bool [N]
    is_left_out: jax.Array  # bool [N, N]: query i does not read claim j; both are about one item
    is_endorsed: jax.Array  # bool [S, P, J], by the values of each particle
    log_sources: jax.Array  # float32 [S], prior of each source given the header
    log_errors: jax.Array  # float32 [S], of an answer that is not the one by values
    log_corrects: jax.Array  # float32 [S], of the one by values
    log_styles: jax.Array  # float32 [5], prior of each `Style`

    @property
    def num_claims(self) -> int:
        """N."""
        return self.items.shape[0]

    @property
    def num_options(self) -> int:
        """Y, which is 2."""
        return len(BINARY_OPTIONS)

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Label log-probs in nats: int8 `[..., N]` → float32 `[..., N, Y]`.

        A label that the others rule out has −inf, which takes a world without random respondents;
        where the others alone are impossible in the world, both labels have −log 2.
        """
        return _score(self, jnp.asarray(labels))

    def is_read(self) -> np.ndarray:
        """Whether query i may read claim j: bool `[N, N]`."""
        return ~np.asarray(self.is_left_out)

    def demonstration_orders(self) -> np.ndarray:
        """The given order, int32 `[N, N - 1]`, -1 after the last; no order changes a score."""
        orders = np.full((self.num_claims, self.num_claims - 1), -1, np.int32)
        for query, is_read in enumerate(self.is_read()):
            others = np.flatnonzero(is_read)
            orders[query, : len(others)] = others
        return orders

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """None: the observer reads answers, not tokens."""
        del labels
        return 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ObserverSteerer:
    """Label log-probs of held-out claims given labelled demonstrations, as of `Steerer`."""

    scorer: ObserverScorer  # of the N demonstrations and then the M queries
    num_demonstrations: int = dataclasses.field(metadata={"static": True})

    def __call__(self, labels: jax.Array, orders: jax.Array | None = None) -> jax.Array:
        """Label log-probs in nats: int8 `[..., N]` → float32 `[..., M, Y]`; no order matters."""
        del orders
        labels = jnp.asarray(labels)
        num_queries = self.scorer.num_claims - self.num_demonstrations
        unlabelled = jnp.full((*labels.shape[:-1], num_queries), UNLABELLED, labels.dtype)
        logp = self.scorer(jnp.concatenate([labels, unlabelled], axis=-1))
        return logp[..., self.num_demonstrations :, :]


def make_observer_scorer(
    world: World,
    claims: ClaimSet,
    knows_groups: bool = True,
    leave: Leave = "claim",
    num_particles: int = 2048,
    seed: int = 0,
) -> ObserverScorer:
    """The observer of claims about one respondent, whom `claims.preamble` may name.

    Args:
      knows_groups: whether the observer knows the values of named groups; else it takes every
        group for a new one. Groups that no transcript names are new to either.
      leave: what a query does not read: the claim itself, or its whole consistency group.
      num_particles: for each zone, or for the members of a known group; a power of two.
      seed: of the particles.

    Raises:
      InputError: the preamble is no header or a claim no claim of the world, a consistency group
        that is left out spans several items, or an argument is not usable.
    """
    faults = [*_argument_faults(num_particles), *_option_faults(claims)]
    if leave not in ("claim", "group"):
        remedy = "choose one of them"
        faults.append(Fault("leave is one of claim, group.", repr(leave), "leave", remedy))
    header = _read_header(world, claims.preamble, faults)
    parts = _read_claims(world, claims, "claims", faults)
    if leave == "group" and not faults:
        faults += _group_faults(claims, parts)
    if faults:
        raise InputError(faults)
    groups = claims.group_index if leave == "group" else np.arange(len(claims))
    return _make_scorer(world, header, parts, groups, knows_groups, num_particles, seed)


def make_observer_steerer(
    world: World,
    demonstrations: ClaimSet,
    queries: ClaimSet,
    knows_groups: bool = True,
    num_particles: int = 2048,
    seed: int = 0,
) -> ObserverSteerer:
    """The observer of held-out claims; arguments as of `make_observer_scorer`.

    Raises:
      InputError: as there, or demonstrations and queries have different preambles.
    """
    faults = _argument_faults(num_particles)
    for claims in (demonstrations, queries):
        faults += _option_faults(claims)
    if demonstrations.preamble != queries.preamble:
        faults.append(
            Fault(
                "Demonstrations and queries have the same preamble.",
                f"{demonstrations.preamble!r} and {queries.preamble!r}",
                "preamble",
                "evaluate on claims of the same kind",
            )
        )
    header = _read_header(world, demonstrations.preamble, faults)
    parts = _read_claims(world, demonstrations, "demonstrations", faults)
    parts += _read_claims(world, queries, "queries", faults)
    if faults:
        raise InputError(faults)
    groups = np.arange(len(parts))
    scorer = _make_scorer(world, header, parts, groups, knows_groups, num_particles, seed)
    return ObserverSteerer(scorer, len(demonstrations))


class _Header(NamedTuple):
    source: Source | None  # None where it is not said
    group: int | None  # index in `World.group_values`; None where it is not said


class _ClaimParts(NamedTuple):
    topic: int
    strength: int
    is_reversed: bool


def _argument_faults(num_particles: int) -> list[Fault]:
    if num_particles < 1 or num_particles & (num_particles - 1):
        rule = "The number of particles is a power of two, as Sobol points are balanced there."
        return [Fault(rule, str(num_particles), "num_particles", "choose for example 2048")]
    return []


def _option_faults(claims: ClaimSet) -> list[Fault]:
    if claims.options != BINARY_OPTIONS:
        rule = "Claims of the world are False or True."
        return [Fault(rule, repr(claims.options), "options", "leave the options out")]
    return []


def _group_faults(claims: ClaimSet, parts: Sequence[_ClaimParts]) -> list[Fault]:
    rule = "A consistency group that is left out is about one item, a topic at a strength."
    remedy = 'leave out the claim alone (leave="claim"), or give each item its own consistency_id'
    faults = []
    for members in claims.groups:
        items = {parts[member][:2] for member in members}
        if len(items) > 1:
            first = claims.claims[members[0]]
            found = f"{len(items)} items in {first.consistency_id!r}"
            faults.append(Fault(rule, found, f"claims:{first.id}:consistency_id", remedy))
    return faults


def _read_header(world: World, preamble: str, faults: list[Fault]) -> _Header:
    """What the preamble says; adds a fault where it is no header of this world."""
    parts = text.parse_header(preamble.strip())
    source, group = parts or (None, None)
    if parts is None or group not in (None, *world.group_names):
        faults.append(
            Fault(
                "A preamble of the world is a header, or nothing.",
                repr(preamble),
                "preamble",
                f"write for example {text.header(Source.NATIONAL, world.group_names[0])!r}",
            )
        )
        return _Header(None, None)
    return _Header(source, None if group is None else world.group_names.index(group))


def _read_claims(
    world: World, claims: ClaimSet, where: str, faults: list[Fault]
) -> list[_ClaimParts]:
    """The parts of each claim; adds a fault for every one that is no claim of this world."""
    read = []
    for claim in claims.claims:
        parts = text.parse_claim(claim.choice.strip())
        if parts is None or parts[0] >= world.config.num_topics:
            example = text.claim_text(0, 0, False)
            faults.append(
                Fault(
                    "A claim of the world is one of its topics with one of its wordings.",
                    f"{claim.choice!r:.80}",
                    f"{where}:{claim.id}:choice",
                    f"write for example {example!r}",
                )
            )
        else:
            read.append(_ClaimParts(*parts))
    return read


def _make_scorer(
    world: World,
    header: _Header,
    parts: Sequence[_ClaimParts],
    groups: np.ndarray,
    knows_groups: bool,
    num_particles: int,
    seed: int,
) -> ObserverScorer:
    config = world.config
    sources = list(Source) if header.source is None else [header.source]
    shares = np.asarray(config.source_shares)[sources]
    errors = np.asarray(config.source_errors)[sources]
    is_known = knows_groups and header.group is not None and header.group < config.num_groups
    group = header.group if is_known else None
    values = [_draw_values(world, source, group, num_particles, seed) for source in sources]
    topics, strengths, is_reversed = (np.array(field) for field in zip(*parts, strict=True))
    distinct, items = np.unique(np.stack([topics, strengths]), axis=1, return_inverse=True)
    endorsed = world.margins(np.stack(values))[..., distinct[0], distinct[1]] > 0
    if header.source is not None:
        shares = np.ones(1)
    # Finite where errors never happen, so that penalties stay numbers; e^-708 is 0 in float32.
    log_errors = np.log(np.maximum(errors, np.finfo(np.float64).tiny))
    with np.errstate(divide="ignore"):
        log_sources, log_styles = np.log(shares), np.log(config.style_shares)
    return ObserverScorer(
        items=jnp.asarray(items.ravel(), jnp.int32),
        is_reversed=jnp.asarray(is_reversed),
        is_left_out=jnp.asarray(groups[:, None] == groups[None, :]),
        is_endorsed=jnp.asarray(endorsed),
        log_sources=jnp.asarray(log_sources, jnp.float32),
        log_errors=jnp.asarray(log_errors, jnp.float32),
        log_corrects=jnp.asarray(np.log1p(-errors), jnp.float32),
        log_styles=jnp.asarray(log_styles, jnp.float32),
    )


def _draw_values(
    world: World, source: Source, group: int | None, num_particles: int, seed: int
) -> np.ndarray:
    """Particles from the prior of a respondent's values: float64 `[P, K]`.

    Args:
      group: the group whose values are known; None for a new one of any zone.
    """
    config = world.config
    is_individual = source == Source.INDIVIDUAL
    if group is not None and not is_individual:
        return world.group_values[[group]]
    centers = world.zone_values if group is None else world.group_values[[group]]
    group_scale = config.group_scale if group is None else 0.0
    scale = np.hypot(group_scale, config.individual_scale if is_individual else 0.0)
    rng = np.random.default_rng(seed)
    origin = np.zeros(config.num_dimensions)
    draws = [qmc.MultivariateNormalQMC(origin, rng=rng).random(num_particles) for _ in centers]
    return (centers[:, None] + scale * np.stack(draws)).reshape(-1, config.num_dimensions)


class _Evidence(NamedTuple):
    """What labels say, with what each query may not read taken out. Answer 1 is "endorsed"."""

    is_answered: jax.Array  # bool [J, 2]: some claim gives this answer to the item
    is_possible: jax.Array  # bool [N, 2]: no claim read by the query rules out this answer by item
    num_items: jax.Array  # float32 [N], answered items besides the query's own
    num_labels: jax.Array  # float32 [N, 2], False and True labels that the query reads


def _read_labels(scorer: ObserverScorer, labels: jax.Array) -> _Evidence:
    """The evidence in labels int8 `[N]`."""
    items, is_left_out = scorer.items, scorer.is_left_out.astype(jnp.float32)
    said = (labels[:, None] == jnp.arange(2, dtype=labels.dtype)).astype(jnp.float32)
    answers = _swap(scorer, said)
    by_item = jax.ops.segment_sum(answers, items, scorer.is_endorsed.shape[-1])
    is_answered = by_item > 0
    is_in_conflict = is_answered.all(-1)
    read_of_item = by_item[items] - jnp.dot(is_left_out, answers, precision="highest")
    num_conflicts = is_in_conflict.sum(dtype=jnp.int32)
    is_consistent = num_conflicts == is_in_conflict[items].astype(jnp.int32)
    num_answered = is_answered.any(-1).astype(jnp.float32)
    return _Evidence(
        is_answered=is_answered,
        is_possible=is_consistent[:, None] & (read_of_item[:, ::-1] == 0),
        num_items=num_answered.sum() - num_answered[items],
        num_labels=said.sum(0) - jnp.dot(is_left_out, said, precision="highest"),
    )


def _swap(scorer: ObserverScorer, by_label: jax.Array) -> jax.Array:
    """From labels to answers, or back: `[N, 2]`, reversed claims the other way round."""
    return jnp.where(scorer.is_reversed[:, None], by_label[:, ::-1], by_label)


def _log_answers(
    scorer: ObserverScorer, agreement: jax.Array, is_answered: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """How well each answer to each item goes with the answers to all other items, by values.

    With d errors under a particle its likelihood is (1 − ε)^(n − d) ε^d: d is a small integer and
    so exact in float32, and one product of weights and endorsements serves all items.

    Args:
      agreement: float32 `[S, P, J, 2]`, 1 where the particle's values give the answer.

    Returns:
      float32 `[S, J, 2]` relative to float32 `[S, J]`, up to (1 − ε)^(n of other items).
    """
    answered, is_contrary = is_answered.astype(jnp.float32), is_answered[:, ::-1]
    num_errors = jnp.einsum("spja,ja->sp", agreement, answered[:, ::-1], precision="highest")
    penalty = (scorer.log_corrects - scorer.log_errors)[:, None]
    fewest = num_errors.min(-1, keepdims=True)
    weights = jnp.exp(-penalty * (num_errors - fewest))
    # Where the answer of the item left out was an error, one fewer remains.
    one_fewer = jnp.exp(-penalty * jnp.maximum(num_errors - jnp.maximum(fewest, 1.0), 0.0))
    one_fewer = jnp.where(num_errors > 0, one_fewer, 0.0)
    stacked = jnp.stack([weights, one_fewer], axis=1)
    mass = jnp.einsum("swp,spja->wsja", stacked, agreement, precision="highest")
    mass = mass / num_errors.shape[1]
    # Whole errors are counted apart from the rest, so that ε = 0 rounds nothing away either.
    has_fewer = (is_contrary & (mass[1] > 0)).any(-1).astype(jnp.float32)
    num_fewer = jnp.minimum(fewest, 1.0)
    num_spared = num_fewer * has_fewer
    by_values = jnp.log(jnp.where(is_contrary, mass[1], mass[0])) - penalty[..., None] * (
        num_spared[..., None] - jnp.where(is_contrary, num_fewer[..., None], 0.0)
    )
    log_corrects, log_errors = (
        field[:, None, None] for field in (scorer.log_corrects, scorer.log_errors)
    )
    log_answers = jnp.logaddexp(by_values + log_corrects, by_values[..., ::-1] + log_errors)
    return log_answers, -penalty * (fewest - num_spared)


def _score_one(scorer: ObserverScorer, agreement: jax.Array, labels: jax.Array) -> jax.Array:
    """Label log-probs under one labelling: int8 `[N]` → float32 `[N, 2]`."""
    evidence = _read_labels(scorer, labels)
    log_answers, log_fit = _log_answers(scorer, agreement, evidence.is_answered)
    log_half, impossible = -jnp.log(2.0), -jnp.inf
    coins = jnp.full((scorer.num_claims, 2), log_half)
    is_possible = _swap(scorer, evidence.is_possible)
    num_false, num_true = evidence.num_labels.T

    # Per hypothesis: the log-likelihood of what the query reads [N], and of its label [N, 2].
    hypotheses = [
        (
            scorer.log_styles[Style.SUBSTANTIVE]
            + scorer.log_sources[source]
            + log_fit[source, scorer.items]
            + evidence.num_items * scorer.log_corrects[source],
            jnp.where(is_possible, _swap(scorer, log_answers[source, scorer.items]), impossible),
        )
        for source in range(agreement.shape[0])
    ]
    hypotheses += [
        (
            scorer.log_styles[Style.UNCONSTRAINED] + evidence.num_items * log_half,
            jnp.where(is_possible, coins, impossible),
        ),
        (scorer.log_styles[Style.RANDOM] + (num_false + num_true) * log_half, coins),
        (
            scorer.log_styles[Style.ALWAYS_TRUE] + jnp.where(num_false == 0, 0.0, impossible),
            jnp.broadcast_to(jnp.array([impossible, 0.0]), coins.shape),
        ),
        (
            scorer.log_styles[Style.ALWAYS_FALSE] + jnp.where(num_true == 0, 0.0, impossible),
            jnp.broadcast_to(jnp.array([0.0, impossible]), coins.shape),
        ),
    ]
    log_read, log_label = (jnp.stack(terms, axis=1) for terms in zip(*hypotheses, strict=True))
    # Taken off first, the large common part of the likelihoods rounds nothing away.
    common = log_read.max(axis=1, keepdims=True)
    log_read = log_read - jnp.where(jnp.isfinite(common), common, 0.0)
    joint = jax.nn.logsumexp(log_read[..., None] + log_label, axis=1)
    is_possible_at_all = jnp.isfinite(joint).any(-1, keepdims=True)
    return jax.nn.log_softmax(jnp.where(is_possible_at_all, joint, 0.0))


@jax.jit
def _score(scorer: ObserverScorer, labels: jax.Array) -> jax.Array:
    flat = labels.reshape(-1, scorer.num_claims)
    agreement = jnp.stack([~scorer.is_endorsed, scorer.is_endorsed], axis=-1).astype(jnp.float32)
    logp = jax.lax.map(
        lambda labels: _score_one(scorer, agreement, labels),
        flat,
        batch_size=min(BATCH_SIZE, flat.shape[0]),
    )
    return logp.reshape(*labels.shape, scorer.num_options)
