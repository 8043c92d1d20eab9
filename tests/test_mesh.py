"""Devices that share a model's weights, its queries and its labellings score as one does."""

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint
from test_lm_parity import batch, logits

from icmjax.claims import claims_from_rows
from icmjax.claims.consistency import no_rules
from icmjax.errors import InputError
from icmjax.lm import MODEL_AXIS, load_lm, make_mesh
from icmjax.scoring import make_scorer
from icmjax.search import Gibbs, run_search
from icmjax.steering import make_steerer

FAMILIES = ("llama", "olmo2", "gemma3", "mixtral", "phi3", "gpt2", "gpt_neox", "stablelm")
MESHES = {
    "model": {"model": 2},
    "model, heads repeated": {"model": 4},
    "query and model": {"query": 2, "model": 2},
    "chain and query": {"chain": 2, "query": 2},
    "chain and model": {"chain": 2, "model": 2},
}
CLAIMS = claims_from_rows(
    [
        {
            "persona": "Japan",
            "choice": f"Rice {'helps ' * (index % 4)}{index}",
            "consistency_id": f"{index}",
        }
        for index in range(8)
    ]
)
LABELS = np.random.default_rng(0).integers(-1, 2, (3, 8)).astype(np.int8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each family; StableLM's with norms of each head's own."""
    folder = tmp_path_factory.mktemp("families")
    fields = {"stablelm": {"qk_layernorm": True, "use_parallel_residual": True}}
    for family in FAMILIES:
        make_checkpoint(folder / family, family, **fields.get(family, {}))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_shared_weights(folders, family):
    lm = load_lm(folders / family)
    inputs = batch(lm)
    is_real, expected = np.asarray(inputs[2]), np.asarray(logits(lm, *inputs))
    for shape in ({"model": 2}, {"model": 4}):
        spread = load_lm(folders / family, mesh=make_mesh(shape))
        assert spread.mesh is not None
        found = np.asarray(logits(spread, *inputs))
        error = np.abs(found - expected)[is_real].max()
        assert error <= 1e-5 * np.abs(expected[is_real]).max(), shape


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=name, marks=() if name == "query and model" else pytest.mark.slow)
        for name, shape in MESHES.items()
    ],
)
def test_scores_and_steering_on_a_mesh(folders, shape):
    mesh = make_mesh(shape)
    one, many = load_lm(folders / "llama"), load_lm(folders / "llama", mesh=mesh)
    assert one.mesh is None
    assert many.mesh == mesh
    expected = make_scorer(one, CLAIMS)(LABELS)
    scorer = make_scorer(many, CLAIMS)
    found = scorer(LABELS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.sharding.device_set == set(mesh.devices.flat)
    expected, found = (make_steerer(lm, CLAIMS, CLAIMS)(LABELS) for lm in (one, many))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_a_search_on_a_mesh_finds_the_same_labels(folders):
    results = []
    for mesh in (None, make_mesh({"chain": 2, "model": 2})):
        scorer = make_scorer(load_lm(folders / "llama", mesh=mesh), CLAIMS)
        algorithm = Gibbs(num_iterations=6)
        results.append(run_search(scorer, no_rules(), algorithm, jax.random.key(0)))
    first, second = results
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.trace.labels, second.trace.labels)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_device_holds_more_than_its_share(folders, family):
    mesh = make_mesh({"model": 4})
    lm = load_lm(folders / family, mesh=mesh)
    whole, held = 0, dict.fromkeys(mesh.devices.flat, 0)
    shared = {}
    for path, leaf in jax.tree.leaves_with_path(lm.params):
        whole += leaf.nbytes
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
        shared[jax.tree_util.keystr(path)] = MODEL_AXIS in leaf.sharding.spec
    # What each device has whole are norms, routers, and biases that are added once.
    alone = sum(
        leaf.nbytes
        for path, leaf in jax.tree.leaves_with_path(lm.params)
        if not shared[jax.tree_util.keystr(path)]
    )
    assert max(held.values()) == (whole - alone) / 4 + alone
    kernels = [name for name in shared if "kernel" in name and "router" not in name]
    assert all(shared[name] for name in kernels)
    assert all(shared[name] for name in shared if "embedding" in name)


def test_a_mesh_that_does_not_fit_is_refused(folders):
    with pytest.raises(InputError, match="there are 4"):
        make_mesh({"query": 5})
    with pytest.raises(InputError, match="tensor"):
        make_mesh({"tensor": 2})
    with pytest.raises(InputError, match="from 1 on"):
        make_mesh({"model": 0})
    with pytest.raises(InputError, match="3 devices for 4 heads, 2 key-value heads, 32 hidden"):
        load_lm(folders / "llama", mesh=make_mesh({"model": 3}))
    lm = load_lm(folders / "llama", mesh=make_mesh({"model": 2}))
    with pytest.raises(InputError, match="give no devices"):
        make_scorer(lm, CLAIMS, devices=jax.devices()[:2])
