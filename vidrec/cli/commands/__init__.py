"""List all commands by name.

Each command is a dataclass: its fields are the options, its method `run` does the work, and its
docstring and the comments beside its fields are what --help shows.
"""

from vidrec.cli.command import Command
from vidrec.cli.commands.data import Check, Doctor, Extract
from vidrec.cli.commands.jobs import Cancel, Status
from vidrec.cli.commands.models import Demo, Encoders, Evaluate, Export, Predict
from vidrec.cli.commands.reports import Compare, Report, Runs
from vidrec.cli.commands.searching import Search
from vidrec.cli.commands.training import Ablate, Train

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "ablate": Ablate,
    "search": Search,
    "evaluate": Evaluate,
    "runs": Runs,
    "report": Report,
    "compare": Compare,
    "predict": Predict,
    "demo": Demo,
    "extract": Extract,
    "encoders": Encoders,
    "doctor": Doctor,
    "check": Check,
    "status": Status,
    "cancel": Cancel,
    "export": Export,
}
