"""Who reads the claims: the language model, or a Bayes observer in its place."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.lm import LanguageModel, load_lm
from icmjax.persona_world import World, make_observer_scorer, make_observer_steerer
from icmjax.runs import pytree_fingerprint
from icmjax.scoring import make_scorer
from icmjax.search import Scorer
from icmjax.steering import make_steerer

OBSERVER = "observer"
TRUSTING_OBSERVER = "trusting-observer"  # to whom no source is unreliable
model_option = click.option(
    "--model",
    default="persona-world",
    show_default=True,
    help=f'A model, "{OBSERVER}" or "{TRUSTING_OBSERVER}".',
)
leave_option = click.option(
    "--leave", default="group", show_default=True, type=click.Choice(["claim", "group"])
)
# Labels int8 [..., N] and orders int32 [..., N], or none → label log-probs float32 [..., M, Y].
Steer = Callable[..., np.ndarray]


class Reader(NamedTuple):
    """Scores claims given one another, and held-out claims given labelled ones."""

    name: str
    config: dict[str, Any]  # its name and, of a model, the fingerprint of its weights
    make_scorer: Callable[[ClaimSet], Scorer]
    make_steerer: Callable[[ClaimSet, ClaimSet], Steer]


def model_config(lm: LanguageModel) -> dict[str, Any]:
    """What a model is: its weights, whatever its folder holds by then."""
    return {"model": lm.name, "weights": pytree_fingerprint(lm.params)}


def load_reader(name: str, world: World, leave: str = "group") -> Reader:
    """A model by its name or folder, or an observer, who does not know the groups' values."""
    if name == TRUSTING_OBSERVER:
        shares = (1.0, *(0.0 for _ in world.config.style_shares[1:]))  # of the substantive style
        config = dataclasses.replace(world.config, style_shares=shares)
        world = dataclasses.replace(world, config=config)
    if name in (OBSERVER, TRUSTING_OBSERVER):
        return Reader(
            name,
            {"model": name},
            lambda claims: make_observer_scorer(
                world,
                claims,
                knows_groups=False,
                leave=leave,  # type: ignore[arg-type]  # click has checked it
            ),
            lambda claims, queries: (
                lambda labels, orders=None: np.asarray(
                    make_observer_steerer(world, claims, queries, knows_groups=False)(labels)
                )
            ),
        )
    lm = load_lm(name)
    return Reader(
        name,
        model_config(lm),
        lambda claims: make_scorer(lm, claims, "tree", leave=leave),  # type: ignore[arg-type]
        lambda claims, queries: make_steerer(lm, claims, queries),
    )
