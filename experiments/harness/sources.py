"""Where the claims of an experiment come from: groups of the persona world, or claim files."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click
import numpy as np

from harness.draws import unit_rng
from icmjax.claims import RULES, load_claims, load_gold
from icmjax.errors import ClaimsError, Fault, InputError
from icmjax.persona_world import Task, World, make_task, make_world

SPLITS = ("search", "test")


class Source(NamedTuple):
    """Search claims and held-out claims of groups or personas, by (name, seed)."""

    keys: list[tuple[str, int]]
    draw: Callable[[str, int], tuple[Task, Task]]
    tiers: dict[str, tuple[str, ...]]  # names by how often a model has read of them
    sizes: dict[str, int]  # num_claims and num_test asked for
    config: dict[str, Any]  # what the claims depend on
    world: World | None = None  # None for files
    num_together: int = 1  # units whose searches are one device program

    def members(self, units: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """The units of each tier that has any."""
        return members_of(self.tiers, units)

    def require_world(self, part: str) -> World:
        """The world.

        Raises:
          InputError: the claims come from files.
        """
        if self.world is None:
            rule = "This part knows the truth behind its claims, which only the world tells."
            remedy = "leave out --claims and --test, or choose another part"
            raise InputError(Fault(rule, f"{part} of a claim file", "--claims", remedy))
        return self.world


def source_options(function: Callable[..., None], first_seed: int = 0) -> Callable[..., None]:
    """A command's options that say where its claims come from, handed on as one `source`.

    Its seeds start at `first_seed`, unless --first-seed says another.
    """

    @functools.wraps(function)
    def command(
        *,
        claims_path: str | None,
        test_path: str | None,
        personas: str | None,
        groups: str | None,
        num_seeds: int,
        first_seed: int,
        num_claims: int,
        num_test: int,
        num_together: int,
        rule: str,
        quick: bool,
        **options: Any,
    ) -> None:
        source = load_source(
            claims_path, test_path, personas, groups, num_seeds, num_claims, num_test, quick, rule
        )
        keys = [(name, seed + first_seed) for name, seed in source.keys]
        source = source._replace(keys=keys)
        config = source.config | {"num_together": num_together}
        source = source._replace(config=config, num_together=num_together)
        function(source=source, quick=quick, **options)

    decorated: Callable[..., None] = command
    for option in (
        click.option(
            "--together",
            "num_together",
            default=1,
            show_default=True,
            type=click.IntRange(min=1),
            help="Units whose searches are one device program; more want more memory.",
        ),
        click.option("--num-test", default=64, show_default=True, help="Held-out claims a task."),
        click.option("--num-claims", default=32, show_default=True, help="Search claims a task."),
        click.option("--seeds", "num_seeds", default=3, show_default=True, help="Draws a group."),
        click.option("--first-seed", default=first_seed, show_default=True, help="The least seed."),
        click.option("--personas", help="Of the files, separated by commas; default together."),
        click.option(
            "--rule",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", *RULES]),
            help="Pair rule of the files, as of icmjax search.",
        ),
        click.option("--test", "test_path", help="Held-out claims of the same personas."),
        click.option("--claims", "claims_path", help="A claim file, in place of the world."),
    ):
        decorated = option(decorated)
    return decorated


def load_source(
    claims_path: str | None,
    test_path: str | None,
    personas: str | None,
    groups: str | None,
    num_seeds: int,
    num_claims: int,
    num_test: int,
    quick: bool,
    rule: str = "auto",
) -> Source:
    """The source that the options of a command name.

    A file with more than `num_claims` (or `num_test`) claims of a persona is sampled anew for every
    seed, by whole consistency groups. Where nothing is left to draw, seeds would be copies of one
    another, so that a persona has one.

    Raises:
      InputError: options that do not go together, or an unknown group.
      ClaimsError: a file is not usable, or lacks gold labels.
    """
    num_seeds, sizes = 1 if quick else num_seeds, (num_claims, num_test)
    asked = {"num_claims": num_claims, "num_test": num_test}
    if claims_path is None and test_path is None:
        world = make_world()
        names = groups_of(world, groups, quick)
        return Source(
            keys=[(name, seed) for name in names for seed in range(num_seeds)],
            draw=lambda name, seed: tuple(  # type: ignore[arg-type,return-value]  # of two tasks
                make_task(world, name, seed, split, num)  # type: ignore[arg-type]
                for split, num in zip(SPLITS, sizes, strict=True)
            ),
            tiers=world.tiers,
            sizes=asked,
            config=world_config(world) | asked,
            world=world,
        )
    if claims_path is None or test_path is None:
        found, remedy = f"{claims_path or test_path}", "give both"
        raise ClaimsError(Fault("--claims goes with --test.", found, "options", remedy))
    names = personas.split(",") if personas else [""]
    paths = (claims_path, test_path)
    wholes = {name: tuple(_load(path, name, rule) for path in paths) for name in names}

    def draw(name: str, seed: int) -> tuple[Task, Task]:
        search, test = (
            sample(whole, num, unit_rng(name, seed, split))
            for split, (whole, num) in enumerate(zip(wholes[name], sizes, strict=True))
        )
        return search, test

    def seeds_of(name: str) -> int:
        is_sampled = any(
            len(whole.claims) > num for whole, num in zip(wholes[name], sizes, strict=True)
        )
        return num_seeds if is_sampled else 1

    return Source(
        keys=[(name, seed) for name in names for seed in range(seeds_of(name))],
        draw=draw,
        tiers={"all personas": tuple(names)},
        sizes=asked,
        config=asked
        | {
            # What is in them counts, wherever another machine keeps them.
            "claims": short(claims_path),
            "test": short(test_path),
            "fingerprints": {name: [_fingerprint(task) for task in wholes[name]] for name in names},
        },
    )


def short(path: str) -> str:
    """A file's name and the folder that it lies in."""
    return "/".join(pathlib.Path(path).parts[-2:])


def groups_of(world: World, groups: str | None, is_quick: bool) -> list[str]:
    """The groups asked for: named, or one a tier for a quick look, or all of the world."""
    if groups:
        return [world.group_names[world.group_index(name)] for name in groups.split(",")]
    return [tier[0] for tier in world.tiers.values()] if is_quick else list(world.group_names)


def members_of(
    tiers: Mapping[str, Sequence[str]], units: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """The units of each tier of groups that has any."""
    by_tier = {
        tier: [unit for unit in units if unit["key"][0] in names] for tier, names in tiers.items()
    }
    return {tier: members for tier, members in by_tier.items() if members}


def world_config(world: World) -> dict[str, Any]:
    """All that a world's claims depend on."""
    return {"world": vars(world.config)}


def sample(task: Task, num_claims: int, rng: np.random.Generator) -> Task:
    """Whole consistency groups drawn at random, in the file's order; all where they are no more."""
    if len(task.claims) <= num_claims:
        return task
    kept: list[int] = []
    for group in rng.permutation(len(task.claims.groups)):
        members = task.claims.groups[group]
        if len(kept) + len(members) <= num_claims:
            kept += members
    kept.sort()
    return Task(task.claims.select(kept), task.gold.select(kept))


@functools.cache
def _load(path: str, persona: str, rule: str) -> Task:
    """All claims of a persona, or of all together where it is ""."""
    gold = load_gold(path, persona or None)
    if gold is None:
        asked, remedy = "An experiment scores against gold labels.", "add a column label"
        raise ClaimsError(Fault(asked, "none", path, remedy))
    return Task(load_claims(path, persona or None, rule), gold)


def _fingerprint(task: Task) -> str:
    gold = hashlib.sha256(np.asarray(task.gold.labels, np.int8).tobytes()).hexdigest()
    return f"{task.claims.fingerprint} {gold}"
