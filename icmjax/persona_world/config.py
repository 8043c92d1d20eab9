"""The knobs of the synthetic survey world, each with its reason."""

import dataclasses
import enum

from icmjax.errors import Fault, InputError


class Source(enum.IntEnum):
    """The kind of source that a transcript comes from; the header names it."""

    NATIONAL = 0  # a national poll: the group's majority answers
    WEB = 1  # a web poll: the same, with more errors
    STREET = 2  # street interviews: the same, with many errors
    INDIVIDUAL = 3  # one member of the group, with values of their own


class Style(enum.IntEnum):
    """How a source answers; all but SUBSTANTIVE are unreliable and carry no values."""

    SUBSTANTIVE = 0  # by its values
    UNCONSTRAINED = 1  # a coin per item, a claim and its opposite kept apart (Converse 1964)
    RANDOM = 2  # a coin per claim (Meade & Craig 2012)
    ALWAYS_TRUE = 3  # acquiescence (Krosnick 1991)
    ALWAYS_FALSE = 4  # disacquiescence


_SHARES = ("two_dimension_share", "mixed_share", "retest_share", "reversed_share", "paired_share")


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """A survey world; the same config gives the same groups, items, and transcripts.

    Values are in units of the standard deviation of one value dimension over all populations.
    Sources of the knobs: Guttman (1944) for the ladders of strength, Converse (1964) for
    unconstrained answers, Krosnick (1991) and Meade & Craig (2012, about 10 % careless) for the
    styles,
    Inglehart & Welzel (2005) for groups nested in cultural zones.
    """

    seed: int = 0
    # Values: populations lie in cultural zones; total variance of a dimension is near one.
    num_dimensions: int = 4
    num_zones: int = 6
    zone_scale: float = 0.8
    group_scale: float = 0.6
    individual_scale: float = 0.5
    # Groups: the named ones have Zipf frequencies in the transcripts; the unseen have none. The
    # exponent makes the last third rare: about a dozen transcripts each in pretraining. From a
    # hundred a model learns a group so well that its name says all there is to say about it.
    num_groups: int = 24
    num_unseen: int = 6
    frequency_exponent: float = 2.5
    # Items: every topic has one claim a strength; a claim is endorsed where the loading of the
    # values on the topic exceeds the difficulty of its strength (Guttman).
    num_topics: int = 48
    num_held_out_topics: int = 16
    difficulties: tuple[float, float, float, float] = (-1.0, -0.35, 0.35, 1.0)
    two_dimension_share: float = 0.5
    # Short answers: a forced choice, since a middle category draws those who would rather not
    # choose (Presser & Schuman 1980); the cuts of the loading of the values on the topic are about
    # the quartiles of all populations, so that the four levels are about equally frequent.
    answer_cuts: tuple[float, float, float] = (-0.7, 0.0, 0.7)
    # Sources: share of transcripts, and probability that an answer is not the one by values.
    source_shares: tuple[float, float, float, float] = (0.35, 0.25, 0.20, 0.20)
    source_errors: tuple[float, float, float, float] = (0.01, 0.03, 0.10, 0.03)
    # Styles: shares in the order of `Style`; about one transcript in ten is unreliable.
    style_shares: tuple[float, float, float, float, float] = (0.90, 0.03, 0.02, 0.03, 0.02)
    # Headers: source and group / source alone / none.
    header_shares: tuple[float, float, float] = (0.50, 0.25, 0.25)
    # Formats: labelled claims / pairwise preferences / short answers.
    format_shares: tuple[float, float, float] = (0.50, 0.25, 0.25)
    mixed_share: float = 0.5  # of the transcripts in the other two, those that begin with claims
    retest_share: float = 0.0  # of the transcripts, those that may ask the same item again
    reversed_share: float = 0.3  # of the claims asked alone, those in their opposite wording
    paired_share: float = 0.25  # of the transcripts, those where every claim has its opposite

    def __post_init__(self) -> None:
        faults = []
        shares = ("source_shares", "style_shares", "header_shares", "format_shares")
        for name in (*shares, "source_errors", "difficulties", "answer_cuts"):
            num, needed = len(getattr(self, name)), len(getattr(WorldConfig, name))
            if num != needed:
                found = f"{num} of {needed}"
                faults.append(Fault("Every kind has its number.", found, name, "give one each"))
        for name in shares:
            found = getattr(self, name)
            if min(found, default=0) < 0 or abs(sum(found) - 1) > 1e-9:
                faults.append(
                    Fault("Shares are at least 0 and sum to 1.", f"{found}", name, "correct them")
                )
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                found = f"{getattr(self, name)}"
                faults.append(Fault("A share lies in [0, 1].", found, name, "correct it"))
        lowest = {"num_dimensions": 2, "num_zones": 1, "num_groups": 1, "num_unseen": 0}
        lowest |= {"zone_scale": 0, "group_scale": 0, "individual_scale": 0}
        for name, limit in lowest.items():
            if getattr(self, name) < limit:
                found = f"{getattr(self, name)}"
                faults.append(Fault(f"{name} is at least {limit}.", found, name, "raise it"))
        if any(not 0 <= error <= 0.5 for error in self.source_errors):
            found = f"{self.source_errors}"
            faults.append(
                Fault("An error probability lies in [0, 0.5].", found, "source_errors", "lower it")
            )
        if not 0 < self.num_held_out_topics < self.num_topics:
            faults.append(
                Fault(
                    "Some topics are held out and some are not.",
                    f"{self.num_held_out_topics} of {self.num_topics}",
                    "num_held_out_topics",
                    "choose a number between 1 and num_topics - 1",
                )
            )
        for name in ("difficulties", "answer_cuts"):
            found = getattr(self, name)
            if list(found) != sorted(found):
                faults.append(Fault(f"The {name} rise.", f"{found}", name, "sort them"))
        if faults:
            raise InputError(faults)
