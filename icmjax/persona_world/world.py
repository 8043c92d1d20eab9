"""The truth of the survey world: groups, zones, items, and what each population answers."""

import dataclasses
import difflib
import functools

import numpy as np

from icmjax.errors import Fault, InputError
from icmjax.persona_world import text
from icmjax.persona_world.config import WorldConfig


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """A drawn world; make one by `make_world`. K is the number of value dimensions."""

    config: WorldConfig
    zone_values: np.ndarray  # float64 [num_zones, K]
    group_zones: np.ndarray  # int64 [num_groups + num_unseen], named groups first
    group_values: np.ndarray  # float64 [num_groups + num_unseen, K]
    group_frequencies: np.ndarray  # float64 [num_groups], falling, sums to 1
    loadings: np.ndarray  # float64 [num_topics, K], rows of norm 1
    held_out_topics: np.ndarray  # int64 [num_held_out_topics], sorted

    @functools.cached_property
    def search_topics(self) -> np.ndarray:
        """The topics that are not held out: int64 `[num_topics - num_held_out_topics]`."""
        return np.setdiff1d(np.arange(self.config.num_topics), self.held_out_topics)

    @functools.cached_property
    def group_names(self) -> tuple[str, ...]:
        """Names in the order of `group_values`."""
        config = self.config
        return text.NAMED_GROUPS[: config.num_groups] + text.UNSEEN_GROUPS[: config.num_unseen]

    @functools.cached_property
    def tiers(self) -> dict[str, tuple[str, ...]]:
        """The groups as thirds by frequency, "frequent", "middle" and "rare", and "unseen"."""
        third = self.config.num_groups // 3
        names = self.group_names
        return {
            "frequent": names[:third],
            "middle": names[third : self.config.num_groups - third],
            "rare": names[self.config.num_groups - third : self.config.num_groups],
            "unseen": names[self.config.num_groups :],
        }

    def group_index(self, name: str) -> int:
        """The index of a group by its name, in any case.

        Raises:
          InputError: where no group has that name.
        """
        names = [group.lower() for group in self.group_names]
        if name.lower() not in names:
            near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
            asked = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                Fault(
                    "A persona-world task names a group of the world.",
                    f"{name!r}",
                    "persona-world:GROUP:SEED",
                    f"{asked}choose one of {', '.join(names)}",
                )
            )
        return names.index(name.lower())

    def levels(self, values: np.ndarray) -> np.ndarray:
        """How far short answers go in favour of each topic, 0 to 3.

        Args:
          values: float64 `[..., K]`.

        Returns:
          int64 `[..., num_topics]`.
        """
        cuts = np.asarray(self.config.answer_cuts)
        return ((values @ self.loadings.T)[..., None] > cuts).sum(-1)

    def margins(self, values: np.ndarray) -> np.ndarray:
        """How far values lie above each item's difficulty; the item is endorsed where positive.

        Args:
          values: float64 `[..., K]`.

        Returns:
          float64 `[..., num_topics, 4]`.
        """
        return (values @ self.loadings.T)[..., None] - np.asarray(self.config.difficulties)


def make_world(config: WorldConfig | None = None) -> World:
    """Draws the world of a config, deterministically from its seed."""
    config = WorldConfig() if config is None else config
    limits = (
        ("num_topics", len(text.TOPICS)),
        ("num_groups", len(text.NAMED_GROUPS)),
        ("num_unseen", len(text.UNSEEN_GROUPS)),
    )
    faults = [
        Fault(
            "The world has a word for every topic and group.",
            f"{getattr(config, name)} where {limit} have words",
            name,
            f"choose at most {limit}",
        )
        for name, limit in limits
        if getattr(config, name) > limit
    ]
    if faults:
        raise InputError(faults)
    rng = np.random.default_rng(config.seed)
    dims = config.num_dimensions
    num_names = config.num_groups + config.num_unseen
    zone_values = config.zone_scale * rng.standard_normal((config.num_zones, dims))
    # Every zone holds about as many groups, so that no tier is a zone of its own.
    group_zones = rng.permutation(num_names) % config.num_zones
    group_values = zone_values[group_zones] + config.group_scale * rng.standard_normal(
        (num_names, dims)
    )
    frequencies = (1.0 + np.arange(config.num_groups)) ** -config.frequency_exponent

    loadings = np.zeros((config.num_topics, dims))
    is_double = rng.random(config.num_topics) < config.two_dimension_share
    for topic in range(config.num_topics):
        first, second = rng.permutation(dims)[:2]
        loadings[topic, first] = rng.choice((-1.0, 1.0))
        if is_double[topic]:
            loadings[topic, second] = rng.choice((-1.0, 1.0))
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    held_out = np.sort(rng.permutation(config.num_topics)[: config.num_held_out_topics])
    return World(
        config=config,
        zone_values=zone_values,
        group_zones=group_zones,
        group_values=group_values,
        group_frequencies=frequencies / frequencies.sum(),
        loadings=loadings,
        held_out_topics=held_out,
    )
