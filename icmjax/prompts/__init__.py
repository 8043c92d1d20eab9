"""How claims are put to a model: templates, which are pure strings, and their tokens."""

from icmjax.prompts.templates import TEMPLATES, Template, get_template, resolve_template
from icmjax.prompts.tokens import (
    TokenizedClaims,
    check_prompt_lengths,
    pad_tokens,
    prompt_lengths,
    tokenize_claims,
)

__all__ = [
    "TEMPLATES",
    "Template",
    "TokenizedClaims",
    "check_prompt_lengths",
    "get_template",
    "pad_tokens",
    "prompt_lengths",
    "resolve_template",
    "tokenize_claims",
]
