"""Anchors judge and are not shown: against numpy, claim by claim."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax
from scorers import TableScorer, all_labellings, table_scorer

from icmjax.claims.consistency import no_rules
from icmjax.errors import InputError
from icmjax.scoring import AnchoredScorer, confident_labels, utility

NUM_CLAIMS = 5
ANCHORS = np.array([1, -1, 0, -1, -1], np.int8)
FREE = np.flatnonzero(ANCHORS < 0)


class OrderedScorer(TableScorer):
    """A table that also says what its queries read: the others in turn from the query on."""

    num_options = 2

    def is_read(self, labels=None):
        return ~np.eye(self.num_claims, dtype=bool) & (labels is None or labels >= 0)

    def demonstration_orders(self):
        queries, steps = np.arange(self.num_claims)[:, None], np.arange(1, self.num_claims)
        return ((queries + steps) % self.num_claims).astype(np.int32)


def ordered_scorer():
    table = table_scorer(0, NUM_CLAIMS)
    return OrderedScorer(table.bias, table.couplings)


def with_anchors():
    """int8 [8, N]: every labelling of the free claims."""
    labels = np.tile(ANCHORS, (2 ** len(FREE), 1))
    labels[:, FREE] = all_labellings(len(FREE))
    return labels


def naive(scorer, labels):
    """float32 [N, Y], and U without alpha: the mean of all claims' scores of their own label."""
    rows = np.full((NUM_CLAIMS, 2), -np.log(2))
    for anchor in np.flatnonzero(ANCHORS >= 0):
        logits = np.asarray(scorer.bias)[anchor].copy()
        for claim in FREE:
            if labels[claim] >= 0:
                logits += np.asarray(scorer.couplings)[anchor, claim, :, labels[claim]]
        rows[anchor] = log_softmax(logits)
    return rows, rows[np.arange(NUM_CLAIMS), labels].mean()


@pytest.mark.parametrize("is_jitted", [False, True])
def test_anchors_are_scored_by_the_free_claims_alone(is_jitted):
    table = table_scorer(0, NUM_CLAIMS)
    scorer, labels = AnchoredScorer(table, ANCHORS), with_anchors()
    logp = jax.jit(lambda s, x: s(x))(scorer, labels) if is_jitted else scorer(labels)
    expected, coherence = zip(*(naive(table, row) for row in labels), strict=True)
    np.testing.assert_allclose(logp, expected, atol=1e-5)
    np.testing.assert_allclose(utility(logp, labels, no_rules(), 1.0), coherence, atol=1e-5)


def test_unlabelled_claims_are_not_shown():
    labels = np.array([1, 0, 0, -1, -1], np.int8)
    table = table_scorer(0, NUM_CLAIMS)
    logp = AnchoredScorer(table, ANCHORS)(labels)
    np.testing.assert_allclose(logp, naive(table, labels)[0], atol=1e-5)


def test_it_says_what_is_read():
    inner = ordered_scorer()
    scorer = AnchoredScorer(inner, ANCHORS)
    assert repr(scorer) == f"AnchoredScorer(N = {NUM_CLAIMS}, Y = 2)"
    assert scorer.tokens_per_pass(with_anchors()[0]) == 4 * NUM_CLAIMS * len(FREE)
    orders = [[1, 3, 4, -1], [3, 4, -1, -1], [3, 4, 1, -1], [4, 1, -1, -1], [1, 3, -1, -1]]
    np.testing.assert_array_equal(scorer.demonstration_orders(), orders)
    for labels in ([], [np.array([1, -1, 0, 1, 0], np.int8)]):
        is_read = inner.is_read(*labels)
        is_read[:, ANCHORS >= 0] = False
        np.testing.assert_array_equal(scorer.is_read(*labels), is_read)


def log_probs(*true):
    return np.log(np.stack([1 - np.array(true), true], axis=-1))


def test_the_surest_claims_are_anchors():
    logp = log_probs(0.6, 0.1, 0.8, 0.95, 0.5)
    expected = {0.2: [-1, -1, -1, 1, -1], 0.5: [-1, 0, -1, 1, -1], 0.6: [-1, 0, 1, 1, -1]}
    for share, labels in expected.items():
        found = confident_labels(logp, share)
        assert found.dtype == np.int8
        np.testing.assert_array_equal(found, labels)
    assert (confident_labels(logp, 0.01) >= 0).sum() == 1
    assert (confident_labels(np.tile(logp, (20, 1)), 0.29) >= 0).sum() == 29


def test_groups_are_taken_whole_by_their_mean():
    # The surest claim's group has the least sure one too.
    logp = log_probs(0.99, 0.2, 0.5, 0.85, 0.3, 0.4)
    groups = np.array([7, 3, 7, 3, 5, 5])
    np.testing.assert_array_equal(confident_labels(logp, 0.4, groups), [-1, 0, -1, 1, -1, -1])
    np.testing.assert_array_equal(confident_labels(logp, 0.67, groups), [1, 0, 0, 1, -1, -1])


def test_several_options():
    logp = np.log([[0.1, 0.2, 0.7], [0.4, 0.3, 0.3], [0.1, 0.8, 0.1]])
    np.testing.assert_array_equal(confident_labels(logp, 0.67), [2, -1, 1])


def test_what_cannot_be_anchored_is_refused():
    with pytest.raises(InputError) as caught:
        confident_labels(log_probs(0.5, 0.6), 1.0, np.arange(3))
    assert [fault.where for fault in caught.value.faults] == ["groups", "share"]
    with pytest.raises(InputError, match="options"):
        confident_labels(np.zeros(3))
