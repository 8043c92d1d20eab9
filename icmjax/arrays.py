"""Arrays of the host onto the device."""

from typing import Any, TypeVar

import jax
import numpy as np

Tree = TypeVar("Tree")


def on_device(tree: Tree) -> Tree:
    """Put copies of a pytree's numpy arrays on the default device; JAX arrays stay where they are.

    `jnp.asarray` compiles a program for each shape, and `jax.device_put` alone shares the memory of
    numpy arrays on a CPU: what their owner writes later would be read.
    """

    def own(leaf: Any) -> Any:
        return leaf if isinstance(leaf, jax.Array) else np.array(leaf)

    return jax.device_put(jax.tree.map(own, tree))
