"""How many cores a process may use, of faked control groups and affinities."""

import os

import pytest

from icmjax import devices


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes files below a root of their own; the process may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    def make(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/cpu"
CASES = {
    "no control groups": ({}, 8),
    "no quota": ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, 8),
    "two cores": ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
    "a part counts as one": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"},
        2,
    ),
    "half a core": ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "50000 100000\n"}, 1),
    "more than there are": (
        {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "9900000 100000\n"},
        8,
    ),
    "a parent's quota": (
        {
            "proc/self/cgroup": "0::/user.slice/job\n",
            f"{V2}/user.slice/cpu.max": "300000 100000\n",
            f"{V2}/user.slice/job/cpu.max": "max 100000\n",
        },
        3,
    ),
    "a path of the host": (
        {"proc/self/cgroup": "0::/docker/0123\n", f"{V2}/cpu.max": "400000 100000\n"},
        4,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/job\n1:name=systemd:/\n",
            f"{V1}/job/cpu.cfs_quota_us": "500000\n",
            f"{V1}/job/cpu.cfs_period_us": "100000\n",
        },
        5,
    ),
    "version 1 without a quota": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n",
            f"{V1}/cpu.cfs_quota_us": "-1\n",
            f"{V1}/cpu.cfs_period_us": "100000\n",
        },
        8,
    ),
    "files that say nothing": ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "\n"}, 8),
}


@pytest.mark.parametrize("case", CASES)
def test_cores_are_those_that_the_process_is_given(machine, case):
    files, expected = CASES[case]
    assert devices.num_cores(machine(**files)) == expected


def test_without_an_affinity_all_cores_are_there(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert devices.num_cores(machine()) == 64


def test_the_pool_is_no_larger_than_the_quota_but_for_the_spare_thread(machine, monkeypatch):
    root = machine(**{"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"})
    monkeypatch.setattr(devices.num_cores, "__defaults__", (root,))
    assert devices.num_pool_threads(1) == 2
    assert devices.num_pool_threads(2) == 3


def test_programs_are_dropped_before_memory_maps_run_out(machine, monkeypatch):
    calls = []
    monkeypatch.setattr("jax.clear_caches", lambda: calls.append(1))
    for num_maps, is_dropped in ((50, False), (51, True)):
        files = {
            "proc/self/maps": "7f00-7f01 r--p\n" * num_maps,
            "proc/sys/vm/max_map_count": "100\n",
        }
        assert devices.spare_memory_maps(machine(**files)) == is_dropped
    assert calls == [1]
    assert not devices.spare_memory_maps(devices.Path("nowhere"))


def test_nothing_of_icmjax_counts_the_machine_s_cores_otherwise():
    package = devices.Path(devices.__file__).parent
    users = {path.name for path in package.rglob("*.py") if "cpu_count" in path.read_text()}
    assert users == {"devices.py"}
