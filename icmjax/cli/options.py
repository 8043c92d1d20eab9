"""The options that several commands of `icmjax` take."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click

import icmjax
from icmjax.cli.inputs import read_claims, split_names
from icmjax.cli.spelling import OPTION_OF
from icmjax.errors import Fault, InputError

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from icmjax.claims import ClaimSet, GoldLabels
    from icmjax.cli.machine import Machine
    from icmjax.lm import Implementation, LanguageModel, Quantization
    from icmjax.scoring import AnyScorer, Leave, Method, Objective
    from icmjax.search import Algorithm

T = TypeVar("T", bound=tuple)

# Spelt out, so that help and mistakes import nothing; the tests hold them to the code's own.
IMPLEMENTATIONS = ("einsum", "flash", "xla", "cudnn")
QUANTIZATIONS = ("int8", "int4")
METHODS = ("tree", "sequential", "blockwise", "chain_rule")
SELECTORS = (
    "zero_shot_entropy",
    "unbiased_entropy",
    "leave_one_out_entropy",
    "marginal_entropy",
    "margin",
    "expected_gain",
    "random",
)
CLAIMS_HELP = (
    "A JSON, JSONL, CSV, TSV or Parquet file, a text file of one statement a line, a folder, "
    "hf:OWNER/NAME (:CONFIG and @SPLIT may follow), or persona-world:GROUP:SEED (:preferences and "
    ":test may follow)."
)
PAIR_RULES = (
    "auto",
    "none",
    "exactly_one_true",
    "not_both_true",
    "one_answer",
    "asymmetric_preference",
    "same_answer_same_label",
)
DTYPES = ("float32", "bfloat16", "float16")
WARM_STARTS = ("zero_shot", "bootstrap", "random")
LEAVES = ("claim", "group")
OBJECTIVES = ("log_prob", "log_odds")
BIASES = ("clusters", "none")


class Range(NamedTuple):
    """Which numbers an option takes, from one end to the other."""

    rule: str  # as of a Fault
    least: float
    most: float


WORTH_SAYING = 2**28  # bytes of weights
_MOST = 2**31 - 1  # of what is counted in 32 bits
_SEED = "A seed is a whole number from 0 to 2^32 − 1: random keys hold 32 bits of it."
_SHARED = "Devices that share a pass are 1 to 1024."
_COST = "each of them reads all claims at every step"
# By the names that commands know their options by. What the library checks itself is not here.
RANGES = {
    "seed": Range(_SEED, 0, 2**32 - 1),
    "budget": Range("A budget is one question or more.", 1, _MOST),
    "draws": Range("Draws are 1 to 1000: each of them reads all demonstrations.", 1, 1000),
    "limit": Range("A limit leaves one claim or more.", 1, _MOST),
    "num_orders": Range("Orders are 1 to 64: each costs as much as a pass.", 1, 64),
    "max_length": Range("A prompt has one token or more.", 1, _MOST),
    "context_size": Range("A context has one claim or more.", 1, _MOST),
    "batch_size": Range("A batch has one text or more.", 1, _MOST),
    "num_devices": Range(_SHARED, 1, 1024),
    "memory_gib": Range("A memory budget is a number of GiB above 0.", 2**-30, 2**30),
    # From 10^6 on float32 rounds the violated pairs away beside alpha times the predictability.
    "alpha": Range("Alpha is a number from 0.000001 to 1000000.", 1e-6, 1e6),
    "num_iterations": Range("Steps are counted in 32 bits.", 0, _MOST),
    "num_chains": Range(f"Chains are 1 to 1024: {_COST}.", 1, 1024),
    "num_replicas": Range(f"Replicas are 1 to 1024: {_COST}.", 1, 1024),
}


def check_numbers(context: click.Context) -> None:
    """Refuses numbers that no command can use, before anything is read.

    Raises:
      InputError: options are out of `RANGES`, NaN or infinite; all faults found.
    """
    faults = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        allowed = RANGES.get(option.name or "")
        # NaN is in no range.
        if allowed is not None and not allowed.least <= value <= allowed.most:
            remedy = f"give {allowed.least:.10g} to {allowed.most:.10g}"
            faults.append(Fault(allowed.rule, str(value), option.opts[0], remedy))
        elif not abs(value) < math.inf:
            rule, remedy = "An option is a finite number.", "give a number"
            faults.append(Fault(rule, str(value), option.opts[0], remedy))
    if faults:
        raise InputError(faults)


class Reading:
    """Says how many bytes of weights will be read, and on a terminal how far it is."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.shown = -1  # percent

    def __call__(self, num_read: int, num_bytes: int) -> None:
        """Show bytes that lie on the devices, of so many."""
        if num_bytes < WORTH_SAYING:
            return
        if self.shown < 0:
            size = f"{num_bytes / 2**30:.1f} GiB of weights in {self.dtype}"
            click.echo(f"reading {size}", err=True)
        percent = 100 * num_read // num_bytes
        if percent > self.shown and sys.stderr.isatty():
            click.echo(f"\r{percent} %" + ("\n" if percent == 100 else ""), err=True, nl=False)
        self.shown = percent


class ModelOptions(NamedTuple):
    """Which model, and how it is read."""

    model: str
    dtype: str
    attention: Implementation
    template: str | None
    max_length: int | None = None
    revision: str | None = None
    quantize: Quantization | None = None

    def load(self, mesh: Mesh | Literal["auto"] | None = None) -> LanguageModel:
        """The model; raises as `load_lm` does. Fields that change no score go to the log."""
        lm = icmjax.load_lm(
            self.model,
            self.dtype,
            self.attention,
            max_length=self.max_length,
            revision=self.revision,
            on_read=Reading(self.quantize or self.dtype),
            mesh=mesh,
            quantize=self.quantize,
        )
        if mesh == "auto" and lm.mesh is not None:
            shape = ",".join(f"{axis}={size}" for axis, size in lm.mesh.shape.items())
            click.echo(f"on {lm.mesh.size} devices: --mesh {shape}", err=True)
        if lm.ignored_fields:
            names = ", ".join(lm.ignored_fields)
            note = "fields of config.json that nothing is computed from: %s"
            logging.getLogger("icmjax").info(note, names)
        return lm


class ClaimsOptions(NamedTuple):
    """Which claims, and how they are tied."""

    source: str
    persona: str | None
    limit: int | None
    rule: str
    is_hard: bool
    columns: str | None = None
    label_options: str | None = None

    def read(self) -> tuple[ClaimSet, GoldLabels | None]:
        """The claims and, apart, their gold labels; raises as `read_claims` does."""
        return read_claims(**self._asdict())

    def personas(self) -> tuple[str, ...]:
        """Whose claims the file has; raises as `load_claims` does."""
        named = None if self.columns is None else icmjax.claims.parse_columns(self.columns)
        options = split_names(self.label_options, "--options")
        source = self.source
        return icmjax.load_claims(
            source, rule="none", options=options, columns=named, preamble=""
        ).personas

    def read_alone(self) -> ClaimSet:
        """The claims; no label is looked at."""
        return read_claims(**self._asdict(), with_gold=False)[0]


class ScorerOptions(NamedTuple):
    """How scores are computed."""

    method: Method
    leave: Leave
    context_size: int | None
    num_orders: int

    def make(
        self, lm: LanguageModel, claims: ClaimSet, template: str | None, machine: Machine
    ) -> AnyScorer:
        """A scorer of the claims; raises as `make_scorer` does."""
        return icmjax.make_scorer(
            lm,
            claims,
            **self._asdict(),
            template=template,
            batch_size=machine.batch_size,
            memory_budget=machine.memory_budget,
            devices=machine.devices,
        )


class UtilityOptions(NamedTuple):
    """What is maximised."""

    alpha: float
    objective: Objective


def recorded(kind: type[T], options: Mapping[str, Any]) -> T:
    """The options of one kind that a run recorded; what it did not know has its default."""
    known = options.keys() | (set(kind._fields) - kind._field_defaults.keys())  # type: ignore[attr-defined]
    return kind(**{name: options[name] for name in kind._fields if name in known})  # type: ignore[attr-defined]


def grouped(name: str, kind: type[T], *options: Callable) -> Callable:
    """Click options, in the order in which help shows them, that a command is handed as one value.

    Args:
      name: of the command's argument.
      kind: a NamedTuple with a field for each option.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            value = kind(**{field: kwargs.pop(field) for field in kind._fields})  # type: ignore[attr-defined]
            command(*args, **kwargs | {name: value})

        return functools.reduce(lambda f, option: option(f), reversed(options), wrapped)

    return add


def together(*options: Callable) -> Callable:
    """Click options as one decorator."""
    return lambda command: functools.reduce(lambda f, option: option(f), reversed(options), command)


MODEL_HELP = "persona-world, a folder, or a hub id."
_OF_MODELS = (
    click.option(
        "--dtype",
        default="float32",
        show_default=True,
        type=click.Choice(DTYPES),
        help="Of the weights.",
    ),
    click.option(
        "--attention",
        default="einsum",
        show_default=True,
        type=click.Choice(IMPLEMENTATIONS),
        help="flash: our own kernel, on TPUs and GPUs; cudnn: NVIDIA's, in 16 bits.",
    ),
    click.option("--template", help="By default the model's own, then the data's."),
    click.option(
        "--max-length", type=int, help="Most tokens of a prompt; by default what the model is for."
    ),
    click.option("--revision", help="Of a hub id: a branch, a tag or a commit."),
    click.option(
        "--quantize",
        type=click.Choice(QUANTIZATIONS),
        help="Keep weights in few bits: less memory, no less time, other scores.",
    ),
)
model_options = grouped(
    "model", ModelOptions, click.option("--model", required=True, help=MODEL_HELP), *_OF_MODELS
)
optional_model_options = grouped(
    "model", ModelOptions, click.option("--model", help=MODEL_HELP), *_OF_MODELS
)
_OF_CLAIMS = (
    click.option("--persona", help="Take this persona's claims alone."),
    click.option("--limit", type=int, help="Take the first so many claims."),
    click.option(
        "--rule",
        default="auto",
        show_default=True,
        type=click.Choice(PAIR_RULES),
        help="Pair rule within a consistency group; auto: what the file's columns or texts say.",
    ),
    click.option("--hard", "is_hard", is_flag=True, help="Keep the rule instead of paying for it."),
    click.option("--columns", help="Names of yours for ours, as question=Q,choice=A."),
    click.option(
        "--options",
        "label_options",
        help="Labels to choose from, false to true, as A,B,C,D; by default the file's, or "
        "False,True.",
    ),
)
personas_option = click.option(
    "--personas", help="all, or names as A,B: each persona's claims by themselves."
)
claims_options = grouped(
    "source",
    ClaimsOptions,
    click.option("--claims", "source", required=True, help=CLAIMS_HELP),
    *_OF_CLAIMS,
)
optional_claims_options = grouped(
    "source",
    ClaimsOptions,
    click.option("--claims", "source", help=f"Claims to ask about. {CLAIMS_HELP}"),
    *_OF_CLAIMS,
)
scorer_options = grouped(
    "scoring",
    ScorerOptions,
    click.option(
        "--method",
        default="tree",
        show_default=True,
        type=click.Choice(METHODS),
        help="How scores are computed: tree and sequential are exact, in different orders; "
        "blockwise is an approximation; chain_rule scores the joint likelihood.",
    ),
    click.option(
        "--leave",
        default="claim",
        show_default=True,
        type=click.Choice(LEAVES),
        help="What a query does not read: itself, or its whole consistency group.",
    ),
    click.option("--context-size", type=int, help="sequential: the most claims a query reads."),
    click.option(
        "--orders",
        "num_orders",
        default=1,
        show_default=True,
        help="Averaged over, at random; each costs a pass.",
    ),
)
utility_options = grouped(
    "utility",
    UtilityOptions,
    click.option("--alpha", default=50.0, show_default=True, help="Weight of predictability in U."),
    click.option(
        "--objective",
        default="log_prob",
        show_default=True,
        type=click.Choice(OBJECTIVES),
        help="What mutual predictability averages.",
    ),
)


ALGORITHMS = {
    "marginals": "Marginals",
    "icm": "ICM",
    "tempering": "ParallelTempering",
    "gibbs": "Gibbs",
    "bootstrap": "Bootstrap",
    "greedy": "Greedy",
}
# What an option is where it is not given, by algorithm; the tests hold it to the library's own.
OWN_DEFAULTS: dict[str, dict[str, str]] = {
    "num_iterations": {
        "marginals": "18",
        "icm": "N (ln N + 3)",
        "tempering": "64",
        "gibbs": "64",
        "bootstrap": "8",
        "greedy": "256",
    },
    "num_chains": dict.fromkeys(ALGORITHMS, "1"),
    "num_seeds": {"icm": "8", "tempering": "8"},
    "initial_temperature": {"icm": "10.0"},
    "final_temperature": {"icm": "0.01", "tempering": "the coldest rung's"},
    "cooling_rate": {"icm": "0.99; 2 with the deviations"},
    "reference_deviations": {"icm": "False"},
    "num_replicas": {"tempering": "8"},
    "temperature": {"tempering": "0.2", "gibbs": "1.0"},
    "hot_temperature": {"tempering": "10.0"},
    "burn_in": {"tempering": "0.3", "gibbs": "0.25"},
    "warm_start": {"tempering": "bootstrap"},
    "num_shots": {"marginals": "4", "bootstrap": "all other claims"},
    "bias": {"marginals": "clusters", "bootstrap": "none"},
    "balance": {"marginals": "not known"},
}


def _own_option(option: str, field: str, text: str, kind: Any) -> Callable:
    """An option of algorithms; its help says which take it, and what they do without it."""
    by_value: dict[str, list[str]] = {}
    for algorithm, value in OWN_DEFAULTS[field].items():
        by_value.setdefault(value, []).append(algorithm)
    if len(OWN_DEFAULTS[field]) == len(ALGORITHMS) and len(by_value) == 1:
        defaults = next(iter(by_value))
    else:
        each = [f"{', '.join(names)}: {value}" for value, names in by_value.items()]
        defaults = "; ".join(each)
    return click.option(option, field, type=kind, help=f"{text} [default: {defaults}]")


algorithm_options = together(
    click.option(
        "--algorithm",
        default="marginals",
        show_default=True,
        type=click.Choice(list(ALGORITHMS)),
        help="marginals: what the model says of each claim over contexts of its own labels; "
        "icm, tempering and greedy look for the highest U. An option below that has no meaning for "
        "it is refused.",
    ),
    _own_option("--iterations", "num_iterations", "Steps of the search.", int),
    _own_option("--chains", "num_chains", "Independent searches.", int),
    _own_option("--seeds", "num_seeds", "Claims labelled at random at first.", int),
    _own_option("--initial-temperature", "initial_temperature", "Of the first step.", float),
    _own_option("--final-temperature", "final_temperature", "Annealed to it.", float),
    _own_option("--cooling-rate", "cooling_rate", "How fast it is annealed.", float),
    _own_option(
        "--reference-deviations",
        "reference_deviations",
        "As the authors' code, where it differs.",
        bool,
    ),
    _own_option("--replicas", "num_replicas", "Of each chain.", int),
    _own_option("--temperature", "temperature", "Of the coldest rung, or of all.", float),
    _own_option("--hot-temperature", "hot_temperature", "Of the hottest rung.", float),
    _own_option("--burn-in", "burn_in", "Share of the steps.", float),
    _own_option("--warm-start", "warm_start", "First labels.", click.Choice(WARM_STARTS)),
    _own_option("--shots", "num_shots", "Free claims that a pass shows.", int),
    _own_option(
        "--bias", "bias", "How a favoured label is found, to be taken off.", click.Choice(BIASES)
    ),
    _own_option("--balance", "balance", "Share of true claims, where known.", float),
)


def make_algorithm(name: str, utility: UtilityOptions, options: Mapping[str, Any]) -> Algorithm:
    """The algorithm of a name with the options that are given, its own defaults elsewhere.

    Args:
      options: by field, None where not given.

    Raises:
      InputError: the algorithm has no such field, or the value is out of its range.
    """
    given = {field: value for field, value in options.items() if value is not None}
    default = getattr(icmjax, ALGORITHMS[name])()
    faults = [
        Fault(
            f"An option means something for the algorithm {name}.",
            f"{OPTION_OF[field]} {given[field]}",
            f"--algorithm {name}",
            "leave it out, or choose another algorithm",
        )
        for field in sorted(given.keys() - icmjax.search.field_names(default))
    ]
    if faults:
        raise InputError(faults)
    return icmjax.search.with_fields(default, **utility._asdict(), **given)
