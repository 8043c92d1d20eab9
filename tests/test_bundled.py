"""The bundled model: it reads personas from context, and ICM finds its optimum on small sets."""

import itertools
from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import icmjax
from icmjax.persona_world import make_task, make_world
from icmjax.scoring import Method

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def lm():
    return icmjax.load_lm("persona-world")


def test_the_bundled_model_is_the_same_on_torch(lm):
    folder = ROOT / "icmjax/persona_world/models/persona-world"
    ids = lm.tokenizer(
        "Web poll from Hestonia.\nTaxes can help: True\nUnions must prevail:"
    ).input_ids
    hidden, _ = lm.decoder()(
        jnp.array([ids]), jnp.arange(len(ids))[None], jnp.ones((1, len(ids)), bool)
    )
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        expected = model(torch.tensor([ids])).logits
    np.testing.assert_allclose(lm.decoder().logits(hidden), expected, atol=1e-4)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6


def test_gold_demonstrations_steer_it(lm):
    # Means over the 8 groups of a tier; the standard errors that were measured are 0.02.
    world, accuracy = make_world(), {}
    for tier in ("frequent", "rare"):
        scores = []
        for group in world.tiers[tier]:
            task = make_task(world, group, 0, is_paired=False)
            test = make_task(world, group, 0, "test", num_claims=64, is_paired=False)
            labels = np.stack([np.full_like(task.gold.labels, -1), task.gold.labels])
            predictions = icmjax.make_steerer(lm, task.claims, test.claims)(labels).argmax(-1)
            scores.append((predictions == test.gold.labels).mean(-1))
        accuracy[tier] = np.mean(scores, axis=0)
    assert accuracy["frequent"][1] >= 0.85
    assert accuracy["rare"][1] > accuracy["rare"][0]


@pytest.mark.slow
def test_icm_reaches_the_enumerated_optimum_of_a_small_set(lm):
    """Up to 10 claims: `benchmarks/search.py`, whose docstring has the command."""
    task = make_task(make_world(), "hestonia", 0, num_claims=6)
    scorer = icmjax.make_scorer(lm, task.claims, "sequential", batch_size=128)
    labellings = jnp.array(list(itertools.product([0, 1], repeat=6)), jnp.int8)
    rules = jax.tree.map(jnp.asarray, task.claims.rules)
    optimum = float(icmjax.utility(scorer(labellings), labellings, rules).max())
    hits = sum(
        icmjax.run_search(
            scorer,
            task.claims.rules,
            icmjax.ICM(num_chains=35),  # few claims have many labellings that are final
            jax.random.key(seed),
            progress=False,
        ).utility
        > optimum - 1e-3
        for seed in range(5)
    )
    assert hits >= 4


@pytest.mark.slow
def test_what_a_session_shows_is_a_line():
    """`lm` alone had 104,386 characters."""
    lm = icmjax.load_lm("persona-world")
    task = make_task(make_world(), "hestonia", 0, num_claims=6)
    values = [lm, lm.config, task, task.claims, task.gold]
    values.append(icmjax.make_steerer(lm, task.claims, task.claims))
    values += [icmjax.make_scorer(lm, task.claims, m) for m in get_args(Method)]
    values.append(icmjax.make_scorer(lm, task.claims, num_orders=2))
    values.append(icmjax.make_subset_scorer(lm, task.claims, 3))
    values.append(icmjax.evaluate(lm, task.claims, task.gold.labels, task.claims, task.gold))
    for value in values:
        assert len(repr(value)) < 200, type(value)
        assert type(value).__name__ in repr(value)
