"""Steering a model in context: labelled claims before held-out ones, and how well that does."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.consistency import PairRules
from icmjax.errors import Fault, InputError, PromptError
from icmjax.lm.decoder import Segment
from icmjax.lm.loading import LanguageModel
from icmjax.scoring.labels import label_log_probs, read_prompts
from icmjax.scoring.planner import MEMORY_BUDGET, fitting_batch, text_bytes
from icmjax.scoring.prompts import build_context, shown_lengths
from icmjax.templates import resolve_template
from icmjax.tokens import TokenizedClaims, pad_tokens, tokenize_claims

QUERY_BATCH_TOKENS = 4096


class Scores(NamedTuple):
    """How label log-probs of M held-out claims agree with their gold labels."""

    accuracy: float  # share of claims whose most probable label is gold
    balanced_accuracy: float  # mean over the gold labels that occur of the accuracy among them
    log_loss: float  # nats a claim, mean of −log P(gold)
    num_claims: int  # claims that have a gold label


class Evaluation(NamedTuple):
    """Label log-probs of M held-out claims, and their scores where gold labels are known."""

    label_log_probs: np.ndarray  # float32 [M, Y], nats
    scores: Scores | None

    @property
    def predictions(self) -> np.ndarray:
        """The most probable labels, int8 `[M]`."""
        return self.label_log_probs.argmax(-1).astype(np.int8)


def score_predictions(label_log_probs: np.ndarray, gold: GoldLabels) -> Scores:
    """Compares label log-probs, `[M, Y]` in nats, with gold labels, where a claim has one.

    Raises:
      InputError: no claim has a gold label.
    """
    is_known = gold.labels != UNLABELLED
    if not is_known.any():
        fault = Fault("Scores need gold labels.", "none", "gold", "evaluate claims that have them")
        raise InputError(fault)
    labels, logp = gold.labels[is_known].astype(int), np.asarray(label_log_probs)[is_known]
    is_right = logp.argmax(-1) == labels
    recalls = [is_right[labels == label].mean() for label in np.unique(labels)]
    log_loss = -logp[np.arange(len(labels)), labels].astype(np.float64).mean()
    return Scores(
        float(is_right.mean()), float(np.mean(recalls)), float(log_loss), int(is_known.sum())
    )


def calibrate(label_log_probs: np.ndarray, rules: PairRules) -> np.ndarray:
    """Takes the model's bias towards one label out of zero-shot predictions.

    A claim is judged by its log-odds less those of its opposites (the claims that a pair rule keeps
    from being true together with it), halved, so that of two opposite claims the one that the model
    rather believes is true; a claim without an opposite by its log-odds less their mean over all
    claims (batch calibration, Zhou et al., arXiv:2309.17249). Two label options only.

    Args:
      label_log_probs: `[M, 2]`, nats.
      rules: the pair rules of the same claims.

    Returns:
      float32 `[M, 2]`, nats.
    """
    log_odds = np.asarray(label_log_probs, np.float64) @ np.array([-1.0, 1.0])
    pairs = np.asarray(rules.pairs)[np.asarray(rules.penalties)[:, 1, 1] > 0]
    total, count = np.zeros_like(log_odds), np.zeros_like(log_odds)
    for first, second in (pairs.T, pairs.T[::-1]):
        np.add.at(total, first, log_odds[second])
        np.add.at(count, first, 1)
    opposite = total / np.maximum(count, 1)
    calibrated = np.where(count > 0, (log_odds - opposite) / 2, log_odds - log_odds.mean())
    return np.stack([-np.logaddexp(0, calibrated), -np.logaddexp(0, -calibrated)], -1).astype(
        np.float32
    )


class Steerer(NamedTuple):
    """Held-out claims under a set of demonstrations whose labels and order are still free."""

    lm: LanguageModel
    demonstrations: TokenizedClaims  # of N claims
    queries: TokenizedClaims  # of M claims
    memory_budget: int = MEMORY_BUDGET  # bytes

    def __call__(self, labels: np.ndarray, orders: np.ndarray | None = None) -> np.ndarray:
        """Label log-probs of the queries given each labelling of the demonstrations.

        Every context is encoded once and shared by all queries, of which as many are read
        together as fit the memory budget.

        Args:
          labels: int8 `[..., N]`; unlabelled claims are not shown.
          orders: int32 `[..., N]`, permutations; None for the given order.

        Returns:
          float32 `[..., M, Y]`, nats.

        Raises:
          PromptError: a prompt does not fit the model.
          InputError: a context and one query do not fit the memory budget.
        """
        labels = np.asarray(labels, np.int8)
        if orders is None:
            orders = np.arange(labels.shape[-1], dtype=np.int32)
        orders = np.broadcast_to(orders, labels.shape).astype(np.int32)
        context = len(self.demonstrations.preamble) + shown_lengths(
            self.demonstrations, labels, np
        ).sum(-1).max(initial=0)
        forms = np.asarray(self.queries.label_form_lengths).max()
        needed = int(context + np.asarray(self.queries.query_lengths).max() + forms)
        limit = self.lm.max_length
        if needed > limit:
            raise PromptError(
                Fault(
                    "A prompt fits the model's context.",
                    f"{needed} tokens, {needed - limit} more than {limit}",
                    f"{(labels != UNLABELLED).sum(-1).max()} demonstrations and the longest query",
                    "show fewer demonstrations, or use a model with a longer context",
                )
            )
        width = max(32, -(-int(context) // 32) * 32)
        flat = labels.reshape(-1, labels.shape[-1])
        logp = _steer(
            self.lm,
            self.demonstrations,
            self.queries,
            flat,
            orders.reshape(flat.shape),
            width=width,
            batch_size=self.batch_size(width),
        )
        return np.asarray(logp).reshape(*labels.shape[:-1], *logp.shape[1:])

    def batch_size(self, width: int) -> int:
        """Queries read together after a context of so many tokens.

        Raises:
          InputError: the context and one query do not fit the memory budget.
        """
        num_queries, query_width = self.queries.queries.shape
        return fitting_batch(
            lambda size: text_bytes(self.lm, self.queries, width, 1, size)[1],
            min(num_queries, QUERY_BATCH_TOKENS // query_width),
            self.memory_budget,
            None,
        )


def make_steerer(
    lm: LanguageModel,
    demonstrations: ClaimSet,
    queries: ClaimSet,
    template: str | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Steerer:
    """A steerer; both claim sets must have the same options and the same preamble.

    Args:
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: they differ, or a template is unknown.
      PromptError: labels share their first token.
    """
    faults = [
        Fault(
            f"Demonstrations and queries have the same {name}.",
            f"{getattr(demonstrations, name)!r} and {getattr(queries, name)!r}",
            name,
            "evaluate on claims of the same kind",
        )
        for name in ("options", "preamble")
        if getattr(demonstrations, name) != getattr(queries, name)
    ]
    if faults:
        raise InputError(faults)
    chosen = resolve_template(template, lm.default_template, demonstrations)
    shown, asked = (
        tokenize_claims(claims, chosen, lm.tokenizer) for claims in (demonstrations, queries)
    )
    return Steerer(lm, shown, asked, memory_budget)


def evaluate(
    lm: LanguageModel,
    demonstrations: ClaimSet,
    labels: np.ndarray,
    queries: ClaimSet,
    gold: GoldLabels | None = None,
    template: str | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Evaluation:
    """Label log-probs of held-out claims after labelled demonstrations, in their given order.

    Args:
      labels: int8 `[N]`; all `UNLABELLED` for zero-shot.
      gold: gold labels of the queries, for the scores.
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: the claim sets do not go together, or nothing fits the memory budget.
      PromptError: a prompt does not fit the model.
    """
    logp = make_steerer(lm, demonstrations, queries, template, memory_budget)(labels)
    return Evaluation(logp, None if gold is None else score_predictions(logp, gold))


def chat_zero_shot(lm: LanguageModel, queries: ClaimSet) -> np.ndarray | None:
    """Zero-shot label log-probs of claims put to a chat model as a user's message.

    The message is the claim under its template and a line that names the options; the answer is
    scored where the model's turn begins, by the options' own words.

    Returns:
      float32 `[M, Y]`, nats; None where the tokenizer has no chat template.

    Raises:
      PromptError: a prompt does not fit the model, or options share their first token.
    """
    if not lm.tokenizer.chat_template:
        return None
    template = resolve_template(None, lm.default_template, queries)
    choices = " or ".join(queries.options)
    prompts = []
    for claim in queries.claims:
        message = f"{template.query_fn(claim).strip()}...\nAnswer with {choices} alone."
        opening = queries.preamble.strip()
        turn = {"role": "user", "content": f"{opening}\n{message}" if opening else message}
        tokens: Any = lm.tokenizer.apply_chat_template(
            [turn], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        prompts.append(list(tokens))
    # As in a prompt of pieces, which here are a whole prompt each: BOS is in the chat template.
    words = dataclasses.replace(template, label_forms=tuple((o,) for o in queries.options))
    pieces = tokenize_claims(queries, words, lm.tokenizer)
    rows, lengths = pad_tokens(prompts)
    alone = pieces._replace(preamble=np.zeros(0, np.int32), queries=rows, query_lengths=lengths)
    unlabelled = np.full(len(queries), UNLABELLED, np.int8)
    return Steerer(lm, alone, alone)(unlabelled)


@functools.partial(jax.jit, static_argnames=("width", "batch_size"))
def _steer(
    lm: LanguageModel,
    demonstrations: TokenizedClaims,
    queries: TokenizedClaims,
    labels: jax.Array,
    orders: jax.Array,
    *,
    width: int,
    batch_size: int,
) -> jax.Array:
    """float32 `[B, M, Y]` for labels and orders `[B, N]`."""
    decoder = lm.decoder()
    num_queries = queries.queries.shape[0]

    def score_labelling(labels: jax.Array, order: jax.Array) -> jax.Array:
        tokens, num_tokens = build_context(
            demonstrations, labels, jnp.ones(labels.shape, bool), order, width
        )
        positions = jnp.arange(width, dtype=jnp.int32)[None]
        is_real = positions < num_tokens
        key_values = decoder.key_values(tokens[None], positions, is_real)
        context = Segment(key_values, positions, is_real)

        def score_query(query: jax.Array) -> jax.Array:
            length = jnp.asarray(queries.query_lengths)[query][None]
            tokens = jnp.asarray(queries.queries)[query][None]
            prompts = read_prompts(decoder, tokens, length, num_tokens[None], (context,))
            return label_log_probs(decoder, prompts, queries)[0]

        index = jnp.arange(num_queries, dtype=jnp.int32)
        return jax.lax.map(score_query, index, batch_size=batch_size)

    return jax.lax.map(lambda pair: score_labelling(*pair), (labels, orders))
