"""Devices that share a tree score as one alone, each with its part of the work."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_tree import (
    TOLERANCE,
    full_prompts,
    models,  # noqa: F401
    random_claims,
    random_labels,
)

from icmjax.claims import claims_from_rows
from icmjax.claims.consistency import no_rules
from icmjax.errors import InputError
from icmjax.scoring import TreeScorer, describe, make_scorer, make_tree_scorer
from icmjax.scoring.spread import share
from icmjax.search import Gibbs, run_search


@pytest.fixture(scope="module")
def lm(models):  # noqa: F811
    return models["llama"]


def on_devices(lm, num_claims: int, num_devices: int, **arguments) -> TreeScorer:
    devices = jax.devices()[:num_devices]
    units = np.arange(num_claims)
    return make_tree_scorer(lm, random_claims(num_claims), units, devices=devices, **arguments)


def compiled(scorer: TreeScorer, labels: np.ndarray):
    return jax.jit(lambda scorer, labels: scorer(labels)).lower(scorer, labels).compile()


@pytest.mark.parametrize(
    ("arities", "num_devices", "shares"),
    [
        ((2, 2, 2), 1, (2, 2, 2)),
        ((2, 2, 2), 2, (1, 2, 2)),
        ((2, 2, 2), 4, (1, 1, 2)),
        ((3, 2), 2, (3, 1)),
        ((2, 3, 2), 6, (1, 1, 2)),
        ((4, 2), 2, (2, 2)),
    ],
)
def test_the_topmost_nodes_are_shared_out(arities, num_devices, shares):
    assert share(arities, num_devices) == shares


def test_devices_that_cannot_share_evenly_are_refused(lm):
    with pytest.raises(InputError, match="give 3 of them"):
        share((3, 2), 4)
    with pytest.raises(InputError, match="3 devices for 8 leaves"):
        on_devices(lm, 8, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_claims", "num_devices", "is_shared", "num_serial"),
    [(8, 2, False, 0), (8, 4, False, 2), (5, 2, True, 0), (5, 3, True, 1)],
)
def test_devices_score_as_full_prompts_do(lm, num_claims, num_devices, is_shared, num_serial):
    scorer = on_devices(lm, num_claims, num_devices, is_shared=is_shared, batch_size=2)
    scorer = dataclasses.replace(scorer, num_serial=num_serial)
    labels = random_labels(num_devices, (3, num_claims))
    for each, scores in zip(labels, scorer(labels), strict=True):
        np.testing.assert_allclose(scores, full_prompts(scorer, each), **TOLERANCE)


@pytest.mark.slow
def test_each_device_has_a_part_of_the_work(lm):
    labels = random_labels(0, (16,))
    plans, programs = [], []
    for num_devices in (1, 2, 4):
        scorer = on_devices(lm, 16, num_devices, batch_size=1)
        plans.append(describe(scorer))
        programs.append(compiled(scorer, jnp.asarray(labels)))
    temporaries = [program.memory_analysis().temp_size_in_bytes for program in programs]
    operations = [program.cost_analysis()["flops"] for program in programs]
    for sizes in (temporaries, operations, [plan.peak_bytes for plan in plans]):
        assert sizes[1] < 0.7 * sizes[0]
        assert sizes[2] < 0.7 * sizes[1]
    # Two devices read nothing twice; of four, two each read the same half.
    assert plans[0].num_padded_tokens == plans[1].num_padded_tokens < plans[2].num_padded_tokens
    assert plans[0].num_tokens == plans[2].num_tokens
    assert "decoder calls on each of 4 devices, 1 at a time" in str(plans[2])
    assert "devices" not in str(plans[0])


def survey():
    words = ["Yes", "claim", "is True", "Japan", "would answer", "this"]
    rows = [
        {"question": "People from Japan", "choice": word, "consistency_id": str(index // 2)}
        for index, word in enumerate(words)
    ]
    return claims_from_rows(rows, rule="none")


@pytest.mark.slow
def test_make_scorer_spreads_a_tree_and_its_orders(lm):
    claims, labels = survey(), np.array([1, 0, -1, 1, 0, 1], np.int8)
    for options in ({}, {"num_orders": 2}, {"leave": "group", "is_shared": False}):
        one = make_scorer(lm, claims, "tree", **options)
        two = make_scorer(lm, claims, "tree", devices=jax.devices()[:2], **options)
        np.testing.assert_allclose(two(labels), one(labels), **TOLERANCE)
    assert two.num_devices == 2
    with pytest.raises(InputError, match="`devices` with method='sequential'"):
        make_scorer(lm, claims, "sequential", devices=jax.devices()[:2])


def test_one_device_that_is_not_the_first_does_all(lm):
    last = jax.devices()[3]
    scorer = make_scorer(lm, survey(), "tree", devices=[last])
    assert scorer(np.array([1, 0, -1, 1, 0, 1], np.int8)).devices() == {last}
    assert scorer.num_devices == 1


@pytest.mark.slow
def test_a_search_finds_the_same_on_more_devices(lm):
    claims, key = survey(), jax.random.key(0)
    found = [
        run_search(
            make_scorer(lm, claims, "tree", devices=jax.devices()[:num_devices]),
            no_rules(),
            Gibbs(num_chains=2, num_iterations=6),
            key,
            progress=False,
        )
        for num_devices in (1, 2)
    ]
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    np.testing.assert_allclose(found[0].utility, found[1].utility, rtol=1e-5)


def run_program(program: str) -> tuple[list[str], str]:
    """What a process of its own prints, in words, and its errors."""
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.split(), found.stderr


def test_cores_become_devices():
    program = """
import icmjax, jax
icmjax.use_cores(3)
print(len(jax.devices("cpu")))
"""
    printed, errors = run_program(program)
    assert printed == ["3"], errors


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc tells what is allocated")
def test_what_cores_allocate_does_not_grow_with_time():
    program = """
import ctypes, os, time, icmjax, jax, numpy as np
from jax.sharding import Mesh, PartitionSpec

num_cores = os.cpu_count()
icmjax.use_cores(num_cores)
mallinfo = ctypes.CDLL(None).mallinfo2  # in bytes; the eighth field is what is in use
fields = {"_fields_": [("fields", ctypes.c_size_t * 10)]}
mallinfo.restype = type("Info", (ctypes.Structure,), fields)

def read_blocks(x):
    block = lambda _, x: jax.lax.map(lambda rows: rows @ x, x.reshape(8, 64, 512)).reshape(512, 512)
    return jax.lax.fori_loop(0, 500, block, x)

mesh = Mesh(np.array(jax.devices()), ("core",))
spec = PartitionSpec("core")
program = jax.jit(jax.shard_map(read_blocks, mesh=mesh, in_specs=spec, out_specs=spec))
x = jax.numpy.zeros((512 * num_cores, 512))
program = program.lower(x).compile()
before, most = mallinfo().fields[7], 0
y = program(x)
while not y.is_ready():
    time.sleep(0.05)
    most = max(most, mallinfo().fields[7])
print(most - before)
"""
    printed, errors = run_program(program)
    # 4 MiB a core are at work (on two); with offers that nobody takes up it is 14.
    assert printed, errors
    assert int(printed[0]) < 8 * 2**20 * os.cpu_count()
