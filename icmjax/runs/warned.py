"""What a reader of a run should know before its labels are believed, in sentences."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from icmjax.claims import ClaimSet
from icmjax.runs.curves import Found
from icmjax.runs.facts import accuracies, algorithm_of, three_digits
from icmjax.statistics import share_interval

FEW_GROUPS = 30  # independent units, below which a share's 95 % interval can be wider than ± .18
NEAR_EVEN = 0.9  # of the entropy of an even guess
HIGH_R_HAT = 1.1
NUM_SHOWN = 3  # names in a sentence
STEM = 4  # letters of a name, after which languages change its ending
NAMING_WORDS = 3  # that all claims begin with, such as "A vegan would"
MOST_NAMED = 6  # claims in a sentence
MAXIMISES_U = ("ICM", "ParallelTempering", "Greedy")


def warnings_of(
    manifest: Mapping[str, Any], summary: Mapping[str, Any], claims: ClaimSet, found: Found
) -> list[str]:
    """All that a run warns of: what its search said, and what claims, labels and gold show.

    Whatever shows warnings of a run has them from here, or from the `summary.json` that keeps them.
    So they are the same at the end of a search, in a table of several, and on the page. Of a page
    that is given gold labels which the run does not keep, those of gold are new.

    Args:
      summary: with the `warnings` that are known, those of the search or all of them.
    """
    recorded = [str(warning) for warning in summary.get("warnings", [])]
    told = " ".join(recorded)
    own = [(text, text) for text in warnings_of_claims(claims, algorithm_of(manifest))]
    own += [*_of_labels(summary, claims, found), *_of_chains(found), *_of_gold(found)]
    return recorded + [text for text, part in own if part not in told]


def warnings_of_claims(claims: ClaimSet, algorithm: str) -> list[str]:
    """What can be warned of before anything is searched.

    Args:
      algorithm: the name of its class.
    """
    texts = []
    if len(claims.personas) > 1:
        texts.append(
            f"Claims of {len(claims.personas)} personas are one search, in which each is predicted "
            "from the others; --persona takes one, --personas all each by itself."
        )
    if not len(claims.rules.pairs) and algorithm in MAXIMISES_U:
        texts.append(
            "No pair rule ties these claims, and the highest U may be one label for all; --rule "
            "ties them, and --algorithm marginals does not maximise U."
        )
    return [*texts, *_of_names(claims)]


def _of_names(claims: ClaimSet) -> Iterator[str]:
    """Whose claims these are, where the model is not told: it reads no column of personas."""
    read: dict[str, list[tuple[str, ...]]] = {}
    for claim in claims.claims:
        # Wordings of a comparison name the persona themselves.
        compared = "" if claim.choice_2 is None else claim.persona
        read.setdefault(claim.persona, []).append((claim.question, compared, claim.choice))
    unnamed = [name for name in read if not _is_named(name, claims.preamble, read[name])]
    if not unnamed:
        return
    shown = ", ".join(filter(str.strip, unnamed[:NUM_SHOWN]))
    more = f" and {len(unnamed) - NUM_SHOWN} more" if len(unnamed) > NUM_SHOWN else ""
    whose = f"that these are claims of {shown}{more}" if shown else "whose claims these are"
    yield (
        f"No question, preamble or text of a claim says {whose}, and a model reads no column of "
        "personas: each claim has to say it, as 'A vegan would say: …', or a preamble before all."
    )


def _is_named(persona: str, preamble: str, texts: Sequence[tuple[str, ...]]) -> bool:
    """Whether texts name a persona, with whatever ending: Norvania as Norvanian, China as Chinese.

    Where no column says who it is, a preamble, a question or a beginning that all claims share may.
    """
    if not persona.strip():
        begun = {tuple(choice.split()[:NAMING_WORDS]) for *_, choice in texts}
        is_shared = len(texts) > 1 and len(begun) == 1
        return is_shared or any(map(str.strip, (preamble, *(question for question, *_ in texts))))
    text = "\n".join([preamble, *(part for parts in texts for part in parts)]).casefold()
    words = re.findall(r"\w+", persona.casefold())
    telling = [word for word in words if len(word) >= STEM or not word.isascii()] or words
    return any(re.search(_stem(word), text) for word in telling)


def _stem(word: str) -> str:
    """A pattern of the word with other endings; some scripts have no spaces before words."""
    if not word.isascii():
        return word[:STEM]
    return rf"\b{word[:STEM]}" if len(word) >= STEM else rf"\b{word}\b"


def turned_by(summary: Mapping[str, Any], claims: ClaimSet, labels: np.ndarray) -> list[str]:
    """Which given labels spoke for turning all others round, in a sentence; none where none did.

    It is no warning that a run keeps, for those are published, and what people answered is not.

    Args:
      labels: int8 `[N]`, those of the run.
    """
    spoke = summary["diagnostics"].get("spoke_for_turning", [])
    named = [
        f"claim {claims.claims[index].id!r}, held at {claims.options[labels[index]]} "
        f"({gain:.1f} nats)"
        for index, gain in spoke[:MOST_NAMED]
    ]
    if not named:
        return []
    others = f"; and {len(spoke) - MOST_NAMED} more" if len(spoke) > MOST_NAMED else ""
    return [f"For turning the others round spoke {'; '.join(named)}{others}."]


# Each of these is a sentence, and the part of it by which another one says the same.


def _of_labels(
    summary: Mapping[str, Any], claims: ClaimSet, found: Found
) -> Iterator[tuple[str, str]]:
    num_groups = len(claims.groups)
    if num_groups < FEW_GROUPS:
        low, high = map(three_digits, share_interval(0.5, num_groups))
        text = (
            f"The claims are of {num_groups} consistency groups. A share of so few is not well "
            f"known: the 95 % interval of one half is {low} to {high}."
        )
        yield text, text
    most = np.bincount(found.labels, minlength=len(found.options)).max() / len(found.labels)
    if most > 0.95:
        yield f"{most:.0%} of the labels are the same one.", "are the same one"
    even = found.diagnostics.get("mean_marginal_entropy", 0.0) / math.log(len(found.options))
    if even >= NEAR_EVEN:
        text = f"The marginals are near even: their mean entropy is {even:.0%} of a guess's."
        yield text, "marginals are near even"
    if summary.get("num_inconsistent"):
        yield f"The labels violate {summary['num_inconsistent']:,} pairs.", "The labels violate"


def _of_chains(found: Found) -> Iterator[tuple[str, str]]:
    diagnostics = found.diagnostics
    r_hat = diagnostics.get("max_r_hat_labels") or diagnostics.get("r_hat_utility") or 0.0
    num_apart = diagnostics.get("num_disagreeing_claims", 0)
    if r_hat > HIGH_R_HAT or num_apart:
        text = (
            "Chains of the search, or their halves, do not agree, so that another search may find "
            f"other labels: highest R-hat {three_digits(r_hat or None)} (1 where they agree), and "
            f"{num_apart} claims of which chains are sure, but not of the same label."
        )
        yield text, text


def _of_gold(found: Found) -> Iterator[tuple[str, str]]:
    """Whether found labels are better than the commonest gold label for all claims.

    An even guess is right of no more claims than that.
    """
    rows = accuracies(found)
    if not rows:
        return
    own, constant = rows[0], rows[-2]
    if own.interval is None or own.interval[0] > constant.accuracy:
        return
    low, high = map(three_digits, own.interval)
    if own.interval[1] < constant.accuracy:
        said = f"worse than one label for all. The true share is {high} at the most"
    else:
        said = f"not told from chance. The true share may be as low as {low}"
    text = (
        f"The accuracy of {three_digits(own.accuracy)} is {said} (95 % interval), and "
        f"{constant.name} has {three_digits(constant.accuracy)} without any search."
    )
    yield text, text
