"""What a search compiles: its steps, and few small programs of what the host does about them."""

import jax
import jax.monitoring
import numpy as np
import pytest
from scorers import table_scorer

from icmjax.arrays import on_device
from icmjax.claims.consistency import make_rules, penalty_table
from icmjax.search import Bootstrap, FixedAccuracy, Marginals, run_search

NUM_CLAIMS = 7
RULES = make_rules([(0, 1), (2, 5)], penalty_table("exactly_one_true"))


@pytest.fixture
def compiled():
    """The names of the programs that are compiled, of which none is there before."""
    jax.clear_caches()
    names = []

    def note(event, seconds, fun_name=None, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        Marginals(),
        Bootstrap(num_iterations=3),
        FixedAccuracy(target=(1, 0, 1, 0, 1, 0, 1), num_errors=2, num_iterations=3),
    ],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_what_the_host_does_about_a_search_is_compiled_in_few_programs(algorithm, compiled):
    """Operation by operation it was 108 to 131 of them, about 2 s of a core; it is 16 to 25."""
    scorer = table_scorer(0, NUM_CLAIMS)
    run_search(scorer, RULES, algorithm, jax.random.key(0), progress=False)
    assert sum("take_block" in name for name in compiled) == 1
    assert len(compiled) <= 40


def test_what_is_on_the_device_is_its_own(compiled):
    """At 64 bytes, where a CPU would share the memory of numpy with what is put there."""
    memory = np.zeros(128, np.int8)
    start = -memory.ctypes.data % 64
    given = memory[start : start + 64].view(np.int32)
    shared = jax.device_put(given)
    there = on_device({"given": given, "kept": shared})
    given[:] = 7
    np.testing.assert_array_equal(there["given"], np.zeros(16, np.int32))
    assert there["kept"] is shared
    assert not compiled
