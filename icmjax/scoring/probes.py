"""Labels read off hidden states: the direction in which claims called true differ from false ones.

Contrastive representation clustering by the top principal component (CRC-TPC) of Burns et al. 2022
(arXiv:2212.03827). It finds what varies most, which need not be the truth: Canavan et al. 2026
(Three Concrete Challenges, arXiv:2602.20400). Without labels a direction has no sign, so the
model's own zero-shot answers give it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.devices import use_compilation_cache
from icmjax.errors import Fault, InputError
from icmjax.lm import LanguageModel
from icmjax.prompts import (
    Template,
    TokenizedClaims,
    check_prompt_lengths,
    resolve_template,
    tokenize_claims,
)
from icmjax.scoring.contexts import add_query, build_context
from icmjax.scoring.finite import checked_scores
from icmjax.scoring.labels import read_prompts
from icmjax.scoring.planner import MEMORY_BUDGET, fitting_batch, prompt_bytes

BATCH_TOKENS = 4096  # of prompts in memory at a time


def contrast_features(
    lm: LanguageModel,
    claims: ClaimSet,
    template: str | Template | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> np.ndarray:
    """Hidden states of every claim labelled True less those of the same claim labelled False.

    The state is the last layer's after the final norm, at the last token of the label's first form,
    without demonstrations. Each of the two sets is normalised over the claims first, to mean 0 and
    standard deviation 1 in every dimension, so that what the label's own words add is gone.

    Args:
      claims: N binary claims.
      template: name of the template; by default the model's own, then the one of the claims.
      memory_budget: bytes that reading may take beside the weights.

    Returns:
      float32 `[N, D]`, on the host, in standard deviations; a dimension that does not vary has 0.

    Raises:
      InputError: the claims are not binary, the template is unknown, or not even one prompt fits
        the memory budget.
      PromptError: a prompt does not fit the model, or its tokens do not; see `tokenize_claims`.
      ScoreError: a hidden state is not finite.
    """
    if len(claims.options) != 2:
        rule, remedy = "A probe is of binary claims.", "search for their labels instead"
        raise InputError(Fault(rule, f"{len(claims.options)} options", "claims.options", remedy))
    use_compilation_cache()
    chosen = resolve_template(template, lm.default_template, claims)
    tokens = tokenize_claims(claims, chosen, lm.tokenizer, vocab_size=lm.config.vocab_size)
    check_prompt_lengths(tokens, lm.max_length, context_size=0)
    width = len(tokens.preamble) + tokens.queries.shape[1] + tokens.label_forms.shape[2]
    needed = prompt_bytes(lm, tokens, width)
    batch_size = fitting_batch(
        lambda size: size * needed, max(1, BATCH_TOKENS // width), memory_budget, None
    )
    states = checked_scores(_label_states(lm, tokens, width=width, batch_size=batch_size), claims)
    false, true = _normalised(states.astype(np.float64))
    return (true - false).astype(np.float32)


def principal_probe(features: np.ndarray, zero_shot_log_odds: np.ndarray) -> np.ndarray:
    """The projection of features on their first principal component; on the host.

    Its sign is the one of a positive correlation with the zero-shot log-odds, and left as it
    comes where there is no correlation.

    Args:
      features: float32 `[N, D]`, such as those of `contrast_features`.
      zero_shot_log_odds: float32 `[N]`, nats, of the same claims.

    Returns:
      float32 `[N]`, in the features' unit, of mean 0; above 0 where the claim is rather true.

    Raises:
      InputError: the shapes do not fit.
    """
    features = np.asarray(features, np.float64)
    log_odds = np.asarray(zero_shot_log_odds, np.float64)
    if features.ndim != 2 or log_odds.shape != features.shape[:1]:
        rule, remedy = "Features and log-odds are of the same claims.", "hand over [N, D] and [N]"
        found = f"shapes {features.shape} and {log_odds.shape}"
        raise InputError(Fault(rule, found, "features, zero_shot_log_odds", remedy))
    centred = features - features.mean(axis=0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    scores = centred @ components[0]
    if scores @ (log_odds - log_odds.mean()) < 0:
        scores = -scores
    return scores.astype(np.float32)


def _normalised(states: np.ndarray) -> np.ndarray:
    """States `[2, N, D]` of mean 0 and standard deviation 1 over the claims, or 0 throughout."""
    centred = states - states.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


@functools.partial(jax.jit, static_argnames=("width", "batch_size"))
def _label_states(
    lm: LanguageModel, claims: TokenizedClaims, *, width: int, batch_size: int
) -> jax.Array:
    """float32 `[Y, N, D]`: the state at the end of each claim with each label, read alone."""
    decoder = lm.decoder()
    num_claims, num_options = claims.queries.shape[0], claims.label_forms.shape[0]
    nothing = jnp.full(num_claims, UNLABELLED, jnp.int8)
    order = jnp.arange(num_claims, dtype=jnp.int32)
    opening = build_context(claims, nothing, jnp.zeros(num_claims, bool), order, width)

    def read(row: jax.Array) -> jax.Array:
        label, claim = row // num_claims, row % num_claims
        tokens, end = add_query(claims, *opening, claim)
        form = jnp.asarray(claims.label_forms)[label, 0]
        column = jnp.arange(width, dtype=jnp.int32)
        tokens = jnp.where(column < end, tokens, form.at[column - end].get(mode="clip"))
        length = end + jnp.asarray(claims.label_form_lengths)[label, 0]
        prompts = read_prompts(decoder, tokens[None], length[None], jnp.zeros(1, jnp.int32))
        return prompts.last_hidden[0].astype(jnp.float32)

    rows = jnp.arange(num_options * num_claims, dtype=jnp.int32)
    states = jax.lax.map(read, rows, batch_size=batch_size)
    return states.reshape(num_options, num_claims, -1)
