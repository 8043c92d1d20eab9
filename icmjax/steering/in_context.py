"""Steering a model in context: labelled claims before held-out ones, and how well that does."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet, GoldLabels
from icmjax.errors import Fault, InputError, PromptError
from icmjax.lm import LanguageModel, Segment
from icmjax.prompts import Template, TokenizedClaims, resolve_template, tokenize_together
from icmjax.scoring import (
    MEMORY_BUDGET,
    build_context,
    fitting_batch,
    label_log_probs,
    read_prompts,
    round_up,
    shown_lengths,
    text_bytes,
)
from icmjax.steering.scores import Evaluation, score_predictions

QUERY_BATCH_TOKENS = 4096
# Widths are rounded up by less than one part in these, so that other claims of like lengths run
# the program that is compiled already.
CONTEXT_SLACK, CLAIM_SLACK = 8, 4
# Parts of the queries, from the shortest on, end at these sixteenths of their number. Few claims
# are long: the rest need not be as wide. Of a fixed share, since every size is a program.
PART_ENDS = 8, 15, 16
FEWEST_IN_PARTS = 32  # fewer are one part: compiling would cost more than reading


class Steerer(NamedTuple):
    """Held-out claims under a set of demonstrations whose labels and order are still free."""

    lm: LanguageModel
    demonstrations: TokenizedClaims  # of N claims
    queries: TokenizedClaims  # of M claims
    memory_budget: int = MEMORY_BUDGET  # bytes

    def __repr__(self) -> str:
        shown, asked = len(self.demonstrations.queries), len(self.queries.queries)
        return f"Steerer(N = {shown}, M = {asked}, lm={self.lm.name[-80:]!r})"

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
        width = round_up(max(32, int(context)), CONTEXT_SLACK)
        flat = labels.reshape(-1, labels.shape[-1])
        parts, places = by_length(self.queries)
        logp = _steer(
            self.lm,
            self.demonstrations,
            parts,
            flat,
            orders.reshape(flat.shape),
            width=width,
            batch_sizes=tuple(self.batch_size(part, width) for part in parts),
        )
        return np.asarray(logp)[:, places].reshape(*labels.shape[:-1], *logp.shape[1:])

    def batch_size(self, queries: TokenizedClaims, width: int) -> int:
        """Queries read together after a context of so many tokens.

        Raises:
          InputError: the context and one query do not fit the memory budget.
        """
        num_queries, query_width = queries.queries.shape
        most = fitting_batch(
            lambda size: text_bytes(self.lm, queries, width, 1, size)[1],
            min(num_queries, QUERY_BATCH_TOKENS // query_width),
            self.memory_budget,
            None,
        )
        # Batches of one size, or nearly: a last one that is smaller is a program of its own.
        return -(-num_queries // -(-num_queries // most))


def make_steerer(
    lm: LanguageModel,
    demonstrations: ClaimSet,
    queries: ClaimSet,
    template: str | Template | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Steerer:
    """A steerer; both claim sets must have the same options and the same preamble.

    Args:
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: they differ, or a template is unknown.
      PromptError: as of `tokenize_claims`.
    """
    check_same_kind(demonstrations, queries)
    chosen = resolve_template(template, lm.default_template, demonstrations)
    shown, asked = tokenize_together(
        [demonstrations, queries], chosen, lm.tokenizer, lm.config.vocab_size
    )
    return Steerer(lm, fill_up(shown), fill_up(asked), memory_budget)


def check_same_kind(demonstrations: ClaimSet, queries: ClaimSet) -> None:
    """Refuses claim sets of different options or preambles, which no prompt shows together.

    Raises:
      InputError: they differ.
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


def fill_up(claims: TokenizedClaims) -> TokenizedClaims:
    """Claims whose queries `[M, Tq]` and demonstrations `[M, Y, Td]` have widths rounded up.

    Lengths stay as they are. Widths in tokens grow by less than one part in `CLAIM_SLACK`.
    """

    def pad(array: jax.Array | np.ndarray) -> np.ndarray:
        more = round_up(array.shape[-1], CLAIM_SLACK) - array.shape[-1]
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)])

    return claims._replace(queries=pad(claims.queries), demonstrations=pad(claims.demonstrations))


def by_length(queries: TokenizedClaims) -> tuple[tuple[TokenizedClaims, ...], np.ndarray]:
    """Queries in parts, from the shortest on, each as wide as its longest one needs.

    Returns:
      the parts, of M queries together, and int `[M]`, each query's place in them.
    """
    lengths = np.asarray(queries.query_lengths)
    order = np.argsort(lengths, kind="stable")
    shares = PART_ENDS if len(order) >= FEWEST_IN_PARTS else PART_ENDS[-1:]
    ends = [len(order) * share // PART_ENDS[-1] for share in shares]
    end_of = {}  # by width: parts of one width are one
    for end in ends:
        width = min(round_up(lengths[order[end - 1]], CLAIM_SLACK), queries.queries.shape[1])
        end_of[width] = end
    starts = [0, *end_of.values()]
    parts = [
        queries._replace(
            queries=queries.queries[order[start:end], :width],
            query_lengths=lengths[order[start:end]],
        )
        for (width, end), start in zip(end_of.items(), starts, strict=False)
    ]
    return tuple(parts), np.argsort(order)


def evaluate(
    lm: LanguageModel,
    demonstrations: ClaimSet,
    labels: np.ndarray,
    queries: ClaimSet,
    gold: GoldLabels | None = None,
    template: str | Template | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Evaluation:
    """Label log-probs of held-out claims after labelled demonstrations, in their given order.

    Args:
      labels: int8 `[N]`; all `UNLABELLED` for zero-shot.
      gold: gold labels of the queries, for the scores.
      memory_budget: bytes that reading may take beside the weights.

    Raises:
      InputError: the claim sets do not go together, nothing fits the memory budget, or `gold` has
        no labels.
      PromptError: a prompt does not fit the model.
      ScoreError: a label log-prob that is judged by `gold` is not a finite number.
    """
    logp = make_steerer(lm, demonstrations, queries, template, memory_budget)(labels)
    return Evaluation(logp, None if gold is None else score_predictions(logp, gold))


@functools.partial(jax.jit, static_argnames=("width", "batch_sizes"))
def _steer(
    lm: LanguageModel,
    demonstrations: TokenizedClaims,
    parts: tuple[TokenizedClaims, ...],
    labels: jax.Array,
    orders: jax.Array,
    *,
    width: int,
    batch_sizes: tuple[int, ...],
) -> jax.Array:
    """float32 `[B, M, Y]` for labels and orders `[B, N]`; the M queries come in parts."""
    decoder = lm.decoder()

    def score_labelling(labels: jax.Array, order: jax.Array) -> jax.Array:
        tokens, num_tokens = build_context(
            demonstrations, labels, jnp.ones(labels.shape, bool), order, width
        )
        positions = jnp.arange(width, dtype=jnp.int32)[None]
        is_real = positions < num_tokens
        key_values = decoder.key_values(tokens[None], positions, is_real)
        context = Segment(key_values, positions, is_real)

        def score_part(queries: TokenizedClaims, batch_size: int) -> jax.Array:
            def score_query(query: tuple[jax.Array, jax.Array]) -> jax.Array:
                tokens, length = query
                prompts = read_prompts(
                    decoder, tokens[None], length[None], num_tokens[None], (context,)
                )
                return label_log_probs(decoder, prompts, queries)[0]

            rows = jnp.asarray(queries.queries), jnp.asarray(queries.query_lengths)
            return jax.lax.map(score_query, rows, batch_size=batch_size)

        return jnp.concatenate(list(map(score_part, parts, batch_sizes)))

    return jax.lax.map(lambda pair: score_labelling(*pair), (labels, orders))
