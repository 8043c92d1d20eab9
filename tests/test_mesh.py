"""Devices that share a model's weights, its queries and its labellings score as one does."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint
from rice import CLAIMS, LABELS
from test_lm_parity import batch, logits

from icmjax.errors import InputError
from icmjax.lm import MODEL_AXIS, default_mesh, load_lm, make_mesh, save_hf
from icmjax.runs import search_configuration
from icmjax.scoring import make_scorer
from icmjax.search import Gibbs
from icmjax.steering import make_steerer

FAMILIES = ("llama", "olmo2", "gemma3", "mixtral", "phi3", "gpt2", "gpt_neox", "stablelm")
OWN_NORMS = {"qk_layernorm": True, "use_parallel_residual": True}
MESHES = {
    "model, heads repeated": {"model": 4},
    "query and model": {"query": 2, "model": 2},
    "chain and query": {"chain": 2, "query": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each family; StableLM's with norms of each head's own."""
    folder = tmp_path_factory.mktemp("families")
    fields = {"stablelm": OWN_NORMS}
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, id=name) for name, shape in MESHES.items()],
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
    for leaf in jax.tree.leaves(found):
        assert isinstance(leaf, np.ndarray) or leaf.sharding.device_set == set(mesh.devices.flat)
    # Keys and values of a part of the weights lie with that part, which no device has whole.
    inputs = batch(many)
    kept = jax.jit(lambda lm: lm.decoder().key_values(*inputs))(many)
    num_parts = mesh.shape[MODEL_AXIS]
    for leaf in kept:
        assert leaf.sharding.shard_shape(leaf.shape)[3] == leaf.shape[3] // num_parts


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


@pytest.mark.parametrize("shape", [{"model": 2}, {"model": 4}])
def test_a_model_on_a_mesh_is_written_as_it_was_read(folders, tmp_path, shape):
    one, many = load_lm(folders / "llama"), load_lm(folders / "llama", mesh=make_mesh(shape))
    save_hf(tmp_path / "saved", many.config, many.params, many.tokenizer)
    again = load_lm(tmp_path / "saved")
    assert again.config == one.config
    jax.tree.map(np.testing.assert_array_equal, again.params, one.params)


def test_a_mesh_that_does_not_fit_is_refused(folders):
    with pytest.raises(InputError, match='or "auto"'):
        load_lm(folders / "llama", mesh="all")
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


def test_where_nobody_says_one_all_devices_share_the_weights(folders, monkeypatch):
    config = load_lm(folders / "llama").config  # of four heads, hidden size 32
    assert default_mesh(config, jax.devices()[:1]) is None
    for num_devices, shape in ((2, (1, 1, 2)), (3, (3, 1, 1)), (4, (1, 1, 4))):
        mesh = default_mesh(config, jax.devices()[:num_devices])
        assert mesh.devices.shape == shape
    wide = dataclasses.replace(config, num_heads=6, num_kv_heads=6, hidden_size=36)
    assert default_mesh(wide).devices.shape == (2, 1, 2)
    # Devices of a CPU are one machine's cores, which one device has use for already.
    assert load_lm(folders / "llama", mesh="auto").mesh is None
    monkeypatch.setattr("icmjax.lm.loading.platform_of", lambda mesh=None: "tpu")
    lm = load_lm(folders / "llama", mesh="auto")
    assert lm.mesh == make_mesh({"model": 4})
    assert lm.config.platform == "tpu"


HOST = """
import sys
import jax
import numpy as np
address, host, number, model, shape, out = sys.argv[1:]
jax.config.update("jax_default_matmul_precision", "highest")
if int(number) > 1:
    jax.distributed.initialize(address, int(number), int(host))
from rice import CLAIMS, LABELS
from icmjax.lm import load_lm, make_mesh
from icmjax.scoring import make_scorer
assert len(jax.devices()) == 4 and len(jax.local_devices()) == 4 // int(number)
mesh = make_mesh(dict(zip(("chain", "query", "model"), map(int, shape.split(",")))))
scorer = make_scorer(load_lm(model, mesh=mesh), CLAIMS)
scores = jax.experimental.multihost_utils.process_allgather(scorer(LABELS), tiled=True)
held = sum(s.data.nbytes for leaf in jax.tree.leaves(scorer.lm.params)
           for s in leaf.addressable_shards)
np.savez(out, scores=scores, held=held)
"""


@pytest.mark.slow
def test_devices_of_two_processes_score_as_one(folders, tmp_path):
    """Chains are spread over the processes, and weights over the devices of each."""
    number, shape = 2, "2,1,2"
    scores = make_scorer(load_lm(folders / "llama"), CLAIMS)(LABELS)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": f"{4 // number}",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    hosts = range(number)
    model = folders / "llama"
    own = [[address, host, number, model, shape, tmp_path / f"{host}"] for host in hosts]
    with contextlib.ExitStack() as stack:
        processes = []
        for words in own:
            command = [sys.executable, "-c", HOST, *map(str, words)]
            log = stack.enter_context(words[-1].with_suffix(".log").open("w"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        for process, words in zip(processes, own, strict=True):
            assert process.wait(timeout=200) == 0, words[-1].with_suffix(".log").read_text()
    held = []
    for words in own:
        found = np.load(words[-1].with_suffix(".npz"))
        np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-5)
        held.append(int(found["held"]))
    # Each process read what its own devices hold, and no more.
    assert len(set(held)) == 1


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama", {}),
        pytest.param("olmo2", {}, marks=pytest.mark.slow),
        pytest.param("qwen3", {}, marks=pytest.mark.slow),
        pytest.param("stablelm", OWN_NORMS, marks=pytest.mark.slow),
    ],
)
def test_a_search_goes_on_on_another_mesh(tmp_path, family, fields):
    """Repeated heads, biases, norms of all heads, of each and of each alike: one model."""
    make_checkpoint(tmp_path / "model", family, **fields)
    found = []
    for shape in (None, {"model": 2}, {"query": 1, "model": 4}):
        mesh = None if shape is None else make_mesh(shape)
        scorer = make_scorer(load_lm(tmp_path / "model", mesh=mesh), CLAIMS)
        key, algorithm = jax.random.key(0), Gibbs(num_iterations=6)
        found.append(search_configuration(scorer, CLAIMS, algorithm, key))
    assert scorer.lm.config.kv_repeats == 2
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_a_process_that_nobody_told_of_others_is_refused(folders, tmp_path):
    command = [sys.executable, "-c", "from icmjax.cli import main; main(prog_name='icmjax')"]
    command += ["search", "--model", str(folders / "llama"), "--claims", "no.csv", "--out", "x"]
    for more, rule in (([], "told of one another"), (["--devices", "2"], "say --mesh instead")):
        told = subprocess.run([*command, "--distributed", *more], capture_output=True, text=True)
        assert told.returncode == 2
        assert rule in told.stderr
