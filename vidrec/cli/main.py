"""Run the command line: read a command and its settings, and report mistakes in one line.

Machine-readable answers (`--json`) go to stdout, everything else then to stderr. The exit status is
0 if the work was done, 1 if a part of it failed, and 2 with one line for a user's mistake. It is 75
if the command was asked to stop and has saved (a scheduler may start it again), and 130 if it was
asked twice and ended at once. It is 141 if nobody reads the output any more (`| head`).

tyro reads a command's own options, prints the help and completes words in a shell. Settings
(`--section.field VALUE`) are not passed to tyro: `config.parse` reads them, so that a wrong name or
value gives the same error line here as in Python.
"""

import contextlib
import difflib
import io
import itertools
import os
import signal
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, Union

import tyro

from vidrec import __version__, config
from vidrec.cli import help as help_text
from vidrec.cli.command import Command
from vidrec.cli.commands import COMMANDS
from vidrec.cli.output import program, warn
from vidrec.errors import UserError, refusal
from vidrec.io import files

# A union of types from a dictionary can only be written in this way.
_SUBCOMMANDS = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items()]
_ANY_COMMAND: Any = Union[tuple(_SUBCOMMANDS)]  # noqa: UP007
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
INTERRUPTED = 128 + signal.SIGINT
ABOUT = ("--help", "-h", "--version", *COMPLETION)  # words that ask about the program


def main(argv: list[str] | None = None) -> None:
    """Run a command line and leave with its exit status (see above).

    Args:
        argv: The words after the program's name; None for those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # letters that its encoding lacks
    status: Any = 0
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
        for stream in _streams():
            stream.flush()
    except BrokenPipeError:
        status = _discard_output()
    except OSError as error:
        status = status or _report_full_disk(error)
        _discard_output()
    if status == INTERRUPTED and argv is None:
        # Python's own end would wait for XLA's threads, or crash in one that still computes.
        os._exit(status)
    sys.exit(status)


def _run(argv: list[str]) -> Any:
    """Return the command's exit status; a mistake is reported in one line."""
    try:
        command, settings = parse(argv)
        command = command.with_run_folders()
        stdout = sys.stderr if command.json else sys.stdout  # also for what libraries print
        # Warns of a run that a newer vidrec wrote, since this version may not understand the run.
        runs = files.reading_runs(command.run_folders(), warn)
        with contextlib.redirect_stdout(stdout), runs:
            return command.run(settings)
    except SystemExit as end:  # of --help and the like
        return end.code
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        warn("interrupted; the same command goes on from the last checkpoint")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        reason = _reason(error)
        if not reason:
            raise
        return _fail(reason)


def _fail(reason: object) -> int:
    warn(f"error: {reason}")
    return 2


def _reason(error: Exception) -> str:
    """Return why the system or a device refused the work; "" if it may be an error of vidrec."""
    if line := refusal(error):
        return line
    if "jax" not in sys.modules:
        return ""
    from vidrec.training import runtime

    return runtime.explain_failure(error)


def _streams() -> list[Any]:
    streams = (sys.stdout, sys.__stdout__, sys.stderr)
    return [stream for stream in streams if stream and not stream.closed]


def _discard_output() -> int:
    """Discard output that nobody reads (`| head`).

    Returns:
        The exit status of a program that the system ends for this reason.
    """
    for stream in _streams():
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return 128 + signal.SIGPIPE


def _report_full_disk(error: OSError) -> int:
    """Report that the output itself cannot be written."""
    with contextlib.suppress(OSError):
        print(f"error: cannot write the output: {error.strerror}", file=sys.stderr, flush=True)
    return 2


def parse(argv: list[str]) -> tuple[Command, dict[str, Any]]:
    """Return the command of a command line, and the settings given, by dotted name.

    Raises:
        UserError: A command, option, setting or value is wrong.
        SystemExit: The words ask for help, the version or a completion script, which has been
            printed.
    """
    if not argv or (argv[0].startswith("-") and argv[0] not in ABOUT):
        argv = ["ablate", *argv]  # the default command
    name = argv[0]
    if name == "--version":
        print(f"vidrec {__version__}")
        raise SystemExit(0)
    if name not in COMMANDS and not name.startswith("-"):
        guess = _guess(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'{guess}")
    words, settings = _split_settings(argv)
    takes_settings = name not in COMMANDS or "settings" in _options(COMMANDS[name])
    if settings and not takes_settings:
        raise UserError(f"'{program()} {name}' takes no settings such as {next(iter(settings))}")
    command, unknown = _parse_options(name, words, settings)
    if unknown:
        raise _unknown_option(name, unknown[0], type(command))
    for option, hint in typing.get_type_hints(type(command), include_extras=True).items():
        if any(isinstance(bound, config.Range) for bound in typing.get_args(hint)):
            config.check(f"--{option}", getattr(command, option), hint)
    return command, settings


def _options(kind: type[Command]) -> list[str]:
    return [entry.name for entry in fields(kind)]


def _guess(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _unknown_option(name: str, option: str, kind: type[Command]) -> UserError:
    """Return the error for an option that a command does not have; it suggests a similar one.

    The last word of a setting is enough: for --epochs the suggestion is --train.epochs.
    """
    word = option.partition("=")[0].lstrip("-").replace("-", "_")
    options = _options(kind)
    leaves = config.by_last_word() if "settings" in options else {}
    near = difflib.get_close_matches(word, [*leaves, *options], 1, 0.7)
    others = [each for each, other in COMMANDS.items() if word in _options(other)]
    if others and near[:1] != [word]:
        guess = f": it is an option of {' and '.join(others)}, not of {name}"
    elif not near:
        guess = f"; see '{program()} {name} --help'"
    elif near[0] in leaves:
        guess = f"; {config.did_you_mean([f'--{full}' for full in leaves[near[0]]])}"
    else:
        guess = f"; did you mean '--{near[0].replace('_', '-')}'?"
    return UserError(f"unknown option '{option}'{guess}")


def _hint(reason: str, name: str, settings: Mapping[str, Any]) -> str:
    """Return a hint on what to write if the experiment is missing but data.root is given."""
    if "EXPERIMENT" not in reason or "data.root" not in settings:
        return ""
    return f"; for a folder of videos: '{program()} {name} my_videos --data.root FOLDER'"


def _parse_options(
    name: str, words: list[str], settings: Mapping[str, Any]
) -> tuple[Command, list[str]]:
    """Return the command of these words, and the options that it does not know.

    tyro prints a mistake as a box of lines on stderr; here it becomes one line.
    """
    printed, known, named = io.StringIO(), COMMANDS.get(name, _ANY_COMMAND), program()
    more: dict[str, Any] = {}
    if {"--help", "-h"} & set(words):
        known, words = help_text.commands(name, words), [name, "--help"]
        if name.startswith("-"):  # a command is optional: without one it is ablate
            words, more = ["--help"], {"default": help_text.default(known)}
    elif name in COMMANDS:  # only this one: to read the options of all commands takes longer
        named, words = f"{named} {name}", words[1:]
    try:
        with contextlib.redirect_stderr(printed), help_text.REGISTRY:
            return tyro.cli(
                known,
                args=words,
                prog=named,
                description=help_text.OVERVIEW,
                return_unknown_args=True,
                **more,
            )
    except SystemExit as end:
        lines = [line.strip("│ ") for line in printed.getvalue().splitlines()]
        if not end.code or not lines:
            raise
        ends = ("───", "Got errors")
        inside = itertools.takewhile(lambda line: not line.startswith(ends), lines[1:])
        reason = " ".join(filter(None, inside))
        hint = _hint(reason, name, settings) or f"; see '{program()} {name} --help'"
        raise UserError(f"{reason.rstrip('.')}{hint}") from None


def _split_settings(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into tyro's words and the settings `--section.field VALUE …`."""
    rest: list[str] = []
    settings: dict[str, Any] = {}
    words = list(argv)
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
