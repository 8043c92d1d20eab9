"""Experts against a loop over tokens, alone and under the transformations of scoring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_lm_segments import make_decoder

from icmjax.lm.mlp import Experts

NUM_TOKENS, NUM_EXPERTS = 23, 5


def experts(num_chosen: int, normalizes: bool = True) -> Experts:
    """Experts whose router has clear preferences."""
    config = make_decoder(
        num_experts=NUM_EXPERTS, num_chosen_experts=num_chosen, normalizes_experts=normalizes
    ).config
    made = Experts(config, jnp.dtype("float32"), nnx.Rngs(0))
    made.router.kernel[...] *= 50
    return made


def naive(made: Experts, token: np.ndarray) -> np.ndarray:
    """One token through all experts, in float64."""
    gate, up, down = (
        np.asarray(each.kernel[...], np.float64) for each in (made.gate, made.up, made.down)
    )
    logits = token @ np.asarray(made.router.kernel[...], np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    chosen = np.argsort(-shares)[: made.config.num_chosen_experts]
    if made.config.normalizes_experts:
        shares /= shares[chosen].sum()
    total = np.zeros_like(token)
    for expert in chosen:
        gated = token @ gate[expert]
        total += shares[expert] * (
            (gated / (1 + np.exp(-gated)) * (token @ up[expert])) @ down[expert]
        )
    return total


@pytest.mark.slow
@pytest.mark.parametrize("num_chosen", [1, 3, NUM_EXPERTS])
@pytest.mark.parametrize("normalizes", [True, False])
def test_experts_are_a_loop_over_tokens(num_chosen, normalizes):
    made = experts(num_chosen, normalizes)
    tokens = jax.random.normal(jax.random.key(1), (NUM_TOKENS, made.config.hidden_size))
    expected = np.stack([naive(made, token) for token in np.asarray(tokens, np.float64)])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(made(tokens), expected, atol=1e-5 * scale)
    graphdef, state = nnx.split(made)
    by_row = jax.vmap(lambda row: nnx.merge(graphdef, state)(row[None])[0])(tokens)
    np.testing.assert_allclose(by_row, expected, atol=1e-5 * scale)
    by_map = jax.lax.map(lambda row: nnx.merge(graphdef, state)(row[None])[0], tokens, batch_size=4)
    np.testing.assert_allclose(by_map, expected, atol=1e-5 * scale)


def test_an_expert_that_nobody_chose_is_no_one_s_and_padding_is_harmless():
    made = experts(1)
    token = jax.random.normal(jax.random.key(2), (1, made.config.hidden_size))
    alone = made(token)
    among = made(jnp.concatenate([token, jnp.zeros((7, token.shape[1]))]))
    np.testing.assert_allclose(among[:1], alone, rtol=1e-5, atol=1e-8)
