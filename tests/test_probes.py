"""Features against one prompt a label, and the probe against what it is to find."""

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint

from icmjax.claims import claims_from_rows
from icmjax.errors import InputError, PromptError
from icmjax.lm import load_lm
from icmjax.persona_world import load_task
from icmjax.prompts import resolve_template
from icmjax.scoring import contrast_features, principal_probe, probes

NUM_CLAIMS = 5
PREAMBLE = "Web poll from Hestonia."


@pytest.fixture(scope="module")
def lm():
    return load_lm("persona-world")


@pytest.fixture(scope="module")
def rows():
    claims = load_task("persona-world:ilvania:0").claims.claims[:NUM_CLAIMS]
    return [
        {"question": claim.question, "choice": claim.choice, "consistency_id": index}
        for index, claim in enumerate(claims)
    ]


@jax.jit
def read_whole(lm, tokens):
    """float32 [T, D] of one text, int32 [T]."""
    positions = np.arange(len(tokens), dtype=np.int32)[None]
    return lm.decoder()(tokens[None], positions, np.ones((1, len(tokens)), bool))[0][0]


def naive_features(lm, claims):
    template, states = resolve_template(None, lm.default_template, claims), []
    for claim in claims.claims:
        for forms in template.label_forms:
            text = template.prompt_text(claims.preamble, [], claim) + forms[0]
            tokens = np.array(lm.tokenizer(text).input_ids, np.int32)
            states.append(np.asarray(read_whole(lm, tokens)[-1], np.float64))
    by_label = np.array(states).reshape(len(claims), 2, -1)
    false, true = ((x - x.mean(0)) / x.std(0) for x in by_label.transpose(1, 0, 2))
    return true - false


@pytest.mark.parametrize(("preamble", "batch_tokens"), [("", 4096), (PREAMBLE, 100)])
def test_features_are_those_of_single_prompts(lm, rows, preamble, batch_tokens, monkeypatch):
    monkeypatch.setattr(probes, "BATCH_TOKENS", batch_tokens)
    claims = claims_from_rows(rows, preamble=preamble)
    features = contrast_features(lm, claims)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, naive_features(lm, claims), atol=1e-4)


@pytest.mark.slow
def test_labels_of_several_tokens(tmp_path):
    make_checkpoint(tmp_path, "llama", ["tea rice"])
    lm = load_lm(tmp_path)
    rows = [
        {"question": "", "choice": choice, "consistency_id": index}
        for index, choice in enumerate(["tea", "rice tea", "rice"])
    ]
    claims = claims_from_rows(rows)
    np.testing.assert_allclose(contrast_features(lm, claims), naive_features(lm, claims), atol=1e-4)


def test_what_no_probe_reads_is_refused(lm, rows):
    claims = claims_from_rows(rows)
    with pytest.raises(InputError, match="binary"):
        contrast_features(lm, claims_from_rows(rows, options=("A", "B", "C"), rule="none"))
    with pytest.raises(InputError, match="memory budget"):
        contrast_features(lm, claims, memory_budget=1000)
    endless = " can help" * lm.max_length
    long = claims_from_rows([row | {"choice": row["choice"] + endless} for row in rows])
    with pytest.raises(PromptError, match="fits"):
        contrast_features(lm, long)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_probe_finds_the_direction_of_most_variance(sign):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    features = np.outer(truth, [3.0, 4.0, 0.0]) + 0.1 * rng.normal(size=(40, 3)) + 5
    scores = principal_probe(features.astype(np.float32), sign * truth + rng.normal(size=40))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, sign * 5 * (truth - truth.mean()), atol=0.5)
    _, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, -1]
    np.testing.assert_allclose(np.abs(scores), np.abs(expected), atol=1e-4)


def test_features_and_log_odds_are_of_the_same_claims():
    with pytest.raises(InputError, match="same claims"):
        principal_probe(np.zeros((3, 2)), np.zeros(4))
    np.testing.assert_array_equal(principal_probe(np.zeros((3, 2)), np.arange(3)), np.zeros(3))
