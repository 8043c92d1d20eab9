"""Scores without the label that a model favours: exact, and what they do to a search."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scorers import table_scorer

from icmjax.claims.consistency import no_rules
from icmjax.errors import InputError
from icmjax.scoring import UnbiasedScorer, cluster_border, less_bias, make_unbiased_scorer, utility
from icmjax.search import Bootstrap, run_search

SIDES = np.array([1, 1, 1, -1, -1, -1, 1, -1], np.float32)  # what the claims have in common


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OneSided:
    """A model that hears two sides of eight claims, and favours False."""

    bias: jax.Array
    num_claims: int = dataclasses.field(default=len(SIDES), metadata={"static": True})

    def __call__(self, labels):
        labels = jnp.asarray(labels).astype(jnp.float32)
        signs = jnp.where(labels < 0, 0.0, 2.0 * labels - 1.0)
        told = signs * SIDES
        others = jnp.sum(told, axis=-1, keepdims=True) - told
        prior = 0.2 * jnp.asarray(SIDES) + jnp.asarray([0.3, -0.3] * 4)  # zero-shot it errs
        log_odds = prior + 0.5 * SIDES * others + self.bias
        return jax.nn.log_sigmoid(jnp.stack([-log_odds, log_odds], axis=-1))

    def tokens_per_pass(self, labels):
        return int(np.size(labels))


def found(scorer):
    return run_search(scorer, no_rules(), Bootstrap(), jax.random.key(0), progress=False).labels


def test_the_border_of_every_labelling_is_taken_off():
    own = OneSided(jnp.float32(-5.0))
    labels = np.random.default_rng(0).integers(-1, 2, (3, len(SIDES))).astype(np.int8)
    for balance in (None, 0.25):
        scorer = make_unbiased_scorer(own, balance)
        logp = np.asarray(jax.jit(lambda scorer, x: scorer(x))(scorer, labels))
        theirs = np.asarray(own(labels))
        log_odds = theirs[..., 1] - theirs[..., 0]
        for row in range(3):
            border = (
                float(cluster_border(log_odds[row]))
                if balance is None
                else float(np.quantile(log_odds[row], 0.75))
            )
            np.testing.assert_allclose(
                logp[row, :, 1] - logp[row, :, 0], log_odds[row] - border, atol=1e-4
            )
        np.testing.assert_allclose(np.exp(logp).sum(-1), 1, atol=1e-5)


@pytest.mark.slow
def test_a_search_of_a_one_sided_model_collapses_and_without_the_bias_it_finds_both_sides():
    own = OneSided(jnp.float32(-9.0))
    assert (found(own) == 0).all()
    truth = (SIDES > 0).astype(np.int8)
    zero_shot = own(np.full(len(SIDES), -1, np.int8))
    log_odds = np.asarray(zero_shot[:, 1] - zero_shot[:, 0])
    assert ((log_odds > np.median(log_odds)) == truth).mean() < 1
    np.testing.assert_array_equal(found(make_unbiased_scorer(own)), truth)


def test_bootstrapping_by_the_option_is_that_under_the_scorer():
    own, scores = OneSided(jnp.float32(-9.0)), {}
    for name, scorer, algorithm in (
        ("option", own, Bootstrap(bias="clusters")),
        ("scorer", make_unbiased_scorer(own), Bootstrap()),
    ):
        result = run_search(scorer, no_rules(), algorithm, jax.random.key(0), progress=False)
        scores[name] = result
    np.testing.assert_array_equal(scores["option"].labels, scores["scorer"].labels)
    np.testing.assert_allclose(scores["option"].marginals, scores["scorer"].marginals, atol=1e-5)
    assert scores["option"].utility < scores["scorer"].utility  # which has the bias taken off
    with pytest.raises(InputError, match="one of clusters, none"):
        Bootstrap(bias="mean")


def test_one_label_for_all_is_no_longer_the_most_coherent():
    own, truth = OneSided(jnp.float32(-9.0)), (SIDES > 0).astype(np.int8)
    one = np.zeros(len(SIDES), np.int8)
    scorer = make_unbiased_scorer(own)
    both = [(utility(s(x), x, no_rules())) for s in (own, scorer) for x in (one, truth)]
    assert both[0] > both[1]
    assert both[2] < both[3]


def test_few_claims_have_no_border():
    logp = jax.nn.log_softmax(
        jnp.asarray(np.random.default_rng(0).normal(size=(7, 2)), jnp.float32)
    )
    np.testing.assert_array_equal(less_bias(logp, "clusters"), logp)
    more = jnp.concatenate([logp, logp[:1]])
    assert not np.allclose(less_bias(more, "clusters"), more)


def test_it_is_a_scorer_of_binary_claims():
    own = OneSided(jnp.float32(0.0))
    scorer = make_unbiased_scorer(own)
    assert scorer.num_claims == len(SIDES)
    assert scorer.tokens_per_pass(np.zeros(8, np.int8)) == 8
    assert repr(scorer) == "UnbiasedScorer(N = 8, Y = 2)"
    leaves, tree = jax.tree.flatten(scorer)
    assert isinstance(jax.tree.unflatten(tree, leaves), UnbiasedScorer)
    assert not hasattr(scorer, "is_read")
    table = table_scorer(0, num_claims=4, num_options=3)
    with pytest.raises(InputError, match="between two labels") as caught:
        make_unbiased_scorer(table, balance=1.0)
    assert len(caught.value.faults) == 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Contrary:
    """A model that says of every claim the other label than it is shown with the first of them."""

    num_claims: int = dataclasses.field(default=8, metadata={"static": True})

    def __call__(self, labels):
        labels = jnp.asarray(labels).astype(jnp.float32)
        log_odds = jnp.where(labels < 0, 1.0, 1.0 - 2.0 * labels)
        return jax.nn.log_sigmoid(jnp.stack([-log_odds, log_odds], axis=-1))

    def tokens_per_pass(self, labels):
        return int(np.size(labels))


def test_labels_that_change_to_and_fro_are_told():
    result = run_search(Contrary(), no_rules(), Bootstrap(), jax.random.key(0), progress=False)
    assert "the labels of 8 of 8 claims" in " ".join(result.diagnostics["warnings"])
    settled = run_search(
        OneSided(jnp.float32(0.0)), no_rules(), Bootstrap(), jax.random.key(0), progress=False
    )
    assert "have not settled" not in " ".join(settled.diagnostics["warnings"])
