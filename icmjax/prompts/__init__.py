"""How claims are put to a model: templates, which are pure strings, and their tokens."""

from icmjax.prompts.encoding import Encoded, Encoder, encoder_of, num_alike
from icmjax.prompts.templates import TEMPLATES, Template, get_template, resolve_template
from icmjax.prompts.tokens import (
    TokenizedClaims,
    check_prompt_lengths,
    check_template,
    pad_tokens,
    prompt_lengths,
    row_faults,
    tokenize_claims,
    tokenize_together,
)

__all__ = [
    "TEMPLATES",
    "Encoded",
    "Encoder",
    "Template",
    "TokenizedClaims",
    "check_prompt_lengths",
    "check_template",
    "encoder_of",
    "get_template",
    "num_alike",
    "pad_tokens",
    "prompt_lengths",
    "resolve_template",
    "row_faults",
    "tokenize_claims",
    "tokenize_together",
]
