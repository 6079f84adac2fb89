"""Settings of a run: their schema, rules, parsing and identity, and users' own code."""

from vidrec.config.arguments import Args
from vidrec.config.arguments import checked as checked_args
from vidrec.config.identity import canonical, digest, identifying_settings, signature
from vidrec.config.overrides import (
    check,
    cleared,
    from_dict,
    override,
    pin,
    place,
    placed,
    to_dict,
    user_code,
)
from vidrec.config.parsing import parse, pieces, takes_many, unquoted
from vidrec.config.plugins import load_module, load_user
from vidrec.config.rules import FOLLOWERS
from vidrec.config.schema import (
    MOST,
    NOT_IDENTITY,
    TRACED,
    WORDS,
    Config,
    Data,
    Encoder,
    Eval,
    Frames,
    Head,
    Loss,
    Optim,
    Pattern,
    Range,
    Scanner,
    Train,
    fields,
    get,
)
from vidrec.io.machine import cache_dir, cores
from vidrec.io.runs import run_folder

__all__ = [
    "FOLLOWERS",
    "MOST",
    "NOT_IDENTITY",
    "TRACED",
    "WORDS",
    "Args",
    "Config",
    "Data",
    "Encoder",
    "Eval",
    "Frames",
    "Head",
    "Loss",
    "Optim",
    "Pattern",
    "Range",
    "Scanner",
    "Train",
    "cache_dir",
    "canonical",
    "check",
    "checked_args",
    "cleared",
    "cores",
    "digest",
    "fields",
    "from_dict",
    "get",
    "identifying_settings",
    "load_module",
    "load_user",
    "override",
    "parse",
    "pieces",
    "pin",
    "place",
    "placed",
    "run_folder",
    "signature",
    "takes_many",
    "to_dict",
    "unquoted",
    "user_code",
]
