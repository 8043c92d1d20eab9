"""From claims and a language model to a scorer, checked on the host."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, InputError
from icmjax.lm.loading import LanguageModel
from icmjax.scoring.blockwise import BlockwiseScorer, make_blockwise_scorer
from icmjax.scoring.sequential import Leave, SequentialScorer, prompt_widths
from icmjax.scoring.tree import MEMORY_BUDGET, TreeScorer, make_tree_scorer
from icmjax.templates import resolve_template
from icmjax.tokens import check_prompt_lengths, tokenize_claims

Method = Literal["sequential", "tree", "blockwise"]
BATCH_TOKENS = 4096  # of prompts in memory at a time, where no batch size is asked for


def make_scorer(
    lm: LanguageModel,
    claims: ClaimSet,
    method: Method = "sequential",
    template: str | None = None,
    leave: Leave = "claim",
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> SequentialScorer | TreeScorer | BlockwiseScorer:
    """A scorer of these claims under this model.

    Args:
      method: "sequential", where every query reads the others in their given order; "tree", where
        it reads them in an order of its own, for a fraction of the tokens; or "blockwise", where
        it reads them side by side, an approximation.
      template: name of the template; by default the model's own, then the one of the claims.
      leave: what a query's context leaves out: the claim itself (as the reference does), or its
        whole consistency group, so that an opposite cannot give its label away.
      batch_size: prompts ("sequential") or labellings ("tree") computed at a time; changes memory
        and speed, not scores.
      memory_budget: bytes that a "tree" pass may take beside the weights; the same holds.

    Raises:
      InputError: an unknown method, `leave` or template; a pass does not fit the memory budget.
      PromptError: a prompt does not fit the model, or labels share their first token.
    """
    choices = (("method", method, get_args(Method)), ("leave", leave, get_args(Leave)))
    faults = [
        Fault(f"{name} is one of {', '.join(known)}.", repr(value), name, "choose one of them")
        for name, value, known in choices
        if value not in known
    ]
    if batch_size is not None and batch_size < 1:
        faults.append(Fault("A batch has a prompt.", str(batch_size), "batch_size", "1 or more"))
    if faults:
        raise InputError(faults)
    tokens = tokenize_claims(
        claims, resolve_template(template, lm.default_template, claims), lm.tokenizer
    )
    check_prompt_lengths(tokens, lm.max_length)
    units = claims.group_index if leave == "group" else np.arange(len(claims))
    if method == "blockwise":
        return make_blockwise_scorer(lm, tokens, units, batch_size)
    if method == "tree":
        return make_tree_scorer(lm, tokens, units, batch_size, memory_budget)
    widths = prompt_widths(tokens)
    return SequentialScorer(
        lm=lm,
        claims=jax.tree.map(jnp.asarray, tokens),
        groups=jnp.asarray(claims.group_index, np.int32),
        leave=leave,
        batch_size=batch_size or max(1, BATCH_TOKENS // widths[-1]),
        widths=widths,
    )
