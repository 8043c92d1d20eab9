"""Transcripts of the world as token arrays, drawn in whole batches by numpy.

A transcript is a header and then claims (or preferences, or short answers) of one respondent,
cut at the batch's width. Batches are a pure function of (world, seed, step), so that a resumed
pretraining run reads what an uninterrupted one would have read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from icmjax.persona_world import text
from icmjax.persona_world.config import Source, Style
from icmjax.persona_world.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_STRENGTHS = len(text.WORDINGS)
CLAIMS, PREFERENCES, ANSWERS = range(3)


class Respondents(NamedTuple):
    """Who answers in each of B transcripts."""

    sources: np.ndarray  # int64 [B], of `Source`
    styles: np.ndarray  # int64 [B], of `Style`
    headers: np.ndarray  # int64 [B]: 0 source and group, 1 source, 2 none
    groups: np.ndarray  # int64 [B]; -1 where the population has no name
    values: np.ndarray  # float64 [B, K]


class Batch(NamedTuple):
    """B transcripts of T tokens, each filled to the brim; `Tables.pad` only where one ran short."""

    tokens: np.ndarray  # int32 [B, T]
    is_label: np.ndarray  # bool [B, T]: the token is a label of a claim or preference
    is_answer: np.ndarray  # bool [B, T]: the word of a short answer that says its stance
    is_real: np.ndarray  # bool [B, T]
    label_index: np.ndarray  # int32 [B, T]: how many labels come before this token


class Table(NamedTuple):
    """Ragged token sequences by a common index, right-padded."""

    tokens: np.ndarray  # int32 [..., width]
    lengths: np.ndarray  # int64 [...]


# Ragged pieces of every claim: tokens [B, M, w], lengths [B, M], and their kind.
Part = tuple[np.ndarray, np.ndarray, int]


class Tables(NamedTuple):
    """Everything the world can say, as tokens."""

    headers: Table  # [4 sources, 1 + groups, width]: group 0 is "no group named"
    claims: Table  # [topics, strengths, 2, width], with the colon
    compared: Table  # the same, with what a preference says after its first response
    open_questions: Table  # [topics, width]
    answers: Table  # [4 levels, 6 variants, width]; the first token says the stance
    labels: np.ndarray  # int32 [2]
    pad: int
    bos: int


def _table(lines: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> Table:
    """Tokenises an object array of strings of any shape."""
    flat = [
        tokenizer(line, add_special_tokens=False).input_ids if line else [] for line in lines.flat
    ]
    lengths = np.array([len(ids) for ids in flat]).reshape(lines.shape)
    tokens = np.zeros((len(flat), max(1, lengths.max())), np.int32)
    for row, ids in zip(tokens, flat, strict=True):
        row[: len(ids)] = ids
    return Table(tokens.reshape(*lines.shape, -1), lengths)


def make_tables(world: World, tokenizer: PreTrainedTokenizerBase) -> Tables:
    """Tokenises all sentences of the world once."""
    topics = range(world.config.num_topics)
    claims = np.array(
        [
            [
                [text.claim_text(topic, strength, side) for side in (False, True)]
                for strength in range(NUM_STRENGTHS)
            ]
            for topic in topics
        ],
        dtype=object,
    )
    headers = np.array(
        [[text.header(source, group) for group in (None, *world.group_names)] for source in Source],
        dtype=object,
    )
    label_ids = tokenizer("".join(text.LABELS), add_special_tokens=False).input_ids
    assert len(label_ids) == len(text.LABELS), "labels of the world are single tokens"
    as_array = np.frompyfunc(lambda claim, end: f"\n{claim}{end}", 2, 1)
    return Tables(
        headers=_table(headers, tokenizer),
        claims=_table(as_array(claims, ":"), tokenizer),
        compared=_table(as_array(claims, text.COMPARISON), tokenizer),
        open_questions=_table(
            np.array([text.answer_query(topic) for topic in topics], dtype=object), tokenizer
        ),
        answers=_table(np.array(text.ANSWERS, dtype=object), tokenizer),
        labels=np.array(label_ids, np.int32),
        pad=tokenizer.pad_token_id,
        bos=tokenizer.bos_token_id,
    )


def sample_respondents(rng: np.random.Generator, world: World, num: int) -> Respondents:
    """Draws who answers; unnamed populations are new draws from the zones, never a named group."""
    config = world.config
    sources = rng.choice(len(Source), num, p=config.source_shares)
    styles = rng.choice(len(Style), num, p=config.style_shares)
    headers = rng.choice(3, num, p=config.header_shares)
    groups = rng.choice(config.num_groups, num, p=world.group_frequencies)
    zones = rng.integers(config.num_zones, size=num)
    shape = (num, config.num_dimensions)
    unnamed = world.zone_values[zones] + config.group_scale * rng.standard_normal(shape)
    is_named = headers == 0
    values = np.where(is_named[:, None], world.group_values[groups], unnamed)
    own = config.individual_scale * rng.standard_normal(shape)
    values = values + np.where((sources == Source.INDIVIDUAL)[:, None], own, 0.0)
    return Respondents(sources, styles, headers, np.where(is_named, groups, -1), values)


def answer_claims(
    rng: np.random.Generator,
    world: World,
    respondents: Respondents,
    topics: np.ndarray,
    strengths: np.ndarray,
    is_reversed: np.ndarray,
) -> np.ndarray:
    """Labels of claims by each respondent's style and source: int64 `[B, M]` of 0 and 1.

    One error is drawn an item and respondent, so that a claim and its opposite stay apart
    wherever the style answers by item.
    """
    num, _ = topics.shape
    config = world.config
    margins = world.margins(respondents.values)
    rows = np.arange(num)[:, None]
    errors = np.asarray(config.source_errors)[respondents.sources]
    grid = (num, config.num_topics, NUM_STRENGTHS)
    is_error = rng.random(grid) < errors[:, None, None]
    by_values = ((margins > 0) ^ is_error)[rows, topics, strengths] ^ is_reversed
    by_item = (rng.random(grid) < 0.5)[rows, topics, strengths] ^ is_reversed
    by_claim = rng.random(topics.shape) < 0.5
    return _by_style(respondents, by_values, by_item, by_claim, highest=1)


def answer_preferences(
    rng: np.random.Generator, world: World, respondents: Respondents, utilities: np.ndarray
) -> np.ndarray:
    """Whether the first of two responses suits better: int64 `[B, M]` of 0 and 1.

    Args:
      utilities: float64 `[B, M, 2]`, how strongly the respondent's values agree with each.
    """
    shape = utilities.shape[:2]
    errors = np.asarray(world.config.source_errors)[respondents.sources][:, None]
    by_values = (utilities[..., 0] > utilities[..., 1]) ^ (rng.random(shape) < errors)
    by_coin = rng.random(shape) < 0.5
    return _by_style(respondents, by_values, by_coin, by_coin, highest=1)


def answer_levels(
    rng: np.random.Generator, world: World, respondents: Respondents, topics: np.ndarray
) -> np.ndarray:
    """Levels of short answers, from against to in favour: int64 `[B, M]` of 0 to 3.

    An error of the source replaces the level by any of the four.
    """
    rows = np.arange(len(topics))[:, None]
    by_values = world.levels(respondents.values)[rows, topics]
    errors = np.asarray(world.config.source_errors)[respondents.sources][:, None]
    highest = len(text.STANCES) - 1
    by_coin = rng.integers(1 + highest, size=topics.shape)
    by_values = np.where(rng.random(topics.shape) < errors, by_coin, by_values)
    return _by_style(respondents, by_values, by_coin, by_coin, highest)


def _by_style(
    respondents: Respondents,
    by_values: np.ndarray,
    by_item: np.ndarray,
    by_claim: np.ndarray,
    highest: int,
) -> np.ndarray:
    """The answers of each respondent's style, int64 `[B, M]`, in the order of `Style`."""
    always = np.full_like(by_claim, highest), np.zeros_like(by_claim)
    styles = respondents.styles[:, None]
    return np.select(
        [styles == style for style in Style], [by_values, by_item, by_claim, *always]
    ).astype(np.int64)


def _shuffled(rng: np.random.Generator, num: int, size: int) -> np.ndarray:
    """Independent permutations: int64 `[num, size]`."""
    return np.argsort(rng.random((num, size)), axis=1)


def _sample_items(
    rng: np.random.Generator, world: World, num: int, num_items: int, topics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Items from each row's topics `[num, k]`: topics and strengths, int64 `[num, num_items]`."""
    num_known, retest_share = topics.shape[1] * NUM_STRENGTHS, world.config.retest_share
    if retest_share == 1:  # items may come again, so that few of them fill a row
        items = rng.integers(num_known, size=(num, num_items))
    else:
        items = _shuffled(rng, num, num_known)[:, :num_items]
        is_retest = rng.random((num, 1)) < retest_share
        items = np.where(is_retest, rng.integers(num_known, size=items.shape), items)
    return np.take_along_axis(topics, items // NUM_STRENGTHS, 1), items % NUM_STRENGTHS


def _sample_claims(
    rng: np.random.Generator, world: World, num: int, num_claims: int, topics: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Claims of each transcript: topics, strengths and is_reversed `[num, num_claims]`.

    In a paired transcript claims come with their opposites, side by side in one half of these
    transcripts and anywhere in the other half.
    """
    config = world.config
    topics, strengths = _sample_items(rng, world, num, num_claims, topics)
    num_claims = topics.shape[1]
    is_reversed = rng.random((num, num_claims)) < config.reversed_share
    pair_of = np.arange(num_claims) // 2
    first_side = rng.random((num, num_claims)) < 0.5
    paired_side = first_side[:, pair_of] ^ (np.arange(num_claims) % 2 == 1)
    order = _shuffled(rng, num, num_claims)
    order = np.where(rng.random((num, 1)) < 0.5, order, np.arange(num_claims))
    is_paired = rng.random((num, 1)) < config.paired_share

    def choose(alone: np.ndarray, paired: np.ndarray) -> np.ndarray:
        return np.where(is_paired, np.take_along_axis(paired, order, 1), alone)

    return (
        choose(topics, topics[:, pair_of]),
        choose(strengths, strengths[:, pair_of]),
        choose(is_reversed, paired_side),
    )


def _pack(parts: list[Part], width: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes the gaps of ragged parts `(tokens [B, M, w], lengths [B, M], kind)`, in order of M.

    Returns tokens and kinds, int32 `[B, width]`; kind -1 where the row ran short.
    """
    tokens = np.concatenate([tokens for tokens, _, _ in parts], axis=2)
    kinds = np.concatenate(
        [
            np.where(np.arange(tokens.shape[2]) < lengths[..., None], kind, -1)
            for tokens, lengths, kind in parts
        ],
        axis=2,
    )
    short = max(0, width - tokens.shape[1] * tokens.shape[2])
    tokens, kinds = (array.reshape(len(array), -1) for array in (tokens, kinds))
    tokens = np.pad(tokens, ((0, 0), (0, short)))
    kinds = np.pad(kinds, ((0, 0), (0, short)), constant_values=-1)
    order = np.argsort(kinds < 0, axis=1, kind="stable")[:, :width]
    tokens, kinds = (np.take_along_axis(array, order, 1) for array in (tokens, kinds))
    return np.where(kinds < 0, pad, tokens).astype(np.int32), kinds.astype(np.int32)


TEXT, LABEL, STANCE = range(3)


def _claim_parts(
    rng: np.random.Generator,
    world: World,
    tables: Tables,
    respondents: Respondents,
    num_claims: int,
    topics: np.ndarray,
) -> list[Part]:
    topics, strengths, is_reversed = _sample_claims(
        rng, world, len(respondents.groups), num_claims, topics
    )
    labels = answer_claims(rng, world, respondents, topics, strengths, is_reversed)
    index = (topics, strengths, is_reversed.astype(np.int64))
    return [
        (tables.claims.tokens[index], tables.claims.lengths[index], TEXT),
        (tables.labels[labels][..., None], np.ones_like(labels), LABEL),
    ]


def _preference_parts(
    rng: np.random.Generator,
    world: World,
    tables: Tables,
    respondents: Respondents,
    num_claims: int,
    topics: np.ndarray,
) -> list[Part]:
    num = len(respondents.groups)
    num_claims = min(num_claims, topics.shape[1] * NUM_STRENGTHS // 2)
    topics, strengths = _sample_items(rng, world, num, 2 * num_claims, topics)
    is_reversed = rng.random(topics.shape) < world.config.reversed_share
    rows = np.arange(num)[:, None]
    margins = world.margins(respondents.values)[rows, topics, strengths]
    utilities = np.where(is_reversed, -margins, margins).reshape(num, num_claims, 2)
    labels = answer_preferences(rng, world, respondents, utilities)
    index = tuple(
        array.reshape(num, num_claims, 2) for array in (topics, strengths, is_reversed.astype(int))
    )
    return [
        *(
            (table.tokens[index][:, :, side], table.lengths[index][:, :, side], TEXT)
            for side, table in enumerate((tables.compared, tables.claims))
        ),
        (tables.labels[labels][..., None], np.ones_like(labels), LABEL),
    ]


def _answer_parts(
    rng: np.random.Generator,
    world: World,
    tables: Tables,
    respondents: Respondents,
    num_claims: int,
    topics: np.ndarray,
) -> list[Part]:
    num, num_known = topics.shape
    # Every topic is asked about once, and again only where the transcript is about a few.
    num_rounds = 1 if num_known == world.config.num_topics else -(-num_claims // num_known)
    rounds = [
        np.take_along_axis(topics, _shuffled(rng, num, num_known), 1) for _ in range(num_rounds)
    ]
    topics = np.concatenate(rounds, axis=1)[:, :num_claims]
    levels = answer_levels(rng, world, respondents, topics)
    variants = rng.integers(len(text.ANSWERS[0]), size=topics.shape)
    tokens, lengths = (field[levels, variants] for field in tables.answers)
    return [
        (tables.open_questions.tokens[topics], tables.open_questions.lengths[topics], TEXT),
        (tokens[..., :1], np.ones_like(lengths), STANCE),
        (tokens[..., 1:], lengths - 1, TEXT),
    ]


def _mix(
    rng: np.random.Generator,
    world: World,
    claims: tuple[np.ndarray, np.ndarray],
    body: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Bodies of which some begin with claims, of the same respondent, before their own format.

    Args:
      claims, body: tokens and kinds, int32 `[B, width]`, as of `_pack`.
    """
    num, width = body[0].shape
    num_labels = np.cumsum(claims[1] == LABEL, axis=1)
    num_claims = rng.integers(1, 1 + np.maximum(num_labels[:, -1], 1))
    is_before = num_labels < num_claims[:, None]
    is_mixed = rng.random((num, 1)) < world.config.mixed_share
    start = np.where(is_mixed, 1 + is_before.sum(1, keepdims=True), 0)
    column = np.arange(width)
    index = np.clip(column - start, 0, width - 1)
    tokens, kinds = (
        np.where(column < start, first, np.take_along_axis(second, index, 1))
        for first, second in zip(claims, body, strict=True)
    )
    return tokens, kinds


def sample_batch(
    seed: int,
    step: int,
    world: World,
    tables: Tables,
    num: int,
    width: int,
    num_topics: int | None = None,
) -> Batch:
    """Draws the transcripts of one training step.

    Args:
      seed, step: name the batch; equal arguments give equal batches.
      num: transcripts B. Formats keep the config's shares up to rounding, in one order, so that
        every batch holds every format once B allows it.
      width: tokens T a transcript.
      num_topics: how many topics the claims of one transcript are about; None for all.
    """
    rng = np.random.default_rng((seed, step))
    respondents = sample_respondents(rng, world, num)
    bounds = np.floor(np.cumsum((0.0, *world.config.format_shares)) * num + rng.random()).astype(
        int
    )
    bounds[0], bounds[-1] = 0, num
    bodies, body_kinds = [], []
    make_parts = (_claim_parts, _preference_parts, _answer_parts)
    tokens_each = (4, 9, 4)  # at most what each takes on average, so that rows come out full
    for form, make in enumerate(make_parts):
        rows = slice(bounds[form], bounds[form + 1])
        if rows.start >= rows.stop:
            continue
        some = Respondents(*(field[rows] for field in respondents))
        num_claims = width // tokens_each[form] + 1
        topics = _shuffled(rng, len(some.groups), world.config.num_topics)[:, :num_topics]
        packed = _pack(make(rng, world, tables, some, num_claims, topics), width, tables.pad)
        if form != CLAIMS:
            num_claims = width // tokens_each[CLAIMS] + 1
            parts = _claim_parts(rng, world, tables, some, num_claims, topics)
            packed = _mix(rng, world, _pack(parts, width, tables.pad), packed)
        bodies.append(packed[0])
        body_kinds.append(packed[1])
    body, kinds = np.concatenate(bodies), np.concatenate(body_kinds)

    sources = np.where(respondents.headers == 2, 0, respondents.sources)
    index = (sources, respondents.groups + 1)
    lengths = np.where(respondents.headers == 2, 0, tables.headers.lengths[index])
    bos = np.full((num, 1, 1), tables.bos, np.int32)
    ones = np.ones((num, 1), np.int64)
    is_body = (kinds >= 0).sum(1)[:, None]
    tokens, where = _pack(
        [
            (bos, ones, 0),
            (tables.headers.tokens[index][:, None], lengths[:, None], 1),
            (body[:, None], is_body, 2),
        ],
        width,
        tables.pad,
    )
    # The body keeps its own kinds; it begins where BOS and header end.
    start = (1 + lengths)[:, None]
    column = np.arange(width)[None, :]
    kinds = np.where(
        where == 2, np.take_along_axis(kinds, np.clip(column - start, 0, width - 1), 1), where
    )
    kinds = np.where((where == 0) | (where == 1), TEXT, kinds)
    is_label = kinds == LABEL
    return Batch(
        tokens=tokens,
        is_label=is_label,
        is_answer=kinds == STANCE,
        is_real=where >= 0,
        label_index=(np.cumsum(is_label, axis=1) - is_label).astype(np.int32),
    )
