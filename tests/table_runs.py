"""Runs whose scores come from a table in place of a language model."""

import jax
from scorers import table_scorer

import icmjax
from icmjax.cli.inputs import _recorded_names


def search_in(folder, claims, algorithm, clamped=None, template=None):
    """A complete run in a folder; with a template it records the options of `icmjax search`."""
    scorer = table_scorer(0, len(claims), len(claims.options), coupling=2.0)
    rng_key = jax.random.key(0)
    configuration = icmjax.search_configuration(
        scorer, claims, algorithm, rng_key, model="a table", clamped=clamped
    )
    options = None
    if template is not None:
        options = dict.fromkeys(_recorded_names()) | {"template": template}
    with icmjax.open_run(folder, claims, configuration, options=options) as run:
        result = icmjax.run_search(
            scorer, claims.rules, algorithm, rng_key, clamped=clamped, run=run, progress=False
        )
        run.write_results(result)
    return result


def write_task(path, name, number):
    """The first claims of a task of the persona world with their gold labels, as a file."""
    claims, gold = icmjax.load_task(name)
    icmjax.write_claims(claims.select(range(number)), path, gold.select(range(number)))
    return path
