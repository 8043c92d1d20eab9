"""The Bayes observer against enumeration, closed forms, and what the world's respondents answer.

False alarms: statistical tests use fixed seeds and bounds that a correct observer would pass but
for one seed in a million (each bound at least 5 standard errors wide).
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from icmjax.claims import ClaimSet, claims_from_rows
from icmjax.errors import InputError
from icmjax.persona_world import (
    Source,
    Style,
    World,
    WorldConfig,
    make_observer_scorer,
    make_observer_steerer,
    make_task,
    make_world,
    text,
)
from icmjax.persona_world.observer import ObserverScorer
from icmjax.persona_world.transcripts import answer_claims, sample_respondents

# Values are the zones' own, so that the world is discrete and can be enumerated.
DISCRETE = WorldConfig(
    seed=3,
    num_dimensions=2,
    num_zones=3,
    group_scale=0.0,
    individual_scale=0.0,
    num_groups=4,
    num_unseen=1,
    num_topics=4,
    num_held_out_topics=1,
    source_errors=(0.01, 0.05, 0.2, 0.1),
    style_shares=(0.6, 0.1, 0.1, 0.15, 0.05),
)
# Topic, strength, is_reversed: a pair, a pair asked twice, and items of their own.
PARTS = (
    (0, 1, False),
    (0, 1, True),
    (1, 2, True),
    (1, 2, False),
    (1, 2, False),
    (2, 0, True),
    (3, 3, False),
)


def claims_of(parts, preamble: str = "", ids=None) -> ClaimSet:
    ids = [f"{topic}-{strength}" for topic, strength, _ in parts] if ids is None else ids
    rows = [
        {
            "question": "What do they say?",
            "choice": text.claim_text(*part),
            "consistency_id": consistency_id,
        }
        for part, consistency_id in zip(parts, ids, strict=True)
    ]
    return claims_from_rows(rows, rule="none", preamble=preamble)


def joint_by_enumeration(world: World, parts, source: Source | None, group: int | None):
    """P of every full labelling, float64 `[2, ..., 2]`, by summing over every latent choice."""
    config = world.config
    items = sorted({part[:2] for part in parts})
    item_of = [items.index(part[:2]) for part in parts]
    joint = np.zeros((2,) * len(parts))
    shares = config.source_shares if source is None else np.eye(len(Source))[source]
    for asked, share in zip(Source, shares, strict=True):
        values = world.zone_values if group is None else world.group_values[[group]]
        error = config.source_errors[asked]
        for value in values:
            margins = world.margins(value)
            for is_error in itertools.product((0, 1), repeat=len(items)):
                answers = [
                    int(margins[item] > 0) ^ e for item, e in zip(items, is_error, strict=True)
                ]
                labels = [answers[j] ^ int(part[2]) for j, part in zip(item_of, parts, strict=True)]
                likelihood = np.prod([error if e else 1 - error for e in is_error])
                joint[tuple(labels)] += (
                    config.style_shares[Style.SUBSTANTIVE] * share * likelihood / len(values)
                )
    for coins in itertools.product((0, 1), repeat=len(items)):
        labels = [coins[j] ^ int(part[2]) for j, part in zip(item_of, parts, strict=True)]
        joint[tuple(labels)] += config.style_shares[Style.UNCONSTRAINED] / 2 ** len(items)
    joint += config.style_shares[Style.RANDOM] / 2 ** len(parts)
    joint[(1,) * len(parts)] += config.style_shares[Style.ALWAYS_TRUE]
    joint[(0,) * len(parts)] += config.style_shares[Style.ALWAYS_FALSE]
    return joint


def conditionals(joint: np.ndarray, labels: np.ndarray, is_read: np.ndarray) -> np.ndarray:
    """log P(label of i | the labelled claims that i reads): float64 `[N, 2]`."""
    logp = np.zeros((len(labels), 2))
    for query in range(len(labels)):
        index = tuple(
            slice(None) if j == query or label < 0 or not is_read[query, j] else int(label)
            for j, label in enumerate(labels)
        )
        left = [j for j in range(len(labels)) if isinstance(index[j], slice)]
        others = tuple(axis for axis, j in enumerate(left) if j != query)
        marginal = joint[index].sum(others)
        logp[query] = np.log(marginal / marginal.sum())
    return logp


def some_labellings(num_claims: int, num: int, seed: int = 0) -> np.ndarray:
    """Full and partial labellings: int8 `[num, num_claims]`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (num, num_claims))
    is_unlabelled = rng.random(labels.shape) < rng.choice([0.0, 0.4], (num, 1))
    return np.where(is_unlabelled, -1, labels).astype(np.int8)


HEADERS = [
    pytest.param("", None, None, id="none"),
    pytest.param("Street interviews.", Source.STREET, None, id="source"),
    pytest.param("Web poll from Norvania.", Source.WEB, 0, id="group"),
    pytest.param("Personal letter from Belmara.", Source.INDIVIDUAL, 3, id="individual"),
    pytest.param("National poll from Ilvania.", Source.NATIONAL, None, id="unseen"),
]


class TestEnumeration:
    """Equal to conditionals of the joint distribution over all labellings."""

    @pytest.mark.parametrize(("preamble", "source", "group"), HEADERS)
    @pytest.mark.parametrize("leave", ["claim", "group"])
    def test_label_log_probs(self, preamble, source, group, leave):
        world = make_world(DISCRETE)
        scorer = make_observer_scorer(
            world, claims_of(PARTS, preamble), leave=leave, num_particles=2
        )
        joint = joint_by_enumeration(world, PARTS, source, group)
        assert joint.sum() == pytest.approx(1)
        labels = some_labellings(len(PARTS), 32)
        expected = np.stack([conditionals(joint, row, scorer.is_read()) for row in labels])
        np.testing.assert_allclose(np.asarray(scorer(labels)), expected, atol=1e-6)

    def test_steerer_is_the_same_conditional(self):
        world = make_world(DISCRETE)
        demonstrations, queries = PARTS[:5], (*PARTS[5:], (0, 1, True))
        steerer = make_observer_steerer(world, claims_of(demonstrations), claims_of(queries))
        joint = joint_by_enumeration(world, (*demonstrations, *queries), None, None)
        labels = some_labellings(5, 32)
        padded = np.concatenate([labels, np.full((32, 3), -1, np.int8)], axis=1)
        is_read = ~np.eye(8, dtype=bool)
        expected = np.stack([conditionals(joint, row, is_read)[5:] for row in padded])
        np.testing.assert_allclose(np.asarray(steerer(labels)), expected, atol=1e-6)

    def test_without_errors(self):
        world = make_world(dataclasses.replace(DISCRETE, source_errors=(0.0, 0.0, 0.5, 0.0)))
        for preamble, source in (("", None), ("National poll.", Source.NATIONAL)):
            scorer = make_observer_scorer(world, claims_of(PARTS, preamble), num_particles=2)
            joint = joint_by_enumeration(world, PARTS, source, None)
            labels = some_labellings(len(PARTS), 32)
            expected = np.stack([conditionals(joint, row, scorer.is_read()) for row in labels])
            np.testing.assert_allclose(np.asarray(scorer(labels)), expected, atol=1e-6)

    def test_impossible_labels(self):
        shares = (1.0, 0.0, 0.0, 0.0, 0.0)
        world = make_world(dataclasses.replace(DISCRETE, style_shares=shares))
        scorer = make_observer_scorer(world, claims_of(PARTS), num_particles=2)
        logp = np.asarray(scorer(np.array([1, 1, -1, -1, -1, -1, -1], np.int8)))
        np.testing.assert_allclose(logp[:2], [[0, -np.inf]] * 2)  # each rules out the other's label
        np.testing.assert_allclose(logp[2:], np.log(0.5))  # nothing follows from a contradiction


class TestHypotheses:
    """What only one style, source or header can explain."""

    def test_pairs_are_tied_unless_random(self):
        world = make_world()
        parts = [(5, 2, False), (5, 2, True)]
        claims = claims_of(parts, "National poll from Norvania.")
        own = int(world.margins(world.group_values[0])[5, 2] > 0)
        told = np.asarray(make_observer_scorer(world, claims)(np.array([own, -1], np.int8)))
        # The shares of random and acquiescent respondents bound it.
        assert np.log(0.9) < told[1, 1 - own] < 0
        labels = np.array([1, -1], np.int8)
        for style in Style:
            shares = tuple(np.eye(len(Style))[style])
            one_style = make_world(WorldConfig(style_shares=shares))
            scorer = make_observer_scorer(one_style, claims)
            opposite = np.exp(np.asarray(scorer(labels))[1])
            expected = {
                Style.SUBSTANTIVE: (1, 0),
                Style.UNCONSTRAINED: (1, 0),
                Style.RANDOM: (0.5, 0.5),
                Style.ALWAYS_TRUE: (0, 1),
                Style.ALWAYS_FALSE: (0.5, 0.5),  # it never says True: nothing follows
            }[style]
            np.testing.assert_allclose(opposite, expected, atol=1e-6)

    def test_leaving_the_group_reads_no_opposite(self):
        task = make_task(make_world(), "norvania", 1, num_claims=16)
        by_claim, by_group = (
            make_observer_scorer(make_world(), task.claims, False, leave, num_particles=256)
            for leave in ("claim", "group")
        )
        labels = task.gold.labels
        flipped = labels.copy()
        flipped[:2] = 1 - flipped[:2]
        np.testing.assert_array_equal(by_group(labels)[:2], by_group(flipped)[:2])
        own = np.take_along_axis(np.asarray(by_claim(labels)), labels[:, None].astype(int), 1)
        own_by_group = np.take_along_axis(
            np.asarray(by_group(labels)), labels[:, None].astype(int), 1
        )
        assert own.mean() > own_by_group.mean() + 0.1
        assert by_group.is_read().sum() == 16 * 14

    def test_header_names_the_noise(self):
        """Between known answers, a national poll is trusted more than street interviews."""
        world = make_world()
        parts = [(topic, 1, False) for topic in range(8)]
        labels = (world.margins(world.group_values[2])[:8, 1] > 0).astype(np.int8)
        sure = {}
        for source in Source:
            claims = claims_of(parts, text.header(source, "Kaldoria"))
            logp = np.asarray(make_observer_scorer(world, claims)(labels))
            sure[source] = np.take_along_axis(logp, labels[:, None].astype(int), 1).mean()
        assert sure[Source.NATIONAL] > sure[Source.WEB] > sure[Source.STREET]
        assert sure[Source.NATIONAL] > sure[Source.INDIVIDUAL]

    def test_knowing_groups(self):
        world = make_world()
        task = make_task(world, "norvania", 0, is_paired=False)
        zero_shot = np.full(32, -1, np.int8)
        index = (np.arange(32), task.gold.labels.astype(int))
        knowing, ignorant = (
            np.asarray(make_observer_scorer(world, task.claims, knows)(zero_shot))[index].mean()
            for knows in (True, False)
        )
        assert knowing > -0.15 > ignorant
        unseen = make_task(world, "ilvania", 0, is_paired=False).claims
        np.testing.assert_array_equal(
            *(make_observer_scorer(world, unseen, knows)(zero_shot) for knows in (True, False))
        )


class TestParticles:
    """Continuous values: particles against closed forms and against answers."""

    @pytest.mark.parametrize("source", [Source.STREET, Source.INDIVIDUAL])
    def test_zero_shot_is_a_mixture_of_normals(self, source):
        world = make_world()
        config = world.config
        parts = [(topic, topic % 4, False) for topic in range(12)]
        scorer = make_observer_scorer(world, claims_of(parts, text.header(source, None)))
        own = config.individual_scale if source == Source.INDIVIDUAL else 0.0
        above = world.margins(world.zone_values) / np.hypot(config.group_scale, own)
        endorsed = scipy.stats.norm.cdf(above).mean(0)[np.arange(12), np.arange(12) % 4]
        error = config.source_errors[source]
        by_values = endorsed * (1 - error) + (1 - endorsed) * error
        shares = config.style_shares
        expected = shares[0] * by_values + (shares[1] + shares[2]) / 2 + shares[3]
        predicted = np.exp(np.asarray(scorer(np.full(12, -1, np.int8))))[:, 1]
        np.testing.assert_allclose(predicted, expected, atol=2e-3)

    def test_two_items_of_a_known_group_are_a_bivariate_normal(self):
        world = make_world(
            WorldConfig(style_shares=(1.0, 0.0, 0.0, 0.0, 0.0), source_errors=(0.0,) * 4)
        )
        alike = np.abs(world.loadings @ world.loadings[0])
        topics = [0, np.argmax(np.where(alike < 0.9, alike, 0))]  # of one dimension in common
        margins = world.margins(world.group_values[0])[topics]
        strengths = np.abs(margins).argmin(1)  # those on which members differ most
        parts = [(int(topic), int(s), False) for topic, s in zip(topics, strengths, strict=True)]
        scorer = make_observer_scorer(world, claims_of(parts, "Personal letter from Norvania."))
        mean = margins[[0, 1], strengths]
        loadings = world.config.individual_scale * world.loadings[topics]
        # Both margins are positive where both negatives lie below 0.
        joint = scipy.stats.multivariate_normal(-mean, loadings @ loadings.T).cdf([0, 0])
        alone = scipy.stats.norm.cdf(mean / np.linalg.norm(loadings, axis=1))
        logp = np.asarray(scorer(np.array([1, 1], np.int8)))
        np.testing.assert_allclose(np.exp(logp[:, 1]), joint / alone[::-1], atol=5e-3)

    @pytest.mark.parametrize(
        ("kind", "preamble"),
        [
            pytest.param((2, None, None), "", id="none"),
            pytest.param((1, Source.WEB, None), "Web poll.", id="source"),
            pytest.param((0, Source.STREET, 0), "Street interviews from Norvania.", id="group"),
            pytest.param(
                (0, Source.INDIVIDUAL, 0), "Personal letter from Norvania.", id="individual"
            ),
        ],
    )
    def test_calibrated_on_respondents(self, kind, preamble):
        """Predictions of one label a respondent, so that respondents are independent trials."""
        world = make_world()
        rng = np.random.default_rng(0)
        parts = np.array([*PARTS, *((topic, topic % 4, topic % 3 == 0) for topic in range(4, 15))])
        respondents = sample_respondents(rng, world, 40_000)
        header, source, group = kind
        is_kind = respondents.headers == header
        if source is not None:
            is_kind &= respondents.sources == source
        if group is not None:
            is_kind &= respondents.groups == group
        respondents = type(respondents)(*(field[is_kind][:960] for field in respondents))
        num = len(respondents.groups)
        assert num > 300
        grid = np.broadcast_to(parts[:, None], (len(parts), num, 3)).swapaxes(0, 1)
        topics, strengths, is_reversed = np.moveaxis(grid, 2, 0)
        labels = answer_claims(rng, world, respondents, topics, strengths, is_reversed == 1)
        claims = claims_of([(int(t), int(s), bool(r)) for t, s, r in parts], preamble)
        scorer = make_observer_scorer(world, claims, num_particles=512)
        logp = np.asarray(scorer(labels.astype(np.int8)), np.float64)
        query = np.arange(num) % len(parts)
        logp, outcome = logp[np.arange(num), query], labels[np.arange(num), query]
        chance = np.exp(logp[:, 1])
        score = (outcome - chance) / np.sqrt((chance * (1 - chance)).sum())
        assert abs(score.sum()) < 5
        # Surprise against its expectation: over-confidence and diffidence both show here.
        entropy = -(np.exp(logp) * logp).sum(1)
        spread = np.sqrt((np.exp(logp) * (logp + entropy[:, None]) ** 2).sum())
        surprise = -logp[np.arange(num), outcome]
        assert abs((surprise - entropy).sum()) < 5 * spread
        assert entropy.mean() < 0.9 * scipy.special.entr([0.5, 0.5]).sum()

    def test_more_particles_change_little(self):
        world = make_world()
        task = make_task(world, "ilvania", 0, num_claims=32, is_paired=False)
        probs = [
            np.exp(
                np.asarray(make_observer_scorer(world, task.claims, seed=seed)(task.gold.labels))
            )
            for seed in (0, 1)
        ]
        assert np.abs(probs[0] - probs[1]).mean() < 0.02
        assert np.any(probs[0] != probs[1])


class TestInterface:
    """As other scorers and steerers, and errors that say what to mend."""

    def test_leading_axes_and_jit(self):
        world = make_world(DISCRETE)
        scorer = make_observer_scorer(world, claims_of(PARTS), num_particles=2)
        labels = some_labellings(len(PARTS), 36).reshape(4, 9, -1)
        logp = scorer(labels)
        assert logp.shape == (4, 9, 7, 2)
        assert logp.dtype == np.float32
        jitted = jax.jit(ObserverScorer.__call__)(scorer, labels)
        np.testing.assert_allclose(jitted, logp, atol=1e-6)
        np.testing.assert_allclose(scorer(labels[2, 3]), logp[2, 3], atol=1e-6)
        assert (scorer.num_claims, scorer.num_options) == (7, 2)
        assert scorer.tokens_per_pass(labels) == 0
        orders = scorer.demonstration_orders()
        assert orders.shape == (7, 6)
        assert list(orders[2]) == [0, 1, 3, 4, 5, 6]

    def test_own_label_is_not_read(self):
        world = make_world(DISCRETE)
        scorer = make_observer_scorer(world, claims_of(PARTS), num_particles=2)
        labels = some_labellings(len(PARTS), 1)[0]
        logp = np.asarray(scorer(labels))
        for claim, label in itertools.product(range(len(PARTS)), (-1, 0, 1)):
            changed = labels.copy()
            changed[claim] = label
            np.testing.assert_allclose(scorer(changed)[claim], logp[claim], atol=1e-6)

    def test_steerer_reads_no_order(self):
        world = make_world()
        tasks = [make_task(world, "esteria", 0, split) for split in ("search", "test")]
        steerer = make_observer_steerer(world, *(task.claims for task in tasks), num_particles=64)
        labels = tasks[0].gold.labels
        logp = steerer(labels, np.arange(32)[::-1])
        assert logp.shape == (32, 2)
        np.testing.assert_array_equal(logp, steerer(labels))

    def test_all_faults_at_once(self):
        rows = [
            {"question": "?", "choice": "Tariffs should expand", "consistency_id": "a"},
            {"question": "?", "choice": "Tariffs is fine", "consistency_id": "b"},
            {"question": "?", "choice": "Space exploration can help", "consistency_id": "c"},
        ]
        claims = claims_from_rows(rows, rule="none", preamble="A poll from Atlantis.")
        world = make_world(WorldConfig(num_topics=47))
        with pytest.raises(InputError) as raised:
            make_observer_scorer(world, claims, num_particles=3, leave="pair")
        found = [fault.found for fault in raised.value.faults]
        assert found == [
            "3",
            "'pair'",
            "'A poll from Atlantis.'",
            "'Tariffs is fine'",
            "'Space exploration can help'",
        ]

    def test_groups_of_several_items_cannot_be_left_out(self):
        claims = claims_of(PARTS[:3], ids=["a", "a", "a"])
        with pytest.raises(InputError, match="2 items in 'a'"):
            make_observer_scorer(make_world(), claims, leave="group")
        make_observer_scorer(make_world(), claims, num_particles=2)

    def test_claims_of_another_kind(self):
        world = make_world()
        claims = claims_of(PARTS, "National poll.")
        with pytest.raises(InputError, match="same preamble"):
            make_observer_steerer(world, claims, claims_of(PARTS, "Web poll."))
        rows = [
            {"question": "?", "choice": "Tariffs can help", "consistency_id": str(i)} for i in "ab"
        ]
        graded = claims_from_rows(rows, rule="none", options=("no", "maybe", "yes"))
        with pytest.raises(InputError, match="False or True"):
            make_observer_scorer(world, graded)

    def test_header_of_a_group_that_the_world_lacks(self):
        small = make_world(WorldConfig(num_groups=3))
        with pytest.raises(InputError, match="header"):
            make_observer_scorer(small, claims_of(PARTS, "National poll from Hestonia."))
