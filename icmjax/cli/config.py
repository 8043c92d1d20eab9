"""`--config FILE`: options from a YAML file, and the file that a run keeps of its own."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from icmjax.cli.faults import refuse
from icmjax.errors import Fault, InputError

FILE = "config.yaml"
# Of one command line, never of a file.
UNSAVED = ("config", "out", "resume", "resume_if_begun", "quiet", "is_json", "log", "distributed")


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--config`, whose values stand where the command line says nothing."""
    return click.option(
        "--config",
        type=click.Path(),
        is_eager=True,
        expose_value=False,
        callback=_read,
        help="YAML file of options by their names, such as alpha: 50. The command line comes "
        "first, then this file, then the defaults.",
    )(command)


def _read(context: click.Context, option: click.Parameter, path: str | None) -> None:
    """Make what a file says the defaults of a command."""
    del option
    if path is None or context.resilient_parsing:
        return
    try:
        context.default_map = read_config(pathlib.Path(path), context.command)
    except InputError as error:
        refuse(error)


def read_config(path: pathlib.Path, command: click.Command) -> dict[str, Any]:
    """Values by the names that a command knows its options by.

    Raises:
      InputError: the file cannot be read, is no mapping, names what is no option, or gives one a
        value that is no text, number or truth value; all faults found.
    """
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _once_loader())
    except OSError as error:
        rule, remedy = "A configuration is a file that can be read.", "name one that is there"
        found = error.strerror or str(error)
        raise InputError(Fault(rule, found, str(path), remedy)) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        rule, remedy = "A configuration is a YAML file.", "give one, of lines such as alpha: 50"
        found = " ".join(str(error).split())
        raise InputError(Fault(rule, found, str(path), remedy)) from error
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        rule, remedy = "A configuration has a value for each name.", "write lines such as alpha: 50"
        raise InputError(Fault(rule, type(content).__name__, str(path), remedy))
    by_name = {name: option for option in _options(command) for name in _names(option)}
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    seen: set[str] = set()
    for key, value in content.items():
        name = str(key).replace("_", "-")
        if name in seen:
            rule, remedy = "A configuration says each option once.", "leave out the others"
            faults.append(Fault(rule, f"{name} twice", str(path), remedy))
            continue
        seen.add(name)
        if name not in by_name:
            rule = f"A configuration of {command.name} names its options."
            near = difflib.get_close_matches(name, by_name, n=1)
            remedy = f"did you mean {near[0]}? " if near else ""
            remedy += f"choose of {', '.join(sorted(by_name))}"
            faults.append(Fault(rule, repr(key), str(path), remedy))
        elif not isinstance(value, str | int | float | bool):
            rule, remedy = "An option has one value.", f"write {name}: and a text or a number"
            faults.append(Fault(rule, f"{name}: {value!r}", str(path), remedy))
        elif isinstance(value, bool) and not _takes_truth(by_name[name]):
            rule = f"The option {name} is a text or a number."
            remedy = "put a text in quotation marks"
            faults.append(Fault(rule, f"{name}: {value}", str(path), remedy))
        elif isinstance(value, float) and by_name[name].type is click.INT:
            rule, remedy = f"The option {name} is a whole number.", "write one"
            faults.append(Fault(rule, f"{name}: {value}", str(path), remedy))
        else:
            values[str(by_name[name].name)] = value
    if faults:
        raise InputError(faults)
    return values


def _once_loader() -> Any:
    """A loader of YAML that refuses a key that stands twice, of which others take the last."""
    import yaml

    class Once(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{twice[0]!r} stands twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    return Once


def config_text(command: click.Command, options: Mapping[str, Any]) -> str:
    """The YAML file that gives a command the same options; those that are not set are left out.

    Args:
      options: by the names that the command knows them by.
    """
    import yaml

    kept = {
        _names(option)[0]: options[str(option.name)]
        for option in _options(command)
        if options.get(str(option.name)) is not None
    }
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _options(command: click.Command) -> Iterable[click.Option]:
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in UNSAVED:
            yield option


def _names(option: click.Option) -> list[str]:
    return [name.removeprefix("--") for name in option.opts if name.startswith("--")]


def _takes_truth(option: click.Option) -> bool:
    return option.is_flag or option.type is click.BOOL
