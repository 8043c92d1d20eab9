"""The persona world: its truth, its words, its transcripts and its tasks.

False alarms: statistical tests use fixed seeds and two-sided exact tests at 1e-6 each, about 40 of
them, so that a right world fails under fewer than 1 in 10,000 seeds.
"""

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats

from icmjax.errors import InputError
from icmjax.persona_world import Source, Style, WorldConfig, make_world, text
from icmjax.persona_world.transcripts import (
    NUM_STRENGTHS,
    Respondents,
    answer_claims,
    answer_levels,
    answer_preferences,
    make_tables,
    sample_batch,
    sample_respondents,
)

FALSE_ALARM = 1e-6
WIDTH = 176


# By field: another value, and what of the world or its transcripts it changes.
CHANGES = {
    "seed": (1, "group_values"),
    "num_dimensions": (3, "loadings"),
    "num_zones": (5, "group_zones"),
    "zone_scale": (0.7, "zone_values"),
    "group_scale": (0.5, "group_values"),
    "individual_scale": (2.0, "tokens"),
    "num_groups": (20, "group_names"),
    "num_unseen": (4, "group_names"),
    "frequency_exponent": (0.5, "group_frequencies"),
    "num_topics": (40, "search_topics"),
    "num_held_out_topics": (10, "held_out_topics"),
    "difficulties": ((-2.0, -0.35, 0.35, 2.0), "tokens"),
    "two_dimension_share": (0.0, "loadings"),
    "answer_cuts": ((-2.0, 0.0, 2.0), "tokens"),
    "source_shares": ((0.2, 0.4, 0.2, 0.2), "tokens"),
    "source_errors": ((0.4, 0.4, 0.4, 0.4), "tokens"),
    "style_shares": ((0.2, 0.2, 0.2, 0.2, 0.2), "tokens"),
    "header_shares": ((0.2, 0.4, 0.4), "tokens"),
    "format_shares": ((0.2, 0.4, 0.4), "tokens"),
    "mixed_share": (0.0, "tokens"),
    "retest_share": (0.5, "tokens"),
    "reversed_share": (0.7, "tokens"),
    "paired_share": (0.75, "tokens"),
}


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.fixture(scope="module")
def tokenizer():
    return text.make_tokenizer()


@pytest.fixture(scope="module")
def tables(world, tokenizer):
    return make_tables(world, tokenizer)


def assert_share(is_so: np.ndarray, share: float) -> None:
    """Independent trials have this chance of success."""
    is_so = np.asarray(is_so)
    test = scipy.stats.binomtest(int(is_so.sum()), is_so.size, share)
    assert test.pvalue > FALSE_ALARM, f"{is_so.mean():.4f} of {is_so.size}, not {share:.4f}"


def respondents_of(world, num, source=Source.NATIONAL, style=Style.SUBSTANTIVE, group=0):
    """Respondents of one kind, with the group's own values."""
    return Respondents(
        sources=np.full(num, source),
        styles=np.full(num, style),
        headers=np.zeros(num, int),
        groups=np.full(num, group),
        values=np.tile(world.group_values[group], (num, 1)),
    )


class TestConfig:
    """Every field matters, and a world that cannot be is refused."""

    def test_no_field_is_forgotten(self):
        assert list(CHANGES) == [field.name for field in dataclasses.fields(WorldConfig)]

    @pytest.mark.parametrize("field", CHANGES)
    def test_field_matters(self, world, tables, tokenizer, field):
        value, changed = CHANGES[field]
        other = make_world(WorldConfig(**{field: value}))
        if changed != "tokens":
            assert not np.array_equal(getattr(other, changed), getattr(world, changed))
            return
        np.testing.assert_array_equal(other.loadings, world.loadings)
        np.testing.assert_array_equal(other.group_values, world.group_values)
        before, after = (sample_batch(0, 0, one, tables, 16, 96).tokens for one in (world, other))
        assert (before != after).any()

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"source_shares": (0.5, 0.5, 0.5, -0.5)}, ["source_shares"]),
            ({"style_shares": (0.5, 0.1, 0.1, 0.1, 0.1)}, ["style_shares"]),
            ({"header_shares": (0.5, 0.5)}, ["header_shares"]),
            ({"difficulties": (0.0, 1.0)}, ["difficulties"]),
            ({"difficulties": (0.0, 1.0, 0.5, 2.0)}, ["difficulties"]),
            ({"source_errors": (0.1, 0.6, 0.1, 0.1)}, ["source_errors"]),
            ({"retest_share": 1.5, "paired_share": -0.1}, ["retest_share", "paired_share"]),
            ({"num_held_out_topics": 48}, ["num_held_out_topics"]),
            ({"num_dimensions": 1, "num_zones": 0}, ["num_dimensions", "num_zones"]),
            ({"num_groups": 0, "group_scale": -1.0}, ["num_groups", "group_scale"]),
        ],
    )
    def test_impossible_worlds(self, changes, where):
        with pytest.raises(InputError) as raised:
            WorldConfig(**changes)
        assert [fault.where for fault in raised.value.faults] == where

    def test_a_world_has_words_for_all_of_it(self):
        with pytest.raises(InputError) as raised:
            make_world(WorldConfig(num_topics=49, num_groups=25, num_unseen=7))
        where = [fault.where for fault in raised.value.faults]
        assert where == ["num_topics", "num_groups", "num_unseen"]


class TestWorld:
    """The truth: drawn from the seed alone."""

    def test_deterministic(self, world):
        again = make_world(WorldConfig())
        for field in ("zone_values", "group_zones", "group_values", "loadings", "held_out_topics"):
            np.testing.assert_array_equal(getattr(again, field), getattr(world, field))

    def test_shapes(self, world):
        np.testing.assert_allclose(np.linalg.norm(world.loadings, axis=1), 1)
        assert set((world.loadings != 0).sum(1)) == {1, 2}
        assert world.group_frequencies.sum() == pytest.approx(1)
        assert np.all(np.diff(world.group_frequencies) < 0)
        assert np.bincount(world.group_zones).tolist() == [5] * 6
        assert sorted([*world.search_topics, *world.held_out_topics]) == list(range(48))
        assert [len(names) for names in world.tiers.values()] == [8, 8, 8, 6]
        assert sum(world.tiers.values(), ()) == world.group_names

    def test_ladders(self, world):
        """A population that endorses a strength endorses every milder one (Guttman 1944)."""
        is_endorsed = world.margins(world.group_values) > 0
        assert is_endorsed.shape == (30, 48, 4)
        assert np.all(np.diff(is_endorsed.astype(int), axis=-1) <= 0)
        assert 0.3 < is_endorsed.mean() < 0.7

    def test_margins(self, world):
        values = np.array([0.5, -1.0, 0.25, 2.0])
        expected = world.loadings[7] @ values - world.config.difficulties[2]
        assert world.margins(values)[7, 2] == pytest.approx(expected)

    def test_groups_by_name(self, world):
        assert world.group_index("ESTERIA") == 1
        assert world.group_index("Nyssia") == 29
        with pytest.raises(InputError, match="did you mean norvania"):
            world.group_index("norvana")


class TestText:
    """What the world says can be read back."""

    def test_tokens_are_words_of_the_vocabulary(self, tokenizer):
        lines = [f"{header}" for header in text._by_header()]
        claims = list(text._by_claim())
        lines += [text.claim_query(claim) + label for claim in claims for label in text.LABELS]
        lines += [
            text.preference_query(first, second) + text.LABELS[1]
            for first, second in zip(claims, claims[::-1], strict=True)
        ]
        answers = [answer for variants in text.ANSWERS for answer in variants]
        lines += [
            text.answer_query(topic) + answers[topic % len(answers)]
            for topic in range(len(text.TOPICS))
        ]
        for line, ids in zip(lines, tokenizer(lines).input_ids, strict=True):
            assert ids[0] == tokenizer.bos_token_id
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[1:]) == line
        assert len(set(lines)) == len(lines)

    def test_vocabulary(self, tokenizer):
        vocabulary = text.vocabulary()
        assert len(set(vocabulary)) == len(vocabulary) == len(tokenizer)
        assert len(vocabulary) < 512
        assert tokenizer("Nonsense").input_ids[1:] == [tokenizer.unk_token_id]

    def test_a_claim_is_short(self, tables):
        assert tables.claims.lengths.max() + 1 <= 8  # with its label
        assert tables.labels.shape == (2,)

    def test_pieces_do_not_merge(self, tokenizer):
        pieces = [
            text.header(Source.WEB, "Norvania"),
            text.claim_query(text.claim_text(24, 2, True)) + text.LABELS[1],
            text.answer_query(3) + text.ANSWERS[1][0],
        ]
        apart = [tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces]
        assert tokenizer("".join(pieces), add_special_tokens=False).input_ids == [
            token for ids in apart for token in ids
        ]

    def test_claims_and_headers_parse(self):
        for topic in range(len(text.TOPICS)):
            for strength in range(NUM_STRENGTHS):
                for side in (False, True):
                    claim = text.claim_text(topic, strength, side)
                    assert text.parse_claim(claim) == (topic, strength, side)
        for source in Source:
            for group in (None, *text.NAMED_GROUPS, *text.UNSEEN_GROUPS):
                assert text.parse_header(text.header(source, group)) == (source, group)
        assert text.parse_header("") == (None, None)
        assert text.parse_claim("Tariffs should expand:") is None
        assert text.parse_header("National poll from Atlantis.") is None

    def test_answers_parse(self):
        for level, variants in enumerate(text.ANSWERS):
            for answer in variants:
                assert text.parse_answer(answer) == level
                assert text.parse_answer(f"{answer}\nTaxes? Reject that.") == level
        assert text.parse_answer(" Support") is None
        assert text.parse_answer("") is None


class TestRespondents:
    """Shares and values of those who answer."""

    @pytest.fixture(scope="class")
    def respondents(self, world):
        return sample_respondents(np.random.default_rng(0), world, 20_000)

    def test_shares(self, world, respondents):
        config = world.config
        for field, shares in (
            ("sources", config.source_shares),
            ("styles", config.style_shares),
            ("headers", config.header_shares),
        ):
            for kind, share in enumerate(shares):
                assert_share(getattr(respondents, field) == kind, share)
        named = respondents.groups[respondents.headers == 0]
        for group in (0, 1, 8, 23):
            assert_share(named == group, world.group_frequencies[group])
        np.testing.assert_array_equal(respondents.groups == -1, respondents.headers > 0)

    def test_values_of_named_groups(self, world, respondents):
        is_named = respondents.headers == 0
        offset = respondents.values - world.group_values[respondents.groups]
        is_individual = respondents.sources == Source.INDIVIDUAL
        assert np.all(offset[is_named & ~is_individual] == 0)
        own = offset[is_named & is_individual] / world.config.individual_scale
        assert scipy.stats.kstest(own.ravel(), "norm").pvalue > FALSE_ALARM

    def test_values_without_a_name(self, world, respondents):
        config = world.config
        is_individual = respondents.sources == Source.INDIVIDUAL
        for is_own, scale in (
            (~is_individual, config.group_scale),
            (is_individual, np.hypot(config.group_scale, config.individual_scale)),
        ):
            values = respondents.values[(respondents.headers > 0) & is_own, 0]

            def mixture(value, scale=scale):
                centers = world.zone_values[:, 0, None]
                return scipy.stats.norm.cdf(value, centers, scale).mean(0)

            assert scipy.stats.kstest(values, mixture).pvalue > FALSE_ALARM


class TestAnswers:
    """What respondents say, by style and source."""

    NUM = 400

    @pytest.fixture(scope="class")
    def items(self):
        """Topics, strengths and sides: 24 items, each with its opposite beside it."""
        topics = np.tile(np.repeat(np.arange(24), 2), (self.NUM, 1))
        sides = np.tile(np.arange(48) % 2 == 1, (self.NUM, 1))
        return topics, topics % NUM_STRENGTHS, sides

    @pytest.mark.parametrize("source", Source)
    def test_substantive_errors(self, world, items, source):
        topics, strengths, sides = items
        respondents = respondents_of(world, self.NUM, source)
        labels = answer_claims(np.random.default_rng(0), world, respondents, *items)
        is_endorsed = world.margins(world.group_values[0])[topics, strengths] > 0
        is_error = (labels == 1) != (is_endorsed ^ sides)
        np.testing.assert_array_equal(is_error[:, ::2], is_error[:, 1::2])  # one an item
        assert_share(is_error[:, ::2], world.config.source_errors[source])

    def test_styles(self, world, items):
        by_style = {
            style: answer_claims(
                np.random.default_rng(0),
                world,
                respondents_of(world, self.NUM, style=style),
                *items,
            )
            for style in Style
        }
        for style in (Style.SUBSTANTIVE, Style.UNCONSTRAINED):
            assert np.all(by_style[style][:, ::2] + by_style[style][:, 1::2] == 1)
        assert_share(by_style[Style.UNCONSTRAINED][:, ::2], 0.5)
        assert_share(by_style[Style.RANDOM], 0.5)
        is_opposite = by_style[Style.RANDOM][:, ::2] != by_style[Style.RANDOM][:, 1::2]
        assert_share(is_opposite, 0.5)
        assert by_style[Style.ALWAYS_TRUE].all()
        assert not by_style[Style.ALWAYS_FALSE].any()

    def test_preferences(self, world):
        utilities = np.random.default_rng(1).standard_normal((self.NUM, 10, 2))
        respondents = respondents_of(world, self.NUM, Source.STREET)
        rng = np.random.default_rng(0)
        first = answer_preferences(rng, world, respondents, utilities) == 1
        is_error = first != (utilities[..., 0] > utilities[..., 1])
        assert_share(is_error, world.config.source_errors[Source.STREET])
        for style, share in ((Style.RANDOM, 0.5), (Style.UNCONSTRAINED, 0.5)):
            respondents = respondents_of(world, self.NUM, style=style)
            assert_share(answer_preferences(rng, world, respondents, utilities), share)
        always = respondents_of(world, self.NUM, style=Style.ALWAYS_TRUE)
        assert answer_preferences(rng, world, always, utilities).all()

    def test_levels(self, world):
        topics = np.tile(np.arange(20), (self.NUM, 1))
        rng = np.random.default_rng(0)
        respondents = respondents_of(world, self.NUM, Source.STREET)
        levels = answer_levels(rng, world, respondents, topics)
        told = world.levels(world.group_values[0])[topics]
        # An error draws any of the four levels, the right one included.
        assert_share(levels != told, world.config.source_errors[Source.STREET] * 3 / 4)
        at_random = answer_levels(
            rng, world, respondents_of(world, self.NUM, style=Style.RANDOM), topics
        )
        for level in range(len(text.STANCES)):
            assert_share(at_random == level, 1 / 4)


def read_transcript(line: str):
    """Header, labelled claims, labelled preferences and levels that a decoded row tells.

    What the width cut off at the end is left out; anything else unreadable fails.
    """
    assert line.startswith("<bos>")
    first, *lines = line.removeprefix("<bos>").split("\n")
    header = text.parse_header(first)
    assert header is not None, first
    claims, preferences, levels, compared = [], [], [], None
    for number, said in enumerate(lines):
        if said.endswith(text.COMPARISON):
            compared = text.parse_claim(said.removesuffix(text.COMPARISON))
        elif labelled := re.fullmatch(r"(.*): (False|True)", said):
            claim, is_true = text.parse_claim(labelled[1]), labelled[2] == "True"
            if compared is None:
                claims.append((*claim, is_true))
            else:
                preferences.append((compared, claim, is_true))
            compared = None
        elif "?" in said and text.parse_answer(said.split("?")[1]) is not None:
            levels.append((said.split("?")[0], text.parse_answer(said.split("?")[1])))
        else:
            assert number == len(lines) - 1, f"not a sentence of the world: {said!r}"
    return header, claims, preferences, levels


class TestBatches:
    """Transcripts as tokens."""

    NUM = 400

    @pytest.fixture(scope="class")
    def batch(self, world, tables):
        return sample_batch(0, 0, world, tables, self.NUM, WIDTH)

    @pytest.fixture(scope="class")
    def transcripts(self, batch, tokenizer):
        return [read_transcript(line) for line in tokenizer.batch_decode(batch.tokens)]

    def test_a_pure_function_of_seed_and_step(self, world, tables, batch):
        sample_batch(5, 5, world, tables, 8, WIDTH)
        for before, after in zip(
            batch, sample_batch(0, 0, world, tables, self.NUM, WIDTH), strict=True
        ):
            np.testing.assert_array_equal(before, after)
        for seed, step in ((0, 1), (1, 0)):
            other = sample_batch(seed, step, world, tables, self.NUM, WIDTH)
            assert (other.tokens != batch.tokens).any(axis=1).mean() > 0.99

    def test_fields(self, batch, tables, tokenizer):
        shape = (self.NUM, WIDTH)
        assert all(field.shape == shape for field in batch)
        assert batch.tokens.dtype == batch.label_index.dtype == np.int32
        assert np.all(batch.tokens[:, 0] == tokenizer.bos_token_id)
        assert batch.is_real.all()  # every row is filled
        assert tokenizer.unk_token_id not in batch.tokens
        np.testing.assert_array_equal(batch.is_label, np.isin(batch.tokens, tables.labels))
        before = np.cumsum(batch.is_label, axis=1) - batch.is_label
        np.testing.assert_array_equal(batch.label_index, before)
        assert not np.any(batch.is_label & batch.is_answer)

    def test_formats(self, world, transcripts):
        """Claims fill their rows; the others' rows may begin with claims, never with each other."""
        told = np.array([[bool(part) for part in transcript[1:]] for transcript in transcripts])
        bounds = np.round(np.cumsum(world.config.format_shares)[:-1] * self.NUM).astype(int)
        claims, preferences, answers = np.split(told, bounds)
        assert claims[:-1].tolist() == [[True, False, False]] * (len(claims) - 1)
        assert not preferences[1:-1, 2].any()
        assert not answers[1:, 1].any()
        assert min(preferences[:, 1].mean(), answers[:, 2].mean()) > 0.8
        assert_share(np.concatenate([preferences, answers])[:, 0], world.config.mixed_share)

    def test_own_words(self, batch, transcripts, tokenizer):
        """The words marked as answers say their stances, and nothing else is marked."""
        row = next(row for row, transcript in enumerate(transcripts) if transcript[3])
        tokens = batch.tokens[row].copy()
        tokens[~batch.is_answer[row]] = tokenizer.pad_token_id
        said = [part for part in tokenizer.decode(tokens).split("<pad>") if part]
        levels = [text.parse_answer(part + text.ENDINGS[0]) for part in said]
        assert levels[: len(transcripts[row][3])] == [level for _, level in transcripts[row][3]]

    def test_headers(self, world, transcripts):
        headers = [transcript[0] for transcript in transcripts]
        shares = world.config.header_shares
        assert_share([group is not None for _, group in headers], shares[0])
        assert_share([source is not None and group is None for source, group in headers], shares[1])
        sources = np.array([source for source, _ in headers if source is not None])
        for source in Source:
            assert_share(sources == source, world.config.source_shares[source])
        assert not any(group in text.UNSEEN_GROUPS for _, group in headers)

    def test_pairs(self, world, tables, tokenizer):
        """Where all answer by item, a paired transcript has opposites with opposite labels."""
        shares = (0.5, 0.5, 0.0, 0.0, 0.0)
        config = dataclasses.replace(
            world.config, style_shares=shares, format_shares=(1.0, 0.0, 0.0)
        )
        batch = sample_batch(1, 0, make_world(config), tables, self.NUM, WIDTH)
        is_paired, is_adjacent, sides, lengths = [], [], [], []
        for line in tokenizer.batch_decode(batch.tokens):
            claims = read_transcript(line)[1]
            lengths.append(len(claims))
            answers: dict = {}
            for topic, strength, side, label in claims:
                answers.setdefault((topic, strength), []).append((side, label))
            is_paired.append(max(map(len, answers.values())) == 2)
            if not is_paired[-1]:
                sides += [side for _, _, side, _ in claims]
                continue
            for told in (told for told in answers.values() if len(told) == 2):
                assert told[0][0] != told[1][0]
                assert told[0][1] != told[1][1]
            is_adjacent.append(claims[0][:2] == claims[1][:2])
        assert_share(is_paired, config.paired_share)
        assert_share(sides, config.reversed_share)
        # Half side by side; the other half anywhere, where neighbours are rarely of one item.
        assert 0.3 < np.mean(is_adjacent) < 0.75
        assert min(lengths) > 20

    def test_retests(self, world, tables, tokenizer):
        changes = {
            "retest_share": 1.0,
            "paired_share": 0.0,
            "style_shares": (1.0, 0.0, 0.0, 0.0, 0.0),
            "format_shares": (1.0, 0.0, 0.0),
        }
        config = dataclasses.replace(world.config, **changes)
        batch = sample_batch(0, 0, make_world(config), tables, 40, WIDTH, num_topics=3)
        for line in tokenizer.batch_decode(batch.tokens):
            claims = read_transcript(line)[1]
            topics = {topic for topic, *_ in claims}
            told = {(topic, strength, side ^ label) for topic, strength, side, label in claims}
            items = {claim[:2] for claim in claims}
            assert len(topics) <= 3
            assert len(items) <= 12 < len(claims)  # enough to fill the row
            assert len(told) == len(items)  # one answer an item, whichever side is asked

    def test_labels_are_those_of_the_named_group(self, world, tables, tokenizer):
        changes = {
            "style_shares": (1.0, 0.0, 0.0, 0.0, 0.0),
            "source_shares": (1.0, 0.0, 0.0, 0.0),
            "source_errors": (0.0, 0.0, 0.0, 0.0),
            "header_shares": (1.0, 0.0, 0.0),
        }
        exact = make_world(dataclasses.replace(world.config, **changes))
        batch = sample_batch(0, 0, exact, tables, 60, WIDTH)
        num_preferences = num_levels = 0
        for line in tokenizer.batch_decode(batch.tokens):
            (source, group), claims, preferences, levels = read_transcript(line)
            margins = exact.margins(exact.group_values[exact.group_index(group)])
            assert source == Source.NATIONAL
            for topic, strength, side, label in claims:
                assert label == (margins[topic, strength] > 0) ^ side
            for first, second, label in preferences:
                utilities = [
                    margins[topic, strength] * (-1 if side else 1)
                    for topic, strength, side in (first, second)
                ]
                assert label == (utilities[0] > utilities[1])
            for topic, level in levels:
                loading = (
                    exact.group_values[exact.group_index(group)]
                    @ (exact.loadings[text.TOPICS.index(topic)])
                )
                assert level == sum(loading > cut for cut in exact.config.answer_cuts)
            num_preferences += len(preferences)
            num_levels += len(levels)
        assert min(num_preferences, num_levels) > 20

    def test_short_rows_are_padded(self, world, tables, tokenizer):
        config = dataclasses.replace(world.config, format_shares=(1.0, 0.0, 0.0), paired_share=0.0)
        batch = sample_batch(0, 0, make_world(config), tables, 20, 96, num_topics=1)
        assert np.all(batch.is_label.sum(1) == NUM_STRENGTHS)
        np.testing.assert_array_equal(batch.is_real, batch.tokens != tokenizer.pad_token_id)
        assert np.all(np.diff(batch.is_real.astype(int), axis=1) <= 0)
