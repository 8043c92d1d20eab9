"""Blockwise scores are those of one forward pass under the same mask of blocks, on torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from scorers import table_scorer
from test_tree import SEVERAL, SINGLE, random_claims, random_labels

from icmjax.claims import PairRules, claims_from_rows
from icmjax.lm import load_lm
from icmjax.runs import pytree_fingerprint
from icmjax.scoring import (
    BlockwiseScorer,
    make_blockwise_scorer,
    make_scorer,
    make_tree_scorer,
    measure_fidelity,
)

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A torch model and the same one as we load it."""
    folder = tmp_path_factory.mktemp("qwen3")
    torch_model = make_checkpoint(folder, "qwen3")
    return torch_model, load_lm(folder)


def by_torch(model, scorer: BlockwiseScorer, labels: np.ndarray) -> np.ndarray:
    """[N, Y]: preamble, blocks, query and label form in one row, with positions and a 4-d mask."""
    claims = jax.tree.map(np.asarray, scorer.claims)
    num_before = len(claims.preamble)
    by_query = []
    for query, is_read in enumerate(np.asarray(scorer.is_read)):
        pieces = [claims.preamble]
        positions = [np.arange(num_before)]
        longest = 0
        for other in np.flatnonzero(is_read & (labels >= 0)):
            length = claims.demonstration_lengths[other, labels[other]]
            pieces.append(claims.demonstrations[other, labels[other], :length])
            positions.append(num_before + np.arange(length))
            longest = max(longest, length)
        text = claims.queries[query, : claims.query_lengths[query]]
        by_option = []
        for option in range(claims.label_forms.shape[0]):
            by_form = []
            for form, length in zip(
                claims.label_forms[option], claims.label_form_lengths[option], strict=True
            ):
                if length:
                    last = np.concatenate([text, form[:length]])
                    at = num_before + longest + np.arange(len(last))
                    by_form.append(
                        torch_log_prob(model, [*pieces, last], [*positions, at], int(length))
                    )
            by_option.append(np.logaddexp.reduce(by_form))
        by_query.append(by_option - np.logaddexp.reduce(by_option))
    return np.array(by_query)


def torch_log_prob(model, pieces, positions, num_label: int) -> float:
    """log P of the last tokens, where the last piece sees all and the others the first alone."""
    piece = np.repeat(np.arange(len(pieces)), [len(each) for each in pieces])
    sees = (piece[:, None] == piece) | (piece == 0) | (piece[:, None] == len(pieces) - 1)
    sees &= np.tri(len(piece), dtype=bool)
    mask = np.where(sees, 0.0, np.finfo(np.float32).min).astype(np.float32)
    tokens = torch.tensor(np.concatenate(pieces), dtype=torch.long)
    with torch.no_grad():
        logits = model(
            tokens[None],
            attention_mask=torch.tensor(mask)[None, None],
            position_ids=torch.tensor(np.concatenate(positions))[None],
        ).logits[0]
    log_probs = torch.log_softmax(logits.double(), -1)
    targets = range(len(tokens) - num_label, len(tokens))
    return float(sum(log_probs[target - 1, tokens[target]] for target in targets))


@pytest.mark.parametrize("forms", [SINGLE, SEVERAL])
def test_scores_are_those_of_torch_under_a_block_mask(checkpoint, forms):
    model, lm = checkpoint
    scorer = make_blockwise_scorer(lm, random_claims(6, forms), np.arange(6), batch_size=4)
    labels = random_labels(3, (6,), len(forms))
    assert (labels < 0).any()
    np.testing.assert_allclose(scorer(labels), by_torch(model, scorer, labels), **TOLERANCE)


@pytest.mark.slow
def test_units_and_leading_axes(checkpoint):
    model, lm = checkpoint
    units = np.array([0, 0, 1, 2, 2, 2])
    scorer = make_blockwise_scorer(lm, random_claims(6, num_preamble=0), units)
    labels = random_labels(4, (2, 1, 6))
    logp = scorer(labels)
    assert logp.shape == (2, 1, 6, 2)
    for each, scores in zip(labels[:, 0], logp[:, 0], strict=True):
        np.testing.assert_allclose(scores, by_torch(model, scorer, each), **TOLERANCE)
    own = np.flatnonzero(units == units[3])
    assert not set(scorer.demonstration_orders()[3]) & set(own)


@pytest.fixture(scope="module")
def scorers(checkpoint):
    _, lm = checkpoint
    claims = random_claims(5)
    return (
        make_blockwise_scorer(lm, claims, np.arange(5)),
        make_tree_scorer(lm, claims, np.arange(5), batch_size=1),
    )


def test_one_demonstration_gives_the_exact_score(scorers):
    blockwise, exact = scorers
    for labels in (np.array([-1, -1, 1, -1, -1], np.int8), np.full(5, -1, np.int8)):
        np.testing.assert_allclose(blockwise(labels), exact(labels), **TOLERANCE)
    labels = np.array([0, -1, 1, 0, -1], np.int8)
    assert np.abs(blockwise(labels) - exact(labels)).max() > 1e-3


def test_temperature_and_scale_change_the_weight_of_blocks(checkpoint, scorers):
    _, lm = checkpoint
    plain, _ = scorers
    claims = jax.tree.map(np.asarray, plain.claims)
    labels = np.array([0, 1, 1, 0, 1], np.int8)

    def tempered(temperature: float, scale: float) -> np.ndarray:
        units = np.arange(5)
        scorer = make_blockwise_scorer(lm, claims, units, temperature=temperature, scale=scale)
        return np.asarray(scorer(labels))

    np.testing.assert_allclose(tempered(1 + 1e-6, 1.0), plain(labels), atol=1e-4)
    assert np.abs(tempered(0.5, 1.0) - plain(labels)).max() > 1e-3
    assert np.abs(tempered(1.0, 0.5) - plain(labels)).max() > 1e-3


def test_labels_are_traced_and_tokens_are_counted(scorers):
    scorer, _ = scorers
    traces = []

    @jax.jit
    def score(labels):
        traces.append(labels)
        return scorer(labels)

    for seed in range(2):
        score(jnp.asarray(random_labels(seed, (5,))))
    assert len(traces) == 1
    labels = random_labels(0, (3, 5))
    assert scorer.tokens_per_pass(labels) == 3 * int(np.sum(scorer.claims.query_lengths))
    assert scorer.tokens_once == 2 + int(np.sum(scorer.claims.demonstration_lengths))


@pytest.mark.slow
def test_make_scorer_blockwise(checkpoint):
    _, lm = checkpoint
    rows = [
        {"question": "People from Japan", "choice": word, "consistency_id": str(index // 2)}
        for index, word in enumerate(["Yes", "claim", "is True", "Japan"])
    ]
    claims = claims_from_rows(rows, rule="none")
    labels = np.array([0, -1, -1, -1], np.int8)
    for leave in ("claim", "group"):
        blockwise = make_scorer(lm, claims, "blockwise", leave=leave)
        np.testing.assert_allclose(
            blockwise(labels),
            make_scorer(lm, claims, "sequential", leave=leave)(labels),
            **TOLERANCE,
        )


def test_fidelity_measures_what_it_says():
    exact = table_scorer(0, 6)
    labels = random_labels(0, (4, 6))
    rules = PairRules(
        np.array([[0, 1]], np.int32), np.eye(2, dtype=np.float32)[None], np.zeros(1, bool)
    )
    key = jax.random.key(0)
    perfect = measure_fidelity(exact, exact, labels, rules, key)
    assert perfect.argmax_agreement == perfect.flip_sign_agreement == 1
    assert perfect.rank_correlation == pytest.approx(1)
    assert perfect.utility_error == perfect.flip_error == perfect.log_prob_error == 0
    assert perfect.num_flips == 4 * 16
    # Less all label log-probs by one nat: U is off by alpha, and ΔU not where all are labelled.
    full = np.abs(labels)
    shifted = measure_fidelity(lambda each: exact(each) - 1, exact, full, rules, key, alpha=7)
    assert shifted.utility_error == pytest.approx(7, rel=1e-5)
    assert shifted.flip_error == pytest.approx(0, abs=1e-4)
    noisy = measure_fidelity(table_scorer(1, 6), exact, labels, rules, key)
    assert noisy.argmax_agreement < 1
    assert noisy.flip_error > 0
    assert "argmax agreement" in str(noisy)


def test_fidelity_flips_one_claim_to_every_label_it_does_not_have():
    scorer, seen = table_scorer(0, 6, 3), []

    def recorded(states):
        seen.append(np.asarray(states))
        return scorer(states)

    labels = np.array([[-1, 0, 1, 2, -1, 0]], np.int8)
    rules = PairRules(
        np.array([[0, 1]], np.int32), np.zeros((1, 3, 3), np.float32), np.zeros(1, bool)
    )
    measure_fidelity(recorded, scorer, labels, rules, jax.random.key(0), num_flips=300)
    flipped = seen[-1][0, 1:]
    is_new = flipped != labels[0]
    assert (is_new.sum(-1) == 1).all()
    for claim, label in enumerate(labels[0]):
        # A label has a chance of 1 in 18 or 12 a flip; one is never met once in four million.
        assert set(flipped[is_new[:, claim], claim]) == {0, 1, 2} - {label}


def test_a_search_is_known_by_what_the_blocks_are_made_of(checkpoint):
    _, lm = checkpoint
    claims, other = random_claims(5), random_claims(5, seed=1)
    units = np.arange(5)
    scorers = [
        make_blockwise_scorer(lm, claims, units, batch_size=1),
        make_blockwise_scorer(lm, claims, units, batch_size=5),
        make_blockwise_scorer(lm, other, units),
        make_blockwise_scorer(lm, claims, units // 2),
        make_blockwise_scorer(lm, claims, units, temperature=0.5),
    ]
    prints = [pytree_fingerprint(scorer.sources) for scorer in scorers]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
