"""What every search algorithm, scorer and checkpoint store agrees on."""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.claims import PairRules, violated_pairs
from icmjax.errors import Fault, InputError
from icmjax.scoring import Objective, utility

T = TypeVar("T")


class Scorer(Protocol):
    """A pytree that gives the leave-one-out label log-probs of N claims; pure and traceable."""

    @property
    def num_claims(self) -> int:
        """N."""
        ...

    def __call__(self, labels: Array) -> Array:
        """Label log-probs, int8 `[..., N]` → float32 `[..., N, Y]`, in nats."""
        ...

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Tokens that one scoring of `labels`, int8 `[N]`, reads; on the host."""
        ...


class Labelling(NamedTuple):
    """Labels and all that one scoring pass says about them."""

    labels: Array  # int8 [..., N]
    label_log_probs: Array  # float32 [..., N, Y], given these labels, in nats
    utility: Array  # float32 [...]
    num_violated: Array  # int32 [...], violated pairs, soft and hard
    num_hard_violated: Array  # int32 [...]


def score_labels(
    labels: Array, scorer: Scorer, rules: PairRules, alpha: float, objective: Objective
) -> Labelling:
    """Score labels, int8 `[..., N]`, by one pass."""
    return labelling_of(labels, scorer(labels), rules, alpha, objective)


def labelling_of(
    labels: Array, label_log_probs: Array, rules: PairRules, alpha: float, objective: Objective
) -> Labelling:
    """Labels, int8 `[..., N]`, with what a pass said of them, float32 `[..., N, Y]`."""
    is_violated = violated_pairs(labels, rules)
    return Labelling(
        labels=labels,
        label_log_probs=label_log_probs,
        utility=utility(label_log_probs, labels, rules, alpha, objective),
        num_violated=jnp.sum(is_violated, axis=-1, dtype=jnp.int32),
        num_hard_violated=jnp.sum(is_violated & rules.is_hard, axis=-1, dtype=jnp.int32),
    )


def gain(new: Labelling, old: Labelling) -> Array:
    """U(new) − U(old), float32 `[...]`, where breaking a hard rule costs infinitely much.

    ±inf where the two differ in the number of violated hard pairs.
    """
    hard = new.num_hard_violated - old.num_hard_violated
    difference = new.utility - old.utility
    return jnp.where(hard < 0, jnp.inf, jnp.where(hard > 0, -jnp.inf, difference))


def select(is_new: Array, new: Any, old: Any) -> Any:
    """The new pytree where `is_new`, bool `[...]`, else the old one; leaves lead with its axes."""

    def choose(new: Array, old: Array) -> Array:
        condition = is_new.reshape(is_new.shape + (1,) * (new.ndim - is_new.ndim))
        return jnp.where(condition, new, old)

    return jax.tree.map(choose, new, old)


def acceptance_probability(log_ratio: Array) -> Array:
    """min(1, exp(log_ratio)), the probability that `metropolis_accept` says yes."""
    return jnp.exp(jnp.minimum(log_ratio, 0))


def metropolis_accept(rng_key: Array, log_ratio: Array) -> Array:
    """True with probability min(1, exp(log_ratio)); NaN is never accepted."""
    uniform = jax.random.uniform(rng_key, log_ratio.shape, log_ratio.dtype)
    return (log_ratio > 0) | (uniform < jnp.exp(log_ratio))


def unscored(labels: Array, num_options: int) -> Labelling:
    """Labels int8 `[..., N]` as a `Labelling` whose other fields await its first pass."""
    zeros = jnp.zeros(labels.shape[:-1], jnp.int32)
    return Labelling(
        labels=labels,
        label_log_probs=jnp.zeros((*labels.shape, num_options), jnp.float32),
        utility=zeros.astype(jnp.float32),
        num_violated=zeros,
        num_hard_violated=zeros,
    )


def unless_finished(
    is_finished: Array, step_fn: Callable[[Any], tuple[Any, Any]], state: Any
) -> tuple[Any, Any]:
    """The step of a state, or the state itself and an Info of zeros, computing nothing."""
    step_fn = jax.jit(step_fn)  # traced once, for its shapes and for its program
    _, info = jax.eval_shape(step_fn, state)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), info)
    return lax.cond(is_finished, lambda state: (state, zeros), step_fn, state)


def check_ranges(config: Any, ranges: Mapping[str, tuple[bool, str]]) -> None:
    """Raise for all fields of a config that are out of their range at once.

    Args:
      ranges: by field, whether its value is valid, and the range in words.

    Raises:
      InputError: some field is out of its range.
    """
    faults = [
        Fault(
            rule=f"`{name}` must be {rule}.",
            found=repr(getattr(config, name)),
            where=f"{type(config).__name__}({name}=...)",
            remedy=f"give `{name}` a value in that range",
        )
        for name, (is_valid, rule) in ranges.items()
        if not is_valid
    ]
    if faults:
        raise InputError(faults)


def names_fields(config: type[T]) -> type[T]:
    """A dataclass that says which fields it has where it is given one that it has not."""
    own_init = config.__init__
    known = sorted(inspect.signature(config).parameters)

    @functools.wraps(own_init)
    def init(self: T, *args: Any, **fields: Any) -> None:
        faults = [
            _no_such_field(config.__name__, name, fields[name], known)
            for name in sorted(fields.keys() - set(known))
        ]
        if faults:
            raise InputError(faults)
        own_init(self, *args, **fields)

    config.__init__ = init  # type: ignore[method-assign, assignment]
    return config


def _no_such_field(config: str, name: str, value: Any, known: Sequence[str]) -> Fault:
    near = difflib.get_close_matches(name, known, n=1)
    asked = f"did you mean {near[0]}? " if near else ""
    return Fault(
        f"A field that is set is one of {config}.",
        f"{name} = {value!r}",
        f"{config}({name}=...)",
        f"{asked}choose of {', '.join(known)}",
    )


def field_names(config: Any) -> set[str]:
    """The names of a config's fields and of those of its parts."""
    names: set[str] = set()
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        names |= field_names(part) if dataclasses.is_dataclass(part) else {field.name}
    return names


def with_fields(config: Any, **values: Any) -> Any:
    """A config with other values of some of its fields, or of those of its parts, by their names.

    Args:
      config: a frozen dataclass; its parts are those of its fields that are dataclasses.
      values: by field.

    Raises:
      InputError: there is no such field, or values are out of their range; all faults found.
    """
    own: dict[str, Any] = {}
    faults = [
        _no_such_field(type(config).__name__, name, values[name], sorted(field_names(config)))
        for name in sorted(values.keys() - field_names(config))
    ]
    for field in dataclasses.fields(config):
        part = getattr(config, field.name)
        if field.name in values:
            own[field.name] = values[field.name]
        elif dataclasses.is_dataclass(part):
            names = field_names(part) & values.keys()
            try:
                own[field.name] = with_fields(part, **{name: values[name] for name in names})
            except InputError as error:
                faults += error.faults
    try:
        changed = dataclasses.replace(config, **own)
    except InputError as error:
        faults += error.faults
    if faults:
        raise InputError(faults)
    return changed


class Outcome(NamedTuple):
    """What an algorithm makes of its last state, on the host."""

    labelling: Labelling  # numpy, one labelling of N claims
    marginals: np.ndarray  # float32 [N, Y], probability of every label
    diagnostics: dict[str, Any]  # plain numbers and lists of them


class Algorithm(Protocol):
    """A search algorithm: a frozen, hashable config whose methods are pure.

    Its State is a pytree with at least `current` (a `Labelling` whose leading axes are the chains
    and, where there are any, the replicas), `num_passes` (int32, those same leading axes: the
    labellings scored so far), `num_steps` (int32 `[C]`) and `is_nonfinite` (bool `[..., N]`: claims
    that ever had a score that is not finite). Its Info is a NamedTuple with at least `utility`,
    `num_passes` (int32, those of the step), `num_labelled`, `is_move` (the proposal differs from
    the current labels) and `is_accepted`.
    """

    info_type: ClassVar[type]

    @property
    def block_size(self) -> int:
        """The most steps between two visits of the host."""
        ...

    def num_steps(self, num_claims: int) -> int:
        """Steps that a search of N claims is expected to take."""
        ...

    def expected_tokens(self, scorer: Any) -> int | None:
        """Tokens that a search is expected to read; None where that depends on what it finds."""
        ...

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: Any,
        num_options: int,
        groups: Any = None,
    ) -> Any:
        """The first State, on the host; `clamped` is int8 `[N]`, -1 where free.

        `groups`, int `[N]`, are the claims' consistency groups, for an algorithm that draws by
        them; None for those that the rules tie.
        """
        ...

    def step(self, rng_key: Array, state: Any, scorer: Any, rules: PairRules) -> tuple[Any, Any]:
        """The next State and the step's Info; the identity on a finished State."""
        ...

    def is_finished(self, state: Any) -> Array:
        """Whether nothing is left to do: bool, one for each chain."""
        ...

    def scored_labels(self, info: Any) -> tuple[np.ndarray, np.ndarray]:
        """The labellings that steps scored, and how often each; host only.

        Args:
          info: numpy, of S steps.

        Returns:
          int8 `[S, ..., N]`, of which it matters what is labelled, and int `[S, ...]`.
        """
        ...

    def tokens_per_pass(self, scorer: Any, labels: np.ndarray) -> int:
        """Tokens that one of the passes in `num_passes` reads for `labels`, int8 `[N]`; on host."""
        ...

    def finish(self, state: Any, trace: Any) -> Outcome:
        """The outcome of a finished State (numpy) and its whole trace (numpy); host only."""
        ...


class Account(NamedTuple):
    """What a search has used up so far."""

    num_tokens: int  # read by the scorer
    seconds: float  # wall time within the search, all its sessions


class RunStore(Protocol):
    """Where a search keeps what it needs in order to go on after it was killed."""

    def save(self, state: Any, info: Any, num_steps: int, account: Account) -> None:
        """Keep the state after `num_steps` steps and the Info of the block before it."""
        ...

    def restore(
        self, like: Any, last_step: int | None = None
    ) -> tuple[Any, list[dict[str, np.ndarray]], Account] | None:
        """The last state, in the structure of `like`, and all blocks' Info; None if none.

        Where there are several hosts, `last_step` may ask for one after no more than so many steps.
        """
        ...
