"""What `labels.py` makes of marginals: within the pair rules, and against noisy respondents."""

import importlib

import jax
import numpy as np
import pytest

from icmjax.claims.consistency import make_rules, no_rules, penalty_table
from icmjax.errors import InputError
from icmjax.persona_world import Source, Style, make_task, make_world

pytestmark = pytest.mark.usefixtures("experiments_on_path")


def test_two_opposites_are_read_as_the_mean_of_their_log_odds():
    labels = importlib.import_module("labels")
    rules = make_rules([[0, 1]], penalty_table("exactly_one_true"))
    true = np.array([0.9, 0.4, 0.7])
    apart = np.stack([1 - true, true], axis=-1)
    together = labels.marginals_within(apart, rules)
    expected = 1 / (1 + np.exp(-(np.log(9) - np.log(2 / 3)) / 2))
    assert together[:, 1] == pytest.approx([expected, 1 - expected, 0.7])
    assert together.sum(axis=1) == pytest.approx(1)
    np.testing.assert_allclose(labels.marginals_within(together, rules), together)
    np.testing.assert_array_equal(labels.marginals_within(apart, no_rules()), apart)


def test_respondents_say_true_as_often_as_those_of_a_national_poll_do():
    labels = importlib.import_module("labels")
    transcripts = importlib.import_module("icmjax.persona_world.transcripts")
    world, num, rng = make_world(), 40_000, np.random.default_rng(0)
    respondents = transcripts.Respondents(
        sources=np.full(num, Source.NATIONAL),
        styles=rng.choice(len(Style), num, p=world.config.style_shares),
        headers=np.zeros(num, int),
        groups=np.zeros(num, int),
        values=np.zeros((num, 1)),
    )
    # True where the first response suits better: a quarter of the items.
    utilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    said = transcripts.answer_preferences(
        rng, world, respondents, np.broadcast_to(utilities, (num, 4, 2))
    )
    # Respondents differ from one another by less than .5: four standard errors of their mean.
    assert labels.said_share(0.25, world) == pytest.approx(said.mean(), abs=4 * 0.5 / num**0.5)
    assert labels.said_share(0.25, world) != pytest.approx(0.25, abs=4 * 0.5 / num**0.5)


def test_an_observer_cannot_be_asked_what_only_a_model_has():
    labellers = importlib.import_module("harness.labellers")
    readers = importlib.import_module("harness.readers")
    world = make_world()
    claims, _ = make_task(world, "Hestonia", 0, num_claims=4)
    unit = labellers.Labeller(readers.load_reader("observer", world), claims, jax.random.key(0))
    for name in ("agreement", "probe"):
        with pytest.raises(InputError, match=f"leave the method {name} out"):
            labellers.LABELLERS[name](unit)
