"""The command line: tyro over the settings' dataclasses.

Machine-readable answers (`--json`) go to stdout, everything else then to stderr. The exit status is
0 when the work was done, 2 and one line for a user's mistake, 75 when it was asked to stop and has
saved (a scheduler may start it again), 141 when nobody reads its output any more (`| head`).
"""

import contextlib
import difflib
import io
import itertools
import json
import os
import signal
import sys
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from vidrec import config
from vidrec.cli.commands import COMMANDS, Common, with_folders
from vidrec.errors import UserError, refusal
from vidrec.io import escape, files

# A union made from a table of commands has no other spelling.
_KINDS = [Annotated[kind, tyro.conf.subcommand(name)] for name, (kind, _) in COMMANDS.items()]
_CHOICE = Union[tuple(_KINDS)]  # noqa: UP007
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
_REGISTRY = tyro.constructors.ConstructorRegistry()
OVERVIEW = (
    "Which recurrent video classifier is better, and by how much. "
    "Without a command: the table of scanners on the embedded data, to a report. "
    "Tab completion: source <(vidrec --tyro-print-completion bash)."
)


@_REGISTRY.primitive_rule
def _json_arguments(info: tyro.constructors.PrimitiveTypeInfo) -> Any:
    """How the help shows a dictionary; its value is read with the other settings."""
    if info.type is not config.Args:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, config.Args),
        str_from_instance=lambda value: [json.dumps(value)],
    )


def main(argv: list[str] | None = None) -> None:
    """Parses, works, and leaves with the status that the module's text names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names in letters that it lacks
    argv = list(sys.argv[1:] if argv is None else argv)
    status = 0
    try:
        status = _work(argv)
        for stream in _streams():
            stream.flush()
    except BrokenPipeError:
        status = _end_quietly()
    except OSError as error:
        status = status or _unwritten(error)
        _end_quietly()
    sys.exit(status)


def _work(argv: list[str]) -> Any:
    """The status of the command, whose mistakes are told in a line."""
    try:
        name, command, settings = parse(argv)
        command = with_folders(command)
        with _only_answers_on_stdout(command), _of_newer(command):
            return COMMANDS[name][1](command, settings)
    except SystemExit as left:  # of --help and the like
        return left.code
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        line = "interrupted; the same command goes on from the last save"
        print(line, file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        raise
    except Exception as error:
        reason = _reason(error)
        if not reason:
            raise
        return _fail(reason)


def _fail(reason: object) -> int:
    print(f"error: {escape.terminal(reason)}", file=sys.stderr)
    return 2


def _reason(error: Exception) -> str:
    """What is not vidrec's fault, in words for people; empty where it may be."""
    if line := refusal(error):
        return line
    if "jax" not in sys.modules:
        return ""
    from vidrec.training import devices

    return devices.why_not(error)


def _streams() -> list[Any]:
    return [each for each in (sys.stdout, sys.__stdout__, sys.stderr) if each and not each.closed]


def _end_quietly() -> int:
    """Nobody reads what is written (`| head`): what is left of it is thrown away.

    The status is that of a program which the system ended for this reason.
    """
    for stream in _streams():
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 128 + signal.SIGPIPE


def _unwritten(error: OSError) -> int:
    """The output itself cannot be written: its disk is full."""
    with contextlib.suppress(OSError):
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr, flush=True)
    return 2


def parse(argv: list[str]) -> tuple[str, Any, dict[str, Any]]:
    """The command's name and arguments, and the settings that were given, by dotted name."""
    if not argv or (argv[0].startswith("--") and argv[0] not in ("--help", *COMPLETION)):
        argv = ["ablate", *argv]  # the default job
    name = argv[0]
    if name not in COMMANDS and not name.startswith("-"):
        near = difflib.get_close_matches(name, COMMANDS, 1)
        guess = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'{guess}")
    rest, settings = _settings(argv)
    if (
        settings
        and name in COMMANDS
        and not any(entry.name == "settings" for entry in fields(COMMANDS[name][0]))
    ):
        raise UserError(f"'launch.py {name}' takes no settings such as {next(iter(settings))}")
    command, unknown = _taken(name, rest)
    if unknown:
        options = [f"--{entry.name.replace('_', '-')}" for entry in fields(command)]
        near = difflib.get_close_matches(unknown[0], options, 1)
        guess = f"; did you mean '{near[0]}'?" if near else f"; see 'launch.py {name} --help'"
        raise UserError(f"unknown option '{unknown[0]}'{guess}")
    for option, hint in typing.get_type_hints(type(command), include_extras=True).items():
        if any(isinstance(each, config.Range) for each in typing.get_args(hint)):
            config.check(f"--{option}", getattr(command, option), hint)
    return name, command, settings


def _taken(name: str, words: list[str]) -> tuple[Any, list[str]]:
    """The command of these words, and the options that it does not know.

    What tyro says in a box of a mistake is told in a line.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _REGISTRY:
            return tyro.cli(
                _CHOICE,
                args=words,
                prog="vidrec" if Path(sys.argv[0]).name == "vidrec" else "launch.py",
                description=OVERVIEW,
                return_unknown_args=True,
            )
    except SystemExit as left:
        inside = [line.strip("│ ") for line in said.getvalue().splitlines()]
        told = itertools.takewhile(
            lambda line: not line.startswith(("───", "Got errors")), inside[1:]
        )
        if not left.code or not inside:
            raise
        reason = " ".join(filter(None, told))
        raise UserError(f"{reason.rstrip('.')}; see 'launch.py {name} --help'") from None


def _settings(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Takes `--section.field VALUE …` (and `--seed`) out of the words of a command line.

    They are read here, not by tyro, whose help lists them: so a typo or a wrong value gets the one
    line that `override` has for it.
    """
    rest, settings, words = [], {}, list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or not ("." in name or name == "seed"):
            rest.append(word)
            continue
        values = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            values.append(words.pop(0))
            if not config.takes_many(name):
                break
        if not values:
            raise UserError(f"{name} needs a value")
        settings[name] = config.parse(name, *values)
    return rest, settings


@contextlib.contextmanager
def _only_answers_on_stdout(command: Common) -> Iterator[None]:
    """With --json, whatever a library prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr if command.json else sys.stdout):
        yield


@contextlib.contextmanager
def _of_newer(command: Common) -> Iterator[None]:
    """Says of runs that a newer vidrec has written that this one may not understand them."""
    named = [getattr(command, name, None) for name in ("folder", "first", "second")]
    folders = [Path(each) for each in (*named, *getattr(command, "folders", ())) if each]
    with files.reading_runs(folders, lambda line: print(escape.terminal(line), file=sys.stderr)):
        yield
