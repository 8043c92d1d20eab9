"""Contrasts against numpy, and what they hand on of the scorer that they wrap."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from scipy.special import log_softmax
from scorers import TableScorer, all_labellings, table_scorer

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError, ScoreError
from icmjax.runs import search_configuration
from icmjax.scoring import ContrastScorer, make_contrast_scorer
from icmjax.search import ICM

NUM_CLAIMS = 4
UNLABELLED = np.full(NUM_CLAIMS, -1, np.int8)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("bias", "couplings"),
    meta_fields=("delay",),
)
class OrderedScorer(TableScorer):
    """A table that also says what its queries read."""

    def demonstration_orders(self):
        return np.zeros((self.num_claims, self.num_claims - 1), np.int32)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_options", [2, 3])
def test_a_contrast_is_a_difference_normalised(weight, num_options):
    own, other = (table_scorer(seed, NUM_CLAIMS, num_options) for seed in (0, 1))
    contrast = make_contrast_scorer(own, other, weight)
    labels = all_labellings(NUM_CLAIMS, num_options)
    taken_off = log_softmax(np.asarray(other.bias), axis=-1)
    expected = log_softmax(np.asarray(own(labels)) - weight * taken_off, axis=-1)
    np.testing.assert_allclose(contrast(labels), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda s, x: s(x))(contrast, labels), expected, atol=1e-5)


def test_a_scorer_less_itself_says_nothing_without_labels():
    own = table_scorer(0, NUM_CLAIMS)
    logp = make_contrast_scorer(own, own)(UNLABELLED)
    np.testing.assert_allclose(logp, np.full((NUM_CLAIMS, 2), -np.log(2)), atol=1e-6)


def test_it_is_like_the_scorer_that_it_wraps():
    own, other = table_scorer(0, NUM_CLAIMS, 3), table_scorer(1, NUM_CLAIMS, 3)
    contrast = make_contrast_scorer(own, other)
    assert (contrast.num_claims, contrast.num_options) == (NUM_CLAIMS, 3)
    assert repr(contrast) == f"ContrastScorer(N = {NUM_CLAIMS}, Y = 3)"
    labels = np.array([0, -1, 1, -1], np.int8)
    assert contrast.tokens_per_pass(labels) == own.tokens_per_pass(labels)
    assert not hasattr(contrast, "demonstration_orders")
    assert not hasattr(contrast, "is_read")
    ordered = OrderedScorer(own.bias, own.couplings)
    orders = make_contrast_scorer(ordered, other).demonstration_orders()
    np.testing.assert_array_equal(orders, ordered.demonstration_orders())


def test_a_search_knows_what_was_taken_off():
    rows = [
        {"question": "", "choice": f"Taxes {i}", "consistency_id": i} for i in range(NUM_CLAIMS)
    ]
    claims, own = claims_from_rows(rows), table_scorer(0, NUM_CLAIMS)

    def fingerprint(scorer):
        configuration = search_configuration(scorer, claims, ICM(), jax.random.key(0))
        return configuration["scorer"]["fingerprint"]

    def contrast(seed, weight=1.0):
        return make_contrast_scorer(own, table_scorer(seed, NUM_CLAIMS), weight)

    same, *others = map(fingerprint, (contrast(1), contrast(2), contrast(1, 0.5), own))
    assert fingerprint(contrast(1)) == same
    assert len({same, *others}) == 4


def test_what_cannot_be_contrasted_is_refused():
    own = table_scorer(0, NUM_CLAIMS)
    with pytest.raises(InputError) as caught:
        make_contrast_scorer(own, table_scorer(0, NUM_CLAIMS + 1, 3))
    assert [fault.found for fault in caught.value.faults] == ["4 and 5", "2 and 3"]
    is_certain = own.bias.at[1, 0].set(-np.inf)
    with pytest.raises(ScoreError) as caught:
        make_contrast_scorer(own, dataclasses.replace(own, bias=is_certain))
    assert [fault.where for fault in caught.value.faults] == ["other, claim number 1"]
    with pytest.raises(ScoreError, match="weight nan"):
        make_contrast_scorer(own, own, float("nan"))


def test_a_contrast_is_a_pytree():
    contrast = make_contrast_scorer(table_scorer(0, NUM_CLAIMS), table_scorer(1, NUM_CLAIMS))
    leaves, structure = jax.tree.flatten(contrast)
    again = jax.tree.unflatten(structure, leaves)
    assert isinstance(again, ContrastScorer)
    np.testing.assert_array_equal(again(UNLABELLED), contrast(UNLABELLED))
