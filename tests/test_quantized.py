"""Weights of few bits are what qwix makes of them, on any mesh, and save what they say."""

import dataclasses
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from checkpoints import make_checkpoint
from rice import CLAIMS, LABELS
from test_lm_parity import batch, logits

from icmjax.claims.consistency import no_rules
from icmjax.errors import CheckpointError
from icmjax.lm import load_lm, make_mesh, save_hf
from icmjax.lm.quantized import GROUP, QUANTIZATIONS, Quantized, dequantize, kept_bits, quantize
from icmjax.runs import search_configuration
from icmjax.scoring import make_scorer
from icmjax.search import Gibbs, run_search

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
FAMILIES = ("llama", "mixtral", "gpt2", "phi3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        sizes = dict(SIZES)
        if family == "gpt2":
            sizes = {"hidden_size": 64, "num_attention_heads": 4}
        elif family == "phi3":
            del sizes["head_dim"]
        make_checkpoint(folder / family, family, **sizes)
    return folder


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_kernel_is_rounded_as_qwix_rounds_it(kind: str):
    kernel = np.random.default_rng(0).normal(size=(96, 24)).astype(np.float32)
    found = quantize(kernel, kind, jnp.dtype(jnp.float32))
    expected = qwix.dequantize(
        qwix.quantize(
            jnp.asarray(kernel), jnp.dtype(kind), channelwise_axes=(1,), tiled_axes={0: GROUP}
        )
    )
    np.testing.assert_array_equal(dequantize(found), expected)
    assert found.steps.shape == (3, 24)
    # No value is further off than half of a step, of which there are as many as the bits allow.
    largest = np.abs(kernel).reshape(3, GROUP, 24).max(axis=1)
    step = largest / (jnp.iinfo(kind).max + (0.5 if kind == "int4" else 0.0))
    error = np.abs(dequantize(found) - kernel).reshape(3, GROUP, 24).max(axis=1)
    assert (error <= 0.51 * np.maximum(step, found.steps)).all()


@pytest.mark.parametrize("kind", QUANTIZATIONS)
@pytest.mark.parametrize(
    "family",
    [pytest.param(each, marks=() if each == "llama" else pytest.mark.slow) for each in FAMILIES],
)
def test_a_model_computes_with_what_its_kernels_were_rounded_to(folders, family, kind, monkeypatch):
    """The same logits as a whole model whose kernels were replaced by hand."""
    monkeypatch.setattr("icmjax.lm.reading.PIECE_BYTES", 4096)
    whole, few = load_lm(folders / family), load_lm(folders / family, quantize=kind)
    inputs = batch(whole)

    def rounded(path, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if "layers" not in name or "kernel" not in name or "router" in name:
            return leaf
        num_in, num_out = leaf.shape[-2:]
        flat = leaf.reshape(-1, num_in, num_out)
        made = [dequantize(quantize(each, kind, leaf.dtype)) for each in flat]
        return jnp.stack(made).reshape(leaf.shape)

    by_hand = jax.tree_util.tree_map_with_path(rounded, whole.params)
    expected = np.asarray(logits(dataclasses.replace(whole, params=by_hand), *inputs))
    found = np.asarray(logits(few, *inputs))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    assert np.abs(found - np.asarray(logits(whole, *inputs))).max() > 1e-4 * scale


def test_what_is_kept_is_as_small_as_is_said(folders):
    sizes = {}
    for kind in (None, *QUANTIZATIONS):
        said: list[int] = []
        lm = load_lm(
            folders / "llama", quantize=kind, on_read=lambda _, total, said=said: said.append(total)
        )
        sizes[kind] = said[0]
        kernels = [
            each
            for each in jax.tree.leaves(lm.params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
            if isinstance(each, Quantized)
        ]
        assert {str(each.values.dtype) for each in kernels} == ({kind} if kind else set())
        held = sum(each.values.on_device_size_in_bytes() + each.steps.nbytes for each in kernels)
        others = sum(
            leaf.nbytes
            for leaf in jax.tree.leaves(lm.params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
            if not isinstance(leaf, Quantized)
        )
        assert said[0] == held + others
    # A CPU keeps no half bytes; what else there is does.
    assert sizes["int4"] == sizes["int8"] < sizes[None]
    tpu = types.SimpleNamespace(platform="tpu")
    assert [kept_bits(kind, tpu) for kind in ("int8", "int4")] == [8, 4]


@pytest.mark.slow
def test_any_mesh_rounds_and_searches_alike(folders):
    results = []
    for shape in (None, {"query": 2, "model": 2}):
        mesh = None if shape is None else make_mesh(shape)
        scorer = make_scorer(load_lm(folders / "llama", quantize="int4", mesh=mesh), CLAIMS)
        algorithm = Gibbs(num_iterations=4)
        labels = run_search(scorer, no_rules(), algorithm, jax.random.key(0)).labels
        results.append((np.asarray(scorer(LABELS)), labels))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_runs_tell_them_apart(folders):
    found = []
    for kind in (None, *QUANTIZATIONS):
        scorer = make_scorer(load_lm(folders / "llama", quantize=kind), CLAIMS)
        found.append(search_configuration(scorer, CLAIMS, Gibbs(), jax.random.key(0))["scorer"])
    assert len({each["fingerprint"] for each in found}) == 3


@pytest.mark.slow
def test_what_cannot_be_kept_so_is_refused(folders, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="8 bits or 4"):
        load_lm(folders / "llama", quantize="int2")
    make_checkpoint(tmp_path / "odd", "llama")  # of 48 columns
    with pytest.raises(CheckpointError, match="groups of 32"):
        load_lm(tmp_path / "odd", quantize="int8")
    make_checkpoint(tmp_path / "three", "llama", **SIZES | {"intermediate_size": 96})
    load_lm(tmp_path / "three", quantize="int8")
    with pytest.raises(CheckpointError, match="groups of 32"):
        load_lm(tmp_path / "three", quantize="int8", mesh=make_mesh({"model": 2}))
    lm = load_lm(folders / "llama", quantize="int8")
    with pytest.raises(CheckpointError, match="Load it without quantize"):
        save_hf(tmp_path / "saved", lm.config, lm.params, lm.tokenizer)
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(CheckpointError, match="pip install"):
        load_lm(folders / "llama", quantize="int8")
