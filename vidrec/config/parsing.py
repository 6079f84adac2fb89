"""Read the values of settings from the words of a command line."""

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from vidrec.config import arguments
from vidrec.config.checking import check, describe, unknown_setting
from vidrec.config.overrides import resolve_setting_paths
from vidrec.config.schema import Config, fields
from vidrec.errors import UserError

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
OPENING, CLOSING = "([{", ")]}"


def takes_many(name: str) -> bool:
    """Return whether a setting is a list of values."""
    hints = {full: hint for full, hint, _ in fields(Config)}
    return typing.get_origin(hints.get(name)) is tuple


def parse(name: str, *words: str) -> Any:
    """Return a setting's value in its declared type.

    A relative path is resolved against the current folder.

    Args:
        name: Dotted name of the setting.
        words: The value. A single word may be a list with commas between its values; a value that
            contains a comma then needs quotes. For a list of texts given as several words, each
            word is one value, commas included.

    Raises:
        UserError: The setting does not exist, or the value has the wrong type or is out of range.
    """
    hints = {full: hint for full, hint, _ in fields(Config)}
    if name not in hints:
        raise unknown_setting(name, hints)
    hint = hints[name]
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        value: Any = _split_texts(words)
    else:
        value = _convert(name, ",".join(words), hint)
    return resolve_setting_paths({name: check(name, value, hint)}, Path.cwd())[name]


def _split_texts(words: Sequence[str]) -> tuple[str, ...]:
    whole = " ".join(words).strip()
    inside = _strip_brackets(whole)
    if len(words) == 1 or inside != whole:
        words = split_commas(inside)
    # A shell passes `a, b` as two words; the comma is not part of the first value.
    values = (word if word.strip(", ") == word else word.strip(", ") for word in words)
    return tuple(unquote(value) for value in values if value)


def split_commas(text: str) -> list[str]:
    """Split a text at its commas, except for those in quotes or brackets.

    Raises:
        UserError: A quote or bracket is not closed.
    """
    parts, brackets, quote, before = [""], [], "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and before in ("", ",", "=", "(", "["):
            quote = sign  # inside a word, the sign is an apostrophe
        elif sign in OPENING:
            brackets.append(CLOSING[OPENING.index(sign)])
        elif brackets and sign == brackets[-1]:
            brackets.pop()
        elif sign == "," and not brackets:
            parts.append("")
            before = sign
            continue
        parts[-1] += sign
        before = sign if sign.strip() else before
    if quote or brackets:
        raise UserError(
            f"{text}: {quote or brackets[-1]} is missing; a value that has a comma, quote or "
            'bracket of its own should stand in quotes, such as "a, b",c'
        )
    return [part.strip() for part in parts]


def unquote(text: str) -> str:
    """Return a text without the quotes around it."""
    quoted = len(text) > 1 and text[0] in "\"'" and text.find(text[0], 1) == len(text) - 1
    return text[1:-1] if quoted else text


def _strip_brackets(text: str) -> str:
    """Return the inside of (a, b) or [a, b]; a text such as `(a) b (c)` stays as it is."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            encloses = position and position == len(text) - 1
            return text[1:-1].strip() if encloses else text
    return text


def _convert(name: str, text: str, hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        [hint] = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else _convert(name, text, hint)
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        parts = re.split(r"[,\s]+", text.strip("()[] "))
        return tuple(_convert(name, part, element) for part in parts if part)
    if hint is arguments.Args:
        return arguments.parse(name, text)
    if hint is bool:
        if text.lower() not in TRUTH:
            raise UserError(f"{name} = {text!r} should be True or False")
        return TRUTH[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{name} = {text!r} should be {describe(hint)}") from None
    return text
