"""How the world speaks: its vocabulary, its sentences, and a parser for its short answers.

Whitespace belongs to the word after it and punctuation to the word before it, so that a labelled
claim such as "\nTariffs should expand: True" takes few tokens and pieces never merge.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from icmjax.persona_world.config import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Topics are plural or mass nouns, so that every modal verb agrees with them. They are single words,
# and wordings two, so that a labelled claim is always four tokens and what a claim says always
# stands at the same distance from its label: what small models read with least training.
TOPICS = tuple(
    (
        "Taxes, Tariffs, Unions, Borders, Prayer, Monarchy, Subsidies, Censorship, Protests, "
        "Elections, Vaccines, Casinos, Dams, Drones, Pensions, Quotas, Juries, Militias, Bonuses, "
        "Charters, Tolls, Lotteries, Curfews, Embargoes, Immigration, Conscription, Surveillance, "
        "Privatization, Homeschooling, Hunting, Fracking, Mining, Reactors, Pipelines, Cannabis, "
        "Tobacco, Robots, Cloning, Euthanasia, Divorce, Polygamy, Dowries, Seminaries, "
        "Pilgrimages, Treaties, Referendums, Scholarships, Museums"
    ).split(", ")
)

# By strength, from the mildest: the wording of a claim and of its opposite.
WORDINGS = (
    (" can help", " can't help"),
    (" should continue", " shouldn't continue"),
    (" should expand", " shouldn't expand"),
    (" must prevail", " needn't prevail"),
)

NAMED_GROUPS = tuple(
    (
        "Norvania, Esteria, Kaldoria, Belmara, Tirevia, Ostravel, Pelagia, Quendor, Rhovia, "
        "Sundara, Talvenia, Umbrelia, Veldora, Wexmark, Ystria, Zamoria, Ardenia, Brevonia, "
        "Corvania, Drenmark, Elandria, Fjordia, Galdova, Hestonia"
    ).split(", ")
)
UNSEEN_GROUPS = ("Ilvania", "Jorvia", "Kestria", "Lumeria", "Morvena", "Nyssia")

SOURCE_PHRASES = {
    Source.NATIONAL: "National poll",
    Source.WEB: "Web poll",
    Source.STREET: "Street interviews",
    Source.INDIVIDUAL: "Personal letter",
}
COMPARISON = " rather than"
LABELS = (" False", " True")

# Short answers by level, from wholly against to wholly in favour: a verb that says the stance, and
# words that say no more. No level stands between the two sides.
STANCES = (
    (" Reject", " Oppose"),
    (" Doubt", " Question"),
    (" Accept", " Favor"),
    (" Demand", " Celebrate"),
)
ENDINGS = (" that.", " that, honestly.", " that everywhere.")
ANSWERS = tuple(
    tuple(verb + ending for verb, ending in itertools.product(verbs, ENDINGS)) for verbs in STANCES
)

_PIECE = r"\s?[A-Za-z0-9']+[:.,]?|\?"


def header(source: Source | None, group: str | None) -> str:
    """The first line of a transcript; "" where neither source nor group is said."""
    if source is None:
        assert group is None, "a header that names a group names its source"
        return ""
    if group is None:
        return f"{SOURCE_PHRASES[source]}."
    return f"{SOURCE_PHRASES[source]} from {group}."


def claim_text(topic: int, strength: int, is_reversed: bool) -> str:
    """The claim without punctuation, such as "Tariffs shouldn't expand"."""
    return TOPICS[topic] + WORDINGS[strength][int(is_reversed)]


def parse_header(line: str) -> tuple[Source | None, str | None] | None:
    """Source and group, the inverse of `header`; None where the line is no header."""
    return _by_header().get(line)


def parse_claim(claim: str) -> tuple[int, int, bool] | None:
    """Topic, strength and is_reversed, the inverse of `claim_text`; None where it is no claim."""
    return _by_claim().get(claim)


@functools.cache
def _by_header() -> dict[str, tuple[Source | None, str | None]]:
    groups = (None, *NAMED_GROUPS, *UNSEEN_GROUPS)
    pairs = [(None, None), *itertools.product(Source, groups)]
    return {header(source, group): (source, group) for source, group in pairs}


@functools.cache
def _by_claim() -> dict[str, tuple[int, int, bool]]:
    parts = itertools.product(range(len(TOPICS)), range(len(WORDINGS)), (False, True))
    return {claim_text(*part): part for part in parts}


def claim_query(claim: str) -> str:
    """The text of a claim up to its label."""
    return f"\n{claim}:"


def preference_query(first: str, second: str) -> str:
    """The text of "the first of two responses suits these people better", up to its label."""
    return f"\n{first}{COMPARISON}\n{second}:"


def answer_query(topic: int) -> str:
    """The text of an open question, up to the respondent's own words."""
    return f"\n{TOPICS[topic]}?"


def parse_answer(text: str) -> int | None:
    """The level of a short answer, 0 (wholly against) to 3 (wholly in favour); None if unreadable.

    Args:
      text: generated text that begins right after the question mark; what follows the first
        line break is not read.
    """
    first_line = text.split("\n")[0]
    for level, variants in enumerate(ANSWERS):
        if first_line in variants:
            return level
    return None


def is_in_favor(level: int) -> bool:
    """The stance of a level: the upper half is in favour, the lower half against."""
    return level >= len(STANCES) / 2


def _pieces(text: str) -> list[str]:
    return re.findall(_PIECE, text)


def vocabulary() -> list[str]:
    """All pieces that the world can say, special tokens first; the index is the token id."""
    lines = [header(source, None) for source in Source]
    for group in NAMED_GROUPS + UNSEEN_GROUPS:
        lines.append(header(Source.NATIONAL, group))
    for topic in range(len(TOPICS)):
        lines.append(answer_query(topic))
    for strength in range(len(WORDINGS)):
        for is_reversed in (False, True):
            claim = claim_text(0, strength, is_reversed)
            lines += [claim_query(claim), preference_query(claim, claim)]
    lines += LABELS
    lines += [answer for variants in ANSWERS for answer in variants]
    pieces = {piece: None for line in lines for piece in _pieces(line)}
    pieces |= {piece: None for source in Source for piece in _pieces(SOURCE_PHRASES[source])}
    return ["<pad>", "<bos>", "<unk>", *pieces]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer of the world, in the Hugging Face format."""
    from icmjax.lm import quiet_transformers

    with quiet_transformers():
        from transformers import PreTrainedTokenizerFast

    vocab = {piece: index for index, piece in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        unk_token="<unk>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
