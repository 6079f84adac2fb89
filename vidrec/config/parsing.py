"""Read a setting's value from the words of a command line."""

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from vidrec.config import arguments
from vidrec.config.overrides import check, placed, unknown, words_of
from vidrec.config.schema import Config, fields
from vidrec.errors import UserError


def takes_many(name: str) -> bool:
    """True for settings that are a list of values."""
    hints = {full: hint for full, hint, _ in fields(Config)}
    return typing.get_origin(hints.get(name)) is tuple


def parse(name: str, *words: str) -> Any:
    """A setting's value from the command line's words, in its declared type.

    One word holds a list with commas between its values; a value with a comma stands in quotes. Of
    several words each is a value of a list of texts, its commas included. A relative path is taken
    from the current folder.

    Raises:
        UserError: no such setting, or a value out of type or range.
    """
    hints = {full: hint for full, hint, _ in fields(Config)}
    if name not in hints:
        raise UserError(unknown(name, hints))
    hint = hints[name]
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        value: Any = _texts(words)
    else:
        value = _parsed(name, ",".join(words), hint)
    return placed({name: check(name, value, hint)}, Path.cwd())[name]


def _texts(words: Sequence[str]) -> tuple[str, ...]:
    whole = " ".join(words).strip()
    inside = _without_brackets(whole)
    if len(words) == 1 or inside != whole:
        words = pieces(inside)
    # `a, b` as a shell gives it: the comma is no part of the first word.
    values = (word if word.strip(", ") == word else word.strip(", ") for word in words)
    return tuple(unquoted(value) for value in values if value)


def pieces(text: str) -> list[str]:
    """Cuts a text at its commas, those in quotes or brackets left out.

    Raises:
        UserError: a quote or bracket is not closed.
    """
    found, brackets, quote, before = [""], [], "", ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'" and before in ("", ",", "=", "(", "["):
            quote = sign  # inside of a word it is an apostrophe
        elif sign in "([{":
            brackets.append(")]}"["([{".index(sign)])
        elif brackets and sign == brackets[-1]:
            brackets.pop()
        elif sign == "," and not brackets:
            found.append("")
            before = sign
            continue
        found[-1] += sign
        before = sign if sign.strip() else before
    if quote or brackets:
        raise UserError(
            f"{text}: {quote or brackets[-1]} is missing; a value that has a comma, quote or "
            'bracket of its own should stand in quotes, such as "a, b",c'
        )
    return [each.strip() for each in found]


def unquoted(text: str) -> str:
    """A text without the quotes around it."""
    held = len(text) > 1 and text[0] in "\"'" and text.find(text[0], 1) == len(text) - 1
    return text[1:-1] if held else text


def _without_brackets(text: str) -> str:
    """The inside of (a, b) or [a, b]; a text such as `(a) b (c)` stays as it is."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return text[1:-1].strip() if place and place == len(text) - 1 else text
    return text


def _parsed(name: str, text: str, hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        [hint] = [option for option in typing.get_args(hint) if option is not type(None)]
        return None if text.lower() == "none" else _parsed(name, text, hint)
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is tuple:
        element = typing.get_args(hint)[0]
        parts = re.split(r"[,\s]+", text.strip("()[] "))
        return tuple(_parsed(name, part, element) for part in parts if part)
    if hint is arguments.Args:
        return arguments.parse(name, text)
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UserError(f"{name} = {text!r} should be True or False")
        return words[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"{name} = {text!r} should be {words_of(hint)}") from None
    return text
