"""The flash kernel gives what the einsum gives, on both platforms' programs, and float32 sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_checkpoint
from jax import export
from rice import CLAIMS, LABELS
from test_lm_segments import make_decoder, random_levels, read_levels

from icmjax.lm import KeyValues, make_mesh
from icmjax.lm.attention import MASKED, attend, attend_part, merge, soft_cap
from icmjax.lm.flash import BLOCKS, FlashKernel
from icmjax.lm.fused import FusedKernel, fused_kernel
from icmjax.lm.segments import NEVER, Sight
from icmjax.scoring import make_scorer

PLATFORMS = ("tpu", "gpu")
# Rows of keys, rows of queries to each, queries, keys, key-value heads, heads to each, head size,
# cap and window: less than a block, no whole blocks, many blocks, a head size that is padded.
CASES = {
    "small": (2, 3, 7, 11, 2, 2, 8, None, None),
    "capped, in a window": (1, 4, 60, 130, 2, 4, 16, 5.0, 9),
    "odd head size": (3, 1, 20, 40, 1, 1, 24, None, 4),
    "blocks": (1, 1, 600, 1100, 1, 2, 16, None, None),
    "head size 256": (1, 2, 5, 70, 1, 4, 256, None, None),
}


def made(case: str, dtype: str = "float32"):
    """Random queries, keys and values, of which some queries see none, and a kernel's scores."""
    num_rows, num_each, length, num_keys, heads, group, size, cap, window = CASES[case]
    rng = np.random.default_rng(len(case))

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    queries = 3 * normal(num_rows * num_each, length, heads * group, size)
    read = KeyValues(*(normal(num_rows, num_keys, heads, size) for _ in range(2)))
    order = rng.integers(0, num_keys, (num_rows, num_keys)).astype(np.int32)
    is_padding = rng.random(order.shape) < 0.3
    seen_by = rng.integers(-2, num_keys, (num_rows, num_each * length)).astype(np.int32)
    seen_by[:, 0] = -1
    sight = Sight(seen_by, np.where(is_padding, NEVER, order), seen_by, order)
    sight = sight._replace(window=None if window is None else jnp.int32(window))
    return queries, read, jax.tree.map(jnp.asarray, sight), (size**-0.5, cap)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", CASES)
def test_a_part_is_that_of_the_einsum(case: str, platform: str):
    queries, read, sight, (scale, cap) = made(case)
    kernel = FlashKernel(scale, cap, platform, is_interpreted=True)
    found = jax.jit(kernel.attend_part)(queries, read, sight)
    expected = attend_part(queries, *read, sight, lambda each: soft_cap(each * scale, cap))
    is_any = np.asarray(expected.total > 0)
    assert not is_any.all()
    np.testing.assert_array_equal(found.total > 0, is_any)
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_keys_and_unseen_keys_weigh_nothing(platform: str):
    queries, read, sight, (scale, cap) = made("small")
    kernel = FlashKernel(scale, cap, platform, is_interpreted=True)
    none = KeyValues(*(each[:, :0] for each in read))
    never = sight._replace(key_order=jnp.full_like(sight.key_order, NEVER))
    for part in (
        kernel.attend_part(queries, none, sight),
        kernel.attend_part(queries, read, never),
    ):
        assert (part.highest == MASKED).all()
        assert (part.total == 0).all()
        assert (part.weighted == 0).all()


def test_blocks_pad_little():
    tpu, gpu = BLOCKS["tpu"], BLOCKS["gpu"]
    assert [tpu.size(number, 512) for number in (1, 240, 512, 513, 1100)] == [
        128, 256, 512, 384, 384,
    ]  # fmt: skip
    assert [gpu.size(number, 128) for number in (1, 17, 60, 129)] == [16, 32, 64, 128]
    assert (tpu.head_dim(80), gpu.head_dim(80)) == (80, 128)
    # Gemma's heads of 256 dimensions in float32 take as much of a GPU's memory as 128 in 16 bits.
    assert gpu.sizes(500, 500, 128 * 2) == (128, 64)
    assert gpu.sizes(500, 500, 256 * 4) == (32, 16)
    assert tpu.sizes(500, 500, 256 * 4) == (512, 512)


@pytest.mark.slow
def test_bfloat16_parts_merge_as_float32_would_where_the_sums_are_float32():
    """JAX's fused attention rounds the log-sum-exp, by which parts are weighed, to bfloat16."""
    rng = np.random.default_rng(0)
    shape, num_keys = (1, 1, 64, 64), 256
    queries = jnp.asarray(4 * rng.normal(size=shape), jnp.bfloat16)
    parts = [
        KeyValues(
            jnp.asarray(rng.normal(size=(1, num_keys, 64, 64)), jnp.bfloat16),
            jnp.full((1, num_keys, 64, 64), value, jnp.bfloat16),
        )
        for value in (0.0, 1.0)
    ]
    order = jnp.zeros((1, 1), jnp.int32)
    keys = jnp.zeros((1, num_keys), jnp.int32)
    sights = [Sight(order, keys, order, keys)] * 2

    def share(kernel) -> np.ndarray:
        """Of the second part, whose values are 1."""
        found = [kernel.attend_part(queries, *each) for each in zip(parts, sights, strict=True)]
        return np.asarray(merge(found), np.float64)

    exact = (
        np.asarray(queries, np.float64)[0, 0],
        [np.asarray(p.keys, np.float64)[0] for p in parts],
    )
    scores = [np.einsum("hd,shd->hs", exact[0], each) / 8 for each in exact[1]]
    weights = [np.exp(each).sum(axis=-1) for each in scores]
    expected = (weights[1] / (weights[0] + weights[1]))[None, None, :, None]

    def worst(kernel) -> float:
        return float(np.max(np.abs(share(kernel) / expected - 1)))

    with jax.numpy_dtype_promotion("standard"):  # JAX's own function wants it
        assert worst(FusedKernel("xla", 1 / 8)) > 0.01
    for platform in PLATFORMS:
        assert worst(FlashKernel(1 / 8, None, platform, is_interpreted=True)) < 0.005


@pytest.mark.slow
def test_a_decoder_reads_by_it_what_it_reads_by_einsum(monkeypatch):
    fields = {"windows": (5, None), "score_cap": 2.0}
    levels = random_levels(0, [1, 2, 4])
    plain, flash = (make_decoder(attention=name, **fields) for name in ("einsum", "flash"))
    assert fused_kernel(flash.config) == FlashKernel(8**-0.5, 2.0, "cpu", is_interpreted=True)
    calls = []
    whole = FlashKernel.attend_part
    monkeypatch.setattr(FlashKernel, "attend_part", lambda *args: calls.append(1) or whole(*args))
    is_real = np.asarray(levels[-1].is_real)
    expected, found = (np.asarray(read_levels(each, levels)[0]) for each in (plain, flash))
    assert len(calls) >= 3  # the rows themselves, and each segment
    np.testing.assert_allclose(found[is_real], expected[is_real], rtol=1e-5, atol=1e-5)


def test_rows_of_limits_go_by_einsum():
    queries, read, sight, (scale, _) = made("small")
    limited = sight._replace(
        is_read=jnp.ones((2, 1, 11), bool), limit_row=jnp.zeros((2, 21), jnp.int32)
    )
    kernel = FlashKernel(scale, None, "tpu")  # not interpreted: it would fail here
    found = attend(queries, [read], [limited], lambda each: each * scale, kernel=kernel)
    expected = attend(queries, [read], [sight], lambda each: each * scale, is_whole=False)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("num_devices", "shape"),
    [
        pytest.param(1, {"model": 4}, marks=pytest.mark.slow),
        pytest.param(2, None, marks=pytest.mark.slow),
    ],
)
def test_devices_share_its_heads(tmp_path, monkeypatch, num_devices: int, shape: dict | None):
    make_checkpoint(tmp_path / "model", "llama")
    expected = make_scorer(load(tmp_path, monkeypatch, "einsum"), CLAIMS)(LABELS)
    mesh = None if shape is None else make_mesh(shape)
    lm = load(tmp_path, monkeypatch, "flash", mesh)
    assert lm.config.attention == "flash"
    devices = jax.devices()[:num_devices] if mesh is None else ()
    found = make_scorer(lm, CLAIMS, devices=devices)(LABELS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def load(folder, monkeypatch, attention: str, mesh=None):
    """The model by a kind of attention; on a CPU the flash kernel is interpreted."""
    from icmjax.lm import load_lm

    monkeypatch.setattr("icmjax.lm.loading.check_attention", lambda *_: None)
    return load_lm(folder / "model", attention=attention, mesh=mesh)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", CASES)
def test_it_lowers_for_both_platforms(case: str, platform: str):
    """As far as a machine without them can: to the kernel's own program, in bfloat16."""
    queries, read, sight, (scale, cap) = made(case, "bfloat16")
    kernel = FlashKernel(scale, cap, platform)
    names = {"tpu": "tpu_custom_call", "gpu": "__gpu$xla.gpu.triton"}
    exported = export.export(
        jax.jit(kernel.attend_part),
        platforms=["tpu" if platform == "tpu" else "cuda"],
        disabled_checks=[export.DisabledSafetyCheck.custom_call(name) for name in names.values()],
    )(queries, read, sight)
    assert names[platform] in exported.mlir_module()
    assert [each.dtype for each in exported.out_avals] == [jnp.float32] * 3
