"""Define the settings of a run: schema, rules, parsing, identity, and users' own code."""

from vidrec.config.arguments import Args
from vidrec.config.checking import check
from vidrec.config.checking import check_args as checked_args
from vidrec.config.identity import canonical, digest, file_hash, identifying_settings, signature
from vidrec.config.overrides import (
    cleared,
    from_dict,
    override,
    pin_code,
    resolve_paths,
    resolve_setting_paths,
    to_dict,
    user_code,
)
from vidrec.config.parsing import parse, split_commas, takes_many, unquote
from vidrec.config.plugins import is_code, load_module, load_user
from vidrec.config.rules import FOLLOWERS
from vidrec.config.schema import (
    BY_CONTENT,
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
    Range,
    Scanner,
    Train,
    fields,
    get,
    is_path,
)

__all__ = [
    "BY_CONTENT",
    "FOLLOWERS",
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
    "Range",
    "Scanner",
    "Train",
    "canonical",
    "check",
    "checked_args",
    "cleared",
    "digest",
    "fields",
    "file_hash",
    "from_dict",
    "get",
    "identifying_settings",
    "is_code",
    "is_path",
    "load_module",
    "load_user",
    "override",
    "parse",
    "pin_code",
    "resolve_paths",
    "resolve_setting_paths",
    "signature",
    "split_commas",
    "takes_many",
    "to_dict",
    "unquote",
    "user_code",
]
