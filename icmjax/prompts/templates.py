"""Templates: from a claim to the text of a query, from a label to the text that continues it.

The texts of claims, options and preamble are kept as they are, spaces at their ends included. The
template owns the whitespace that it puts between them, and the space before a label belongs to the
label.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from icmjax.claims import BINARY_OPTIONS, Claim, ClaimSet
from icmjax.errors import Fault, InputError


@dataclasses.dataclass(frozen=True)
class Template:
    """How claims and labels are put into words."""

    name: str
    query_fn: Callable[[Claim], str]  # text up to, not including, the label
    label_forms: tuple[tuple[str, ...], ...]  # [Y][F]; the first form is shown in demonstrations
    separator: str  # text after a label, before the next claim
    needs_choice_2: bool = False
    is_label_apart: bool = False  # the label is no part of the text: the prompt ends in a space

    def for_options(self, options: Sequence[str]) -> "Template":
        """This template with the label options of a claim set.

        False and True keep the template's own label forms; other options are written out as they
        are, each after one space.
        """
        if tuple(options) == BINARY_OPTIONS:
            return self
        space = "" if self.is_label_apart else " "
        forms = tuple((f"{space}{option}",) for option in options)
        return dataclasses.replace(self, label_forms=forms)

    def demonstration_text(self, claim: Claim, label: int) -> str:
        """A labelled claim as the context shows it, separator included."""
        return self.query_fn(claim) + self.label_forms[label][0] + self.separator

    def preamble_text(self, preamble: str) -> str:
        """The text before the first demonstration; "" for none."""
        return preamble + self.separator if preamble.strip() else ""

    def prompt_text(
        self,
        preamble: str,
        demonstrations: Sequence[tuple[Claim, int]],
        query: Claim,
    ) -> str:
        """The whole prompt of a query, up to its label.

        Args:
          preamble: text before the first demonstration; "" for none.
          demonstrations: pairs of claim and label index, in the order in which they are shown.
          query: the claim whose label comes next.
        """
        shown = "".join(self.demonstration_text(claim, label) for claim, label in demonstrations)
        return self.preamble_text(preamble) + shown + self.query_fn(query)


def _claim_query(claim: Claim) -> str:
    return f"{_line('Question', claim.question)}Claim: {claim.choice}\nI think this claim is"


def _line(name: str, text: str) -> str:
    """A named line; nothing where the text is blank, such as a statement's question."""
    return f"{name}: {text}\n" if text.strip() else ""


def _preference_query(claim: Claim) -> str:
    assert claim.choice_2 is not None, "a preference compares two responses"
    says = "Response A is more helpful and harmless than Response B"
    if claim.persona.strip():
        says = f"{claim.persona} prefer Response A to Response B"
    return (
        f"{_line('Query', claim.question)}"
        f"Response A: {claim.choice}\n"
        f"Response B: {claim.choice_2}\n"
        f"Claim: {says}\n"
        "I think this claim is"
    )


def _world_query(claim: Claim) -> str:
    if claim.choice_2 is None:
        return f"\n{claim.choice}:"
    return f"\n{claim.choice} rather than\n{claim.choice_2}:"


def _reference_query(claim: Claim) -> str:
    return f"Question: {claim.question}\nClaim: {claim.choice}\nI think this claim is "


def _reference_preference(claim: Claim) -> str:
    assert claim.choice_2 is not None, "a preference compares two responses"
    first, second = (text.replace("\n", "") for text in (claim.choice, claim.choice_2))
    return (
        f"Human: {claim.question}\nResponse 1: {first}\nResponse 2: {second}\n"
        "Claim: Response 1 is more helpful and harmless than Response 2.\nI think this claim is "
    )


def _reference_persona(claim: Claim) -> str:
    assert claim.choice_2 is not None, "a preference compares two responses"
    return (
        f"Question: {claim.question}\nResponse 1: {claim.choice}\nResponse 2: {claim.choice_2}\n"
        "Claim: Response 1 better matches the human response preference than Response 2.\n"
        "I think this claim is "
    )


def _reference_country(claim: Claim) -> str:
    """As the reference words a country's answer; another claim stays as it is."""
    ours = COUNTRY_CLAIM.fullmatch(claim.choice)
    if ours is not None:
        country, option = ours.groups()
        text = f'The majority of people in {country} would answer: "{option}".'
        claim = claim._replace(choice=text)
    return _reference_query(claim)


_LABEL_FORMS = ((" False",), (" True",))
_APART_FORMS = (("False",), ("True",))
# How `icmjax.claims` words a country's answer.
COUNTRY_CLAIM = re.compile(
    r"People from (?:the )?(.+) would answer this question as: '(.*)'", re.DOTALL
)

# The wording is that of Wen et al. (arXiv:2506.10139, table 1). A persona's claims name the
# persona themselves, and a solution's claim is its working, so that the three share one wording.
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("truth", _claim_query, _LABEL_FORMS, "\n\n"),
        Template("persona", _claim_query, _LABEL_FORMS, "\n\n"),
        Template("solution", _claim_query, _LABEL_FORMS, "\n\n"),
        Template("preference", _preference_query, _LABEL_FORMS, "\n\n", needs_choice_2=True),
        Template("country", _claim_query, _LABEL_FORMS, "\n\n"),
        # The prompts of Wen et al.'s code and its fork for countries, letter by letter: they end in
        # a space, and the label is read without one. A tokenizer that has spaces before words reads
        # both otherwise than inside of a text: on Gemma 3 this moves scores by .7 to 1.4 nats.
        Template("reference", _reference_query, _APART_FORMS, "\n\n", is_label_apart=True),
        Template(
            "reference_preference",
            _reference_preference,
            _APART_FORMS,
            "\n\n",
            needs_choice_2=True,
            is_label_apart=True,
        ),
        # Preferences of a persona, as that fork words them.
        Template(
            "reference_persona",
            _reference_persona,
            _APART_FORMS,
            "\n\n",
            needs_choice_2=True,
            is_label_apart=True,
        ),
        Template(
            "reference_country", _reference_country, _APART_FORMS, "\n\n", is_label_apart=True
        ),
        # The line break before a claim belongs to its first word: the world's tokenizer has it so.
        Template("world", _world_query, _LABEL_FORMS, ""),
    )
}


REFERENCES = {"preference": "reference_preference", "country": "reference_country"}


def get_template(name: str) -> Template:
    """The template of that name.

    Raises:
      InputError: there is none; the message names those that exist.
    """
    if name not in TEMPLATES:
        raise InputError(
            Fault(
                rule="A template is chosen by its name.",
                found=repr(name),
                where="template",
                remedy=f"choose one of {', '.join(TEMPLATES)}",
            )
        )
    return TEMPLATES[name]


def resolve_template(
    name: str | Template | None = None,
    model_default: str | None = None,
    claims: ClaimSet | None = None,
) -> Template:
    """The template to use: the one asked for, else the model's, else the data's, else "truth".

    Args:
      name: explicit choice, or a template of one's own; "reference" takes the reference code's
        prompt for the data's kind.
      model_default: the template that a model was trained on.
      claims: the claim set, for its schema's template and its label options.

    Raises:
      InputError: the name is unknown.
    """
    asked_by_data = claims.template if claims is not None else None
    if name == "reference":
        name = REFERENCES.get(asked_by_data or "", name)
    if isinstance(name, Template):
        template = name
    else:
        template = get_template(name or model_default or asked_by_data or "truth")
    return template.for_options(claims.options) if claims is not None else template
