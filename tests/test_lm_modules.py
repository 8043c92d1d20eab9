"""Each module of the decoder computes what its like in transformers computes on torch."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint
from flax import nnx
from test_lm_parity import batch

from icmjax.lm import load_lm

# What the modules of a block are called; the others have self_attn and mlp.
ATTENTIONS = {"gpt2": "attn", "gpt_neox": "attention"}
LAYERS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
INDEX = 1  # of the block that is looked at


class Seen:
    """What a module of the torch model was given and gave back, at real tokens and padding."""

    def __init__(self, module: torch.nn.Module):
        self.given: np.ndarray | None = None
        self.returned: np.ndarray | None = None
        module.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        self.given = given.detach().numpy()
        self.returned = (output[0] if isinstance(output, tuple) else output).detach().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_are_those_of_transformers(tmp_path: Path, family: str):
    model = make_checkpoint(tmp_path, family)
    blocks = model.get_submodule(LAYERS.get(family, "model.layers"))
    block = blocks[INDEX]
    attention = getattr(block, ATTENTIONS.get(family, "self_attn"))
    mlp = getattr(block, "mlp", None) or block.block_sparse_moe
    first, seen = (
        Seen(blocks[0]),
        {
            name: Seen(each)
            for name, each in (("block", block), ("attention", attention), ("mlp", mlp))
        },
    )
    lm = load_lm(tmp_path)
    tokens, positions, is_real = batch(lm)
    with torch.no_grad():
        model(
            torch.tensor(np.asarray(tokens), dtype=torch.long),
            attention_mask=torch.tensor(np.asarray(is_real), dtype=torch.long),
        )

    decoder = lm.decoder()
    hidden, reading = decoder._open(tokens, positions, is_real, ())
    scanned = reading.layer(INDEX)
    layer = nnx.merge(reading.graphdef, scanned.params)
    # Windows are int32 arrays of scanned layers.
    window = None if reading.is_windowless else scanned.window
    sights = [reading.sights[0]._replace(window=window)]
    rotation = reading.cosines[scanned.rope], reading.sines[scanned.rope]

    def attend(normed: jax.Array) -> jax.Array:
        own = layer.key_values(normed, rotation)
        return layer.attend(normed, rotation, [own], sights, [], True)

    ours = {
        "block": lambda given: reading.read(given, scanned)[0],
        "attention": attend,
        "mlp": layer.mlp,
    }
    assert_close(hidden, first.given, is_real)
    for name, function in ours.items():
        found = function(jnp.asarray(seen[name].given))
        assert_close(found.reshape(*is_real.shape, -1), seen[name].returned, is_real)


def assert_close(found: jax.Array, expected: np.ndarray | None, is_real: jax.Array) -> None:
    """Check values at real tokens to 1e-5 of the largest."""
    assert expected is not None
    expected = expected.reshape(found.shape)[np.asarray(is_real)]
    error = np.abs(np.asarray(found)[np.asarray(is_real)] - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()
