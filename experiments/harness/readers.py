"""Who reads the claims: the language model, or a Bayes observer in its place."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.lm import LanguageModel, load_lm
from icmjax.persona_world import World, make_observer_scorer, make_observer_steerer
from icmjax.runs import pytree_fingerprint
from icmjax.scoring import make_scorer
from icmjax.search import Scorer
from icmjax.steering import make_steerer

OBSERVER = "observer"
TRUSTING_OBSERVER = "trusting-observer"  # to whom no source is unreliable
OBSERVERS = (OBSERVER, TRUSTING_OBSERVER)
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
    make_joint_scorer: Callable[[ClaimSet, int], Scorer]  # of the joint likelihood, in K orders
    lm: LanguageModel | None = None  # None for an observer


def model_config(lm: LanguageModel) -> dict[str, Any]:
    """What a model is: its weights, whatever its folder holds by then."""
    return {"model": lm.name, "weights": pytree_fingerprint(lm.params)}


def load_reader(
    name: str,
    world: World,
    leave: str = "group",
    knows_groups: bool = False,
    dtype: str = "float32",
) -> Reader:
    """A model by its name or folder, or an observer, who may know the groups' values."""
    if name == TRUSTING_OBSERVER:
        shares = (1.0, *(0.0 for _ in world.config.style_shares[1:]))  # of the substantive style
        config = dataclasses.replace(world.config, style_shares=shares)
        world = dataclasses.replace(world, config=config)
    if name in OBSERVERS:

        def observe(claims: ClaimSet, leave: str = leave) -> Scorer:
            return make_observer_scorer(
                world,
                claims,
                knows_groups=knows_groups,
                leave=leave,  # type: ignore[arg-type]  # click has checked it
            )

        return Reader(
            name,
            {"model": name},
            observe,
            lambda claims, queries: (
                lambda labels, orders=None: np.asarray(
                    make_observer_steerer(world, claims, queries, knows_groups=knows_groups)(labels)
                )
            ),
            lambda claims, num_orders: make_prefix_scorer(observe(claims, "claim"), num_orders),
        )
    lm = load_lm(name, dtype=dtype)
    return Reader(
        name,
        model_config(lm),
        lambda claims: make_scorer(lm, claims, "tree", leave=leave),  # type: ignore[arg-type]
        lambda claims, queries: make_steerer(lm, claims, queries),
        lambda claims, num_orders: make_scorer(lm, claims, "chain_rule", num_orders=num_orders),
        lm,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PrefixScorer:
    """The chain rule of any scorer: every claim given those before it, in K orders."""

    scorer: Any
    is_before: jax.Array  # bool [K, N, N], whether claim j comes before claim i

    @property
    def num_claims(self) -> int:
        """N."""
        return self.is_before.shape[-1]

    def by_order(self, labels: jax.Array) -> jax.Array:
        """Label log-probs of each order, nats: int8 `[..., N]` → float32 `[K, ..., N, Y]`."""
        labels = jnp.asarray(labels)

        def of_order(is_before: jax.Array) -> jax.Array:
            prefixes = jnp.where(is_before, labels[..., None, :], jnp.int8(UNLABELLED))
            logp = self.scorer(prefixes)  # [..., N, N, Y]
            return jnp.moveaxis(jnp.diagonal(logp, axis1=-3, axis2=-2), -1, -2)

        return jax.lax.map(of_order, self.is_before)

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Means over the orders, nats: int8 `[..., N]` → float32 `[..., N, Y]`."""
        return self.by_order(labels).mean(axis=0)

    def tokens_per_pass(self, labels: np.ndarray) -> int:
        """Those of the scorer for all prefixes."""
        return len(self.is_before) * self.num_claims * self.scorer.tokens_per_pass(labels)


def make_prefix_scorer(scorer: Scorer, num_orders: int, seed: int = 0) -> PrefixScorer:
    """A prefix scorer of random orders."""
    rng = np.random.default_rng(seed)
    rank = np.stack([rng.permutation(scorer.num_claims) for _ in range(num_orders)])
    return PrefixScorer(scorer, jnp.asarray(rank[:, None, :] < rank[:, :, None]))
