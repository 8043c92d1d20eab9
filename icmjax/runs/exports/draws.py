"""The samples of a search as an InferenceData file, which ArviZ reads."""

import os
import pathlib
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from icmjax.errors import Fault, InputError, RunError
from icmjax.runs.reading import RunRecord
from icmjax.search import Gibbs, ParallelTempering, with_fields

WHERE = 'form="arviz"'
SAMPLERS = {"ParallelTempering": ParallelTempering, "Gibbs": Gibbs}


def draws(run: RunRecord) -> bytes:
    """NetCDF with groups `posterior`, `sample_stats` and `constant_data`, after the burn-in.

    `posterior.label` is int8 `[C, S, N]`, the coldest rung's labels where there are rungs. Their
    means are the run's marginals. `sample_stats.utility` is U. Of tempering `lp` is U times the
    inverse temperature, the log density up to a constant. Where chains ended at different steps
    each has as many draws as the shortest one.

    Raises:
      RunError: the algorithm drew no samples of one law.
      InputError: ArviZ is not installed.
    """
    arviz = _arviz()
    trace, steps = run.trace, _sampled_steps(run)
    if "cold_labels" in trace:
        labels, utility = trace["cold_labels"][steps], trace["utility"][steps, :, 0]
        statistics = {"lp": utility * trace["inverse_temperature"][steps, :, 0]}
        is_accepted = trace["is_accepted"][steps, :, 0]
    else:
        labels, utility, statistics = trace["labels"][steps], trace["utility"][steps], {}
        is_accepted = trace["is_accepted"][steps]
    statistics |= {"utility": utility, "is_accepted": is_accepted}
    data = arviz.from_dict(
        posterior={"label": np.moveaxis(labels, 0, 1)},
        sample_stats={name: values.T for name, values in statistics.items()},
        constant_data={"found_label": run.labels, "marginal": run.marginals},
        coords={
            "claim": [claim.id for claim in run.claims.claims],
            "option": list(run.claims.options),
        },
        dims={"label": ["claim"], "found_label": ["claim"], "marginal": ["claim", "option"]},
    )
    for group in data.groups():
        # When the search began: the same run gives the same bytes.
        data[group].attrs |= {
            "created_at": run.manifest["sessions"][0]["started"],
            "inference_library": "icmjax",
            "inference_library_version": run.summary["versions"]["icmjax"],
            "algorithm": run.manifest["configuration"]["algorithm"]["name"],
        }
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "draws.nc"
        data.to_netcdf(os.fspath(path))
        return path.read_bytes()


def _arviz() -> Any:
    with warnings.catch_warnings():
        # Each import of 0.23 says that 1.0 will differ; setup.cfg asks for one below it.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import arviz
        except ImportError as error:
            rule, remedy = "Draws are written by ArviZ.", 'pip install "icmjax[arviz]"'
            raise InputError(Fault(rule, str(error), WHERE, remedy)) from error
    return arviz


def _sampled_steps(run: RunRecord) -> slice:
    """The steps whose labels are samples, of every chain.

    Raises:
      RunError: there are none.
    """
    recorded = run.manifest["configuration"]["algorithm"]
    name = recorded["name"]
    rule = "Draws are samples of labels from one law."
    remedy = "export a run of parallel tempering or Gibbs sampling"
    if name not in SAMPLERS:
        found = f"a run of {name}, which draws none"
        raise RunError(Fault(rule, found, WHERE, remedy))
    algorithm = with_fields(SAMPLERS[name](), **_scalars(recorded))
    if isinstance(algorithm, Gibbs):
        return slice(algorithm.num_burn_in, algorithm.num_iterations - 1)
    if algorithm.ladder.final_temperature is not None:
        found = "a ladder that was annealed: every step has another law"
        raise RunError(Fault(rule, found, "final_temperature", "search without it"))
    # A chain that has ended reads nothing any more.
    num_passes = run.trace["num_passes"].sum(axis=2)
    shortest = int((len(num_passes) - np.argmax(num_passes[::-1] > 0, axis=0)).min())
    first = algorithm.phases.burn_in
    if shortest <= first:
        found = f"{shortest} steps, of which {first} are burn-in"
        raise RunError(Fault(rule, found, WHERE, "search with more steps (`num_iterations`)"))
    return slice(first, shortest)


def _scalars(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recorded algorithm and of its parts that are single values."""
    fields: dict[str, Any] = {}
    for name, value in recorded.items():
        if isinstance(value, Mapping):
            fields |= _scalars(value)
        elif name != "name" and not isinstance(value, list):
            fields[name] = value
    return fields
