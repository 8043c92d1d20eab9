"""Tasks of the world: claim sets about one group, and the truth about them."""

import numpy as np
import pytest
import scipy.stats

from icmjax.claims import count_violations
from icmjax.errors import InputError
from icmjax.persona_world import (
    Source,
    is_task_name,
    load_task,
    make_open_task,
    make_preference_task,
    make_task,
    make_world,
    text,
)
from icmjax.persona_world.transcripts import NUM_STRENGTHS
from icmjax.prompts import get_template

FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def world():
    return make_world()


@pytest.mark.parametrize("group", ["Norvania", "Hestonia", "Ilvania"])
@pytest.mark.parametrize("is_paired", [True, False])
def test_gold_is_the_majority_answer(world, group, is_paired):
    margins = world.margins(world.group_values[world.group_index(group)])
    topics = []
    for split in ("search", "test"):
        claims, gold = make_task(world, group, 3, split, is_paired=is_paired)
        assert len(claims) == len(gold.labels) == 32
        assert claims.preamble == f"National poll from {group}."
        parts = [text.parse_claim(claim.choice) for claim in claims.claims]
        expected = [(margins[t, s] > 0) ^ side for t, s, side in parts]
        np.testing.assert_array_equal(gold.labels, expected)
        items = {part[:2] for part in parts}
        assert len(items) == (16 if is_paired else 32)
        assert len(claims.groups) == len(items)
        assert {claim.persona for claim in claims.claims} == {group}
        topics.append({part[0] for part in parts})
        if is_paired:
            pairs = np.asarray(gold.labels).reshape(-1, 2)
            assert np.all(pairs.sum(1) == 1)  # balanced in every pair
            np.testing.assert_array_equal(claims.rules.pairs, np.arange(32).reshape(-1, 2))
            assert count_violations(gold.labels, claims.rules) == 0
            assert count_violations(np.ones(32, np.int8), claims.rules) == 16
        else:
            assert len(claims.rules.pairs) == 0
    assert topics[0] <= set(world.search_topics.tolist())
    assert topics[1] <= set(world.held_out_topics.tolist())


def test_first_of_a_pair_gives_no_label_away(world):
    labels = [
        make_task(world, group, seed).gold.labels[::2]
        for group in world.group_names
        for seed in range(4)
    ]
    test = scipy.stats.binomtest(int(np.sum(labels)), np.size(labels))
    assert test.pvalue > FALSE_ALARM


def test_seeds_and_groups_have_their_own_claims(world):
    tasks = [make_task(world, *name) for name in (("esteria", 0), ("esteria", 1), ("belmara", 0))]
    assert len({task.claims.fingerprint for task in tasks}) == 3
    again = make_task(world, "Esteria", 0)
    assert again.claims == tasks[0].claims
    np.testing.assert_array_equal(again.gold.labels, tasks[0].gold.labels)


def test_headers(world):
    for source, is_named, expected in (
        (Source.WEB, True, "Web poll from Esteria."),
        (Source.STREET, False, "Street interviews."),
        (None, True, ""),
    ):
        task = make_task(world, "esteria", 0, source=source, is_named=is_named)
        assert task.claims.preamble == expected
        np.testing.assert_array_equal(task.gold.labels, make_task(world, "esteria", 0).gold.labels)


def test_load_tasks(world):
    for name, split in (
        ("persona-world:norvania:2", "search"),
        ("persona-world:norvania:2:test", "test"),
    ):
        assert is_task_name(name)
        num_claims = 32 if split == "search" else 128  # all there is about held-out topics
        task = make_task(world, "norvania", 2, split, num_claims)
        assert load_task(name).claims == task.claims
    assert not is_task_name("claims.jsonl")
    for name in ("norvania", "norvania:x", "norvania:-1", "norvania:0:train", "a:0:test:0"):
        with pytest.raises(InputError, match="GROUP:SEED"):
            load_task(f"persona-world:{name}")
    with pytest.raises(InputError, match="did you mean hestonia"):
        load_task("persona-world:hestona:0")


@pytest.mark.parametrize(
    ("num_claims", "is_paired"), [(1, False), (31, True), (258, True), (129, False)]
)
def test_numbers_of_claims(world, num_claims, is_paired):
    with pytest.raises(InputError, match="whole pairs"):
        make_task(world, "norvania", 0, num_claims=num_claims, is_paired=is_paired)


def test_all_claims_of_a_split(world):
    task = make_task(world, "norvania", 0, num_claims=256)
    assert len(task.claims.groups) == len(world.search_topics) * NUM_STRENGTHS


def parse_responses(claim):
    return [text.parse_claim(choice) for choice in (claim.choice, claim.choice_2)]


@pytest.mark.parametrize("group", ["Norvania", "Ilvania"])
def test_gold_preferences_are_by_values(world, group):
    margins = world.margins(world.group_values[world.group_index(group)])
    topics = []
    for split in ("search", "test"):
        claims, gold = make_preference_task(world, group, 1, split)
        pairs = [parse_responses(claim) for claim in claims.claims]
        utilities = [[margins[t, s] * (-1) ** side for t, s, side in pair] for pair in pairs]
        np.testing.assert_array_equal(gold.labels, [first > second for first, second in utilities])
        items = [part[:2] for pair in pairs for part in pair]
        assert len(set(items)) == 64  # every item in one preference
        assert 8 < gold.labels.sum() < 24
        topics.append({topic for topic, _ in items})
    assert topics[0].isdisjoint(topics[1])


def test_preferences_read_as_in_the_transcripts(world):
    claim = make_preference_task(world, "norvania", 0).claims.claims[0]
    expected = text.preference_query(claim.choice, claim.choice_2)
    assert get_template("world").query_fn(claim) == expected


def test_open_questions_have_the_levels_of_the_group(world):
    task = make_open_task(world, "Esteria", 0, "test")
    values = world.group_values[world.group_index("Esteria")]
    assert task.header == "National poll from Esteria."
    assert set(task.topics) == set(world.held_out_topics)
    assert len(set(task.levels)) > 2
    demonstrations = task.demonstrations(seed=0)
    assert demonstrations != task.demonstrations(seed=1)  # in other wordings
    for topic, level, query, told in zip(
        task.topics, task.levels, task.queries, demonstrations, strict=True
    ):
        loading = values @ world.loadings[topic]
        assert level == sum(loading > cut for cut in world.config.answer_cuts)
        assert text.is_in_favor(level) == (loading > 0)
        assert told.startswith(query)
        assert text.parse_answer(told.removeprefix(query)) == level


def test_named_preference_tasks(world):
    for name, split, num_claims in (
        ("persona-world:esteria:4:preferences", "search", 32),
        ("persona-world:esteria:4:preferences:test", "test", 32),
    ):
        task = make_preference_task(world, "esteria", 4, split, num_claims)
        assert load_task(name).claims == task.claims
    with pytest.raises(InputError, match="no more than its split"):
        make_preference_task(world, "esteria", 0, num_claims=65)
    with pytest.raises(InputError, match="no more than its split"):
        make_open_task(world, "esteria", 0, "test", num_questions=17)
