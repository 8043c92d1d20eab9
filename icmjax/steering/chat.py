"""Held-out claims put to a chat model as a user's message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from icmjax.claims import UNLABELLED, ClaimSet
from icmjax.errors import Fault, PromptError
from icmjax.lm import LanguageModel
from icmjax.prompts import TokenizedClaims, num_alike, pad_tokens, resolve_template, row_faults
from icmjax.steering.in_context import Steerer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue000"  # stands for the message while a template is looked at
Tokens = list[int]


def chat_zero_shot(lm: LanguageModel, queries: ClaimSet) -> np.ndarray | None:
    """Zero-shot label log-probs of claims put to a chat model as a user's message.

    The message is the claim under its template and a line that names the options; the answer is
    scored where the model's turn begins, by the options' own words. A model that may think first is
    asked not to. Names of control tokens inside of a claim are plain text.

    Returns:
      float32 `[M, Y]`, nats; None where the tokenizer has no chat template.

    Raises:
      PromptError: a prompt does not fit the model, an option begins with another one, or the chat
        template takes no single message of a user.
    """
    if not lm.tokenizer.chat_template:
        return None
    template = resolve_template(None, lm.default_template, queries)
    choices = " or ".join(queries.options)
    opening = queries.preamble.strip()
    messages = [
        f"{opening}\n{question}" if opening else question
        for question in (
            f"{template.query_fn(claim).strip()}...\nAnswer with {choices} alone."
            for claim in queries.claims
        )
    ]
    before, after = _turn(lm.tokenizer)
    prompts, forms = [], [Tokens()] * len(queries.options)
    for message in messages:
        rows = [
            _encode(lm.tokenizer, before, message, after + option) for option in queries.options
        ]
        prompt = _encode(lm.tokenizer, before, message, after)
        num_same = num_alike([prompt, *rows])
        prompts.append(rows[0][:num_same])
        forms = [row[num_same:] for row in rows]
    named = [(f"message {number}", prompt) for number, prompt in enumerate(prompts)]
    faults = row_faults(named, lm.tokenizer, lm.config.vocab_size)
    faults += _option_faults(queries.options, forms)
    if faults:
        raise PromptError(faults)
    claims = _prompts_alone(prompts, forms)
    return Steerer(lm, claims, claims)(np.full(len(queries), UNLABELLED, np.int8))


def _turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What a chat template puts before and after a user's message."""
    where = "the model's chat template"
    remedy = "leave out the chat condition, or give the tokenizer another chat template"
    turn = [{"role": "user", "content": MARK}]
    try:
        text = tokenizer.apply_chat_template(
            turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except jinja2.TemplateError as error:
        rule = "A chat template takes a single message of a user."
        raise PromptError(Fault(rule, f"{type(error).__name__}: {error}", where, remedy)) from error
    parts = str(text).split(MARK)
    if len(parts) != 2:
        rule = "A chat template shows a message once."
        raise PromptError(Fault(rule, f"{len(parts) - 1} times", where, remedy))
    return parts[0], parts[1]


def _encode(tokenizer: PreTrainedTokenizerBase, before: str, message: str, after: str) -> Tokens:
    """The tokens of a turn, whose own control tokens count and those that a message names do not.

    A message that names none is read with its turn as one text. Of another one the text between the
    control tokens around it is read apart.
    """

    def read(text: str, is_plain: bool = False) -> Tokens:
        return tokenizer(
            text, add_special_tokens=False, split_special_tokens=is_plain, verbose=False
        )["input_ids"]

    control = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    if not any(name in message for name in control):
        return read(before + message + after)
    start = max((before.rfind(name) + len(name) for name in control if name in before), default=0)
    end = min((after.find(name) for name in control if name in after), default=len(after))
    inside = before[start:] + message + after[:end]
    return read(before[:start]) + read(inside, is_plain=True) + read(after[end:])


def _option_faults(options: Sequence[str], forms: Sequence[Tokens]) -> list[Fault]:
    return [
        Fault(
            rule="No option begins with another one, whose probability would hold its own.",
            found=f"{one!r} and {other!r}",
            where="the label options, under this model's tokenizer",
            remedy="name options of which none begins another",
        )
        for i, (one, own) in enumerate(zip(options, forms, strict=True))
        for other, others in list(zip(options, forms, strict=True))[:i]
        if own[: len(others)] == others[: len(own)]
    ]


def _prompts_alone(prompts: list[Tokens], forms: list[Tokens]) -> TokenizedClaims:
    """Prompts that are whole, as claims that are never shown."""
    rows, lengths = pad_tokens(prompts)
    options, option_lengths = pad_tokens(forms)
    return TokenizedClaims(
        preamble=np.zeros(0, np.int32),
        queries=rows,
        query_lengths=lengths,
        demonstrations=np.zeros((len(prompts), len(forms), 1), np.int32),
        demonstration_lengths=np.zeros((len(prompts), len(forms)), np.int32),
        label_forms=options[:, None],
        label_form_lengths=option_lengths[:, None],
    )
