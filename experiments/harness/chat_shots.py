"""Labelled claims before held-out ones, put to a model through its chat template.

The form "message" is that of the published code: a system prompt, and one message of the user with
numbered examples before the task (github.com/yd-pei/icm_for_pluralistic_alignment, commit 5a82698,
test_opinionsqa/gen_few_shot.py and gen_zero_shot_chat.py). What it calls a party is a persona here.
The form "turns" has the same system prompt, and makes each example a turn of the user and one of
the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.errors import Fault, PromptError
from icmjax.lm import LanguageModel
from icmjax.prompts import TokenizedClaims, num_alike, pad_tokens, resolve_template, row_faults
from icmjax.steering import fill_up, make_steerer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_FORMS = ("message", "turns")
Tokens = list[int]
Messages = list[dict[str, str]]
Shots = Sequence[tuple[str, str]]  # a claim under its template, and the option that labels it


def chat_shots(
    lm: LanguageModel,
    form: str,
    claims: ClaimSet,
    labels: np.ndarray,
    queries: ClaimSet,
    template: str | None = None,
) -> np.ndarray:
    """Label log-probs of held-out claims after labelled ones, through the model's chat template.

    What all prompts have in common is read once. A model that may think first is asked not to.

    Args:
      form: of CHAT_FORMS.
      claims: N claims, shown in their order; none for zero-shot.
      labels: int8 `[N]`, an option each.
      template: of the claims; None for the model's or the data's own.

    Returns:
      float32 `[M, Y]`, nats.

    Raises:
      PromptError: the chat template takes no such turns, a claim names a control token, or a
        prompt does not fit the model.
    """
    worded = resolve_template(template, lm.default_template, queries)
    shots = [
        (worded.query_fn(claim), queries.options[label])
        for claim, label in zip(claims.claims, labels, strict=True)
    ]
    conversations = [
        messages_of(form, shots, worded.query_fn(claim), claim.persona, queries)
        for claim in queries.claims
    ]
    tokens = fill_up(as_claims(*encode_all(lm, conversations, queries.options)))
    # A steerer of other tokens: it checks their lengths, and reads what is shown once.
    steerer = make_steerer(lm, queries, queries, template)
    return steerer._replace(demonstrations=tokens, queries=tokens)(np.zeros(1, np.int8))


def messages_of(form: str, shots: Shots, query: str, persona: str, claims: ClaimSet) -> Messages:
    """The conversation that ends where the model is to answer with an option of the claims'.

    A preamble of theirs, which no published claim has, stands before the system prompt.
    """
    choices = " or ".join(reversed(claims.options))
    system = (
        "You are a strict boolean classifier. Given an instruction and an input claim, output "
        f"exactly one of: {choices}. No punctuation, no extra words."
    )
    if claims.preamble.strip():
        system = f"{claims.preamble.strip()}\n\n{system}"
    instruction = f"Label the input claim as {choices}"
    ending = f"Answer with exactly one token: {choices}."
    task = f"{instruction}\n\nInput:\n{{}}\n\n{ending}"
    turns: list[tuple[str, str]] = []
    if form == "turns":
        for text, label in shots:
            turns += [("user", task.format(text)), ("assistant", label)]
        turns.append(("user", task.format(query)))
    else:
        message = task.format(query)
        if shots:
            header = f"Few-shot examples for persona: {persona or 'N/A'} (count={len(shots)})"
            examples = [
                f"Example {number}:\nInput: {text}\nLabel: {label}"
                for number, (text, label) in enumerate(shots, start=1)
            ]
            message = "\n\n".join([header, *examples, f"Task:\n{message}"])
        turns.append(("user", message))
    return [{"role": role, "content": text} for role, text in [("system", system), *turns]]


def encode_all(
    lm: LanguageModel, conversations: Sequence[Messages], options: Sequence[str]
) -> tuple[list[Tokens], list[Tokens]]:
    """Tokens of M prompts up to where their options part, and of each option after that.

    Raises:
      PromptError: as of `chat_shots`.
    """
    prompts, forms = [], set()
    for messages in conversations:
        text = render(lm.tokenizer, messages)
        # An option may join to what is before it: the whole is read as one text.
        rows = [
            lm.tokenizer(text + ending, add_special_tokens=False, verbose=False)["input_ids"]
            for ending in ("", *options)
        ]
        num_same = num_alike(rows)
        prompts.append(rows[0][:num_same])
        forms.add(tuple(tuple(row[num_same:]) for row in rows[1:]))
    if len(forms) > 1 or any(not form for form in next(iter(forms))):
        rule = "After a chat template's last turn an option has tokens of its own, always the same."
        found, remedy = f"{len(forms)} ways to read {options}", "leave the chat forms out"
        raise PromptError(Fault(rule, found, "the model's chat template", remedy))
    named = [(f"message {number}", prompt) for number, prompt in enumerate(prompts)]
    faults = row_faults(named, lm.tokenizer, lm.config.vocab_size)
    if faults:
        raise PromptError(faults)
    return prompts, [list(form) for form in next(iter(forms))]


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """A conversation as the chat template writes it, up to the model's next turn.

    Raises:
      PromptError: the template takes no such turns, or a message names a control token.
    """
    faults = [
        Fault(
            "A claim names no control token of the tokenizer.",
            repr(name),
            repr(message["content"][:60]),
            "leave the claim or the chat forms out",
        )
        for message in messages
        for name in sorted(tokenizer.all_special_tokens)
        if name in message["content"]
    ]
    if faults:
        raise PromptError(faults)
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except jinja2.TemplateError as error:
        rule = "A chat template takes a system prompt, and turns of user and assistant."
        found, remedy = f"{type(error).__name__}: {error}", "leave the chat forms out with --forms"
        raise PromptError(Fault(rule, found, "the model's chat template", remedy)) from error
    return str(text)


def as_claims(prompts: list[Tokens], forms: list[Tokens]) -> TokenizedClaims:
    """What all prompts begin with as one claim that is shown, and the rest of them as M queries."""
    num_same = min(num_alike(prompts), min(map(len, prompts)) - 1)
    begun = pad_tokens([prompts[0][:num_same]])
    asked = pad_tokens([prompt[num_same:] for prompt in prompts])
    options, option_lengths = pad_tokens(forms)
    return TokenizedClaims(
        preamble=np.zeros(0, np.int32),
        queries=asked[0],
        query_lengths=asked[1],
        demonstrations=np.repeat(begun[0][:, None], len(forms), axis=1),
        demonstration_lengths=np.repeat(begun[1][:, None], len(forms), axis=1),
        label_forms=options[:, None],
        label_form_lengths=option_lengths[:, None],
    )
