"""Who reads the claims: the language model, or the Bayes observer in its place."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from icmjax import ClaimSet, load_lm, make_scorer, make_steerer
from icmjax.persona_world.observer import make_observer_scorer, make_observer_steerer
from icmjax.persona_world.world import World
from icmjax.search.base import Scorer

OBSERVER = "observer"
Steer = Callable[[np.ndarray], np.ndarray]  # int8 [..., N] → float32 [..., M, Y]


class Reader(NamedTuple):
    """Scores claims given one another, and held-out claims given labelled ones."""

    name: str
    make_scorer: Callable[[ClaimSet], Scorer]
    make_steerer: Callable[[ClaimSet, ClaimSet], Steer]


def load_reader(name: str, world: World, leave: str = "group") -> Reader:
    """A model by its name or folder, or "observer", who does not know the groups' values."""
    if name == OBSERVER:
        return Reader(
            name,
            lambda claims: make_observer_scorer(
                world,
                claims,
                knows_groups=False,
                leave=leave,  # type: ignore[arg-type]  # click has checked it
            ),
            lambda claims, queries: (
                lambda labels: np.asarray(
                    make_observer_steerer(world, claims, queries, knows_groups=False)(labels)
                )
            ),
        )
    lm = load_lm(name)
    return Reader(
        name,
        lambda claims: make_scorer(lm, claims, "tree", leave=leave),  # type: ignore[arg-type]
        lambda claims, queries: make_steerer(lm, claims, queries),
    )
