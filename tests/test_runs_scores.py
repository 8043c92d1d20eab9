"""Scores that are no numbers are refused wherever they are used."""

import jax.numpy as jnp
import numpy as np
import pytest

from icmjax.claims import claims_from_rows
from icmjax.errors import ScoreError
from icmjax.scoring import checked_scores

CLAIMS = claims_from_rows(
    [{"id": f"c{i}", "question": "?", "choice": f"{i}", "consistency_id": i} for i in range(3)]
)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_name_their_claims(value):
    logp = jnp.zeros((2, 3, 2)).at[1, 2, 0].set(value)
    with pytest.raises(ScoreError) as caught:
        checked_scores(logp, CLAIMS)
    assert [fault.where for fault in caught.value.faults] == ["claim 'c2'"]


def test_numbers_go_through():
    logp = jnp.log(jnp.full((3, 2), 0.5))
    np.testing.assert_array_equal(checked_scores(logp, CLAIMS), logp)
