"""What --help shows: commands, the settings of an experiment, and how their values are written."""

import contextlib
import json
import typing
from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any, Literal, Union

import tyro

from vidrec import config
from vidrec.cli.command import Command, Settings
from vidrec.cli.commands import COMMANDS
from vidrec.cli.output import program
from vidrec.config.schema import Pattern
from vidrec.errors import UserError
from vidrec.sweeps.ablation import load

REGISTRY = tyro.constructors.ConstructorRegistry()
OVERVIEW = (
    "Which recurrent video classifier is better, and by how much. "
    "Without a command: a table of scanners on generated data is trained, and a report written. "
    "vidrec --version prints the version. "
    "Tab completion: source <(vidrec --tyro-print-completion bash)."
)


@REGISTRY.primitive_rule
def _json_arguments(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Show a dictionary in the help as JSON; its value is read with the other settings."""
    if info.type is not config.Args:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, config.Args),
        str_from_instance=lambda value: [json.dumps(value)],
    )


@REGISTRY.primitive_rule
def _words_or_patterns(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """Show one of some words, or a text of some pattern, as {gru,lstm}|path.py:Name."""
    choices: list[str] = []
    patterns: list[str] = []
    for option in typing.get_args(info.type):
        if typing.get_origin(option) is Literal:
            choices += typing.get_args(option)
        elif typing.get_origin(option) is Annotated:
            patterns += [str(b) for b in typing.get_args(option) if isinstance(b, Pattern)]
    if not patterns:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([f"{{{','.join(choices)}}}", *patterns]),
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


def default(shown: Any) -> Command:
    """Return the command that runs if none is named, among those that the help shows."""
    kinds = (typing.get_args(each)[0] for each in typing.get_args(shown))
    return next(kind() for kind in kinds if issubclass(kind, COMMANDS["ablate"]))


def commands(name: str, words: list[str]) -> Any:
    """Return the commands for --help, with examples for the way in which this program was started.

    If the words name an experiment, the help shows that experiment's values of the settings.
    """
    kinds = dict(COMMANDS)
    if name in kinds and "experiment" in [each.name for each in fields(kinds[name])]:
        for word in words[1:]:
            with contextlib.suppress(UserError):
                values = load(word)
                if isinstance(values, config.Config):
                    kinds[name] = _shown(kinds[name], values)
                    break
    if program() != "vidrec":
        kinds = {each: _shown(kind) for each, kind in kinds.items()}
    shown = [Annotated[kind, tyro.conf.subcommand(each)] for each, kind in kinds.items()]
    return Union[tuple(shown)]  # noqa: UP007


def _shown(kind: type[Command], values: config.Config | None = None) -> type[Command]:
    """Return a command with these default settings, and with examples that start this program."""
    said = kind.__doc__ or ""
    if program() != "vidrec":
        said = said.replace("Example: vidrec ", f"Example: python {program()} ")
    settings: Any = ("settings", Settings, field(default_factory=lambda: values))
    made = make_dataclass(
        kind.__name__,
        [settings] if values else [],
        bases=(kind,),
        namespace={"__doc__": said},
        frozen=True,
        kw_only=True,
    )
    # By these tyro finds the source, in which comments describe the fields. Python 3.13 has a line
    # number, too, and forgets it when the module is set.
    for name in ("__module__", "__qualname__", "__firstlineno__"):
        if hasattr(kind, name):
            setattr(made, name, getattr(kind, name))
    return made
