"""Held-out claims put to a chat model as a user's message."""

import dataclasses
from typing import Any

import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.lm import LanguageModel
from icmjax.prompts import pad_tokens, resolve_template, tokenize_claims
from icmjax.steering.in_context import Steerer


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
