"""Choose a model's width so that it has a given number of parameters."""

import functools
from dataclasses import replace
from typing import Any

from vidrec.config import Config, Frames, Optim, Train, override
from vidrec.errors import UserError

OFF_AT_MOST = 0.05
WIDEST = 2**14
# Scanners without weights: their width is that of a linear layer before them.
WEIGHTLESS = ("none", "mean")


def widths(cfg: Config, parameters: int, row: str = "") -> dict[str, Any]:
    """Return the width setting that brings a model nearest to a number of parameters.

    The width is `scanner.units`; for a scanner without weights it is that of a linear layer before
    it.

    Args:
        cfg: The trial's settings; only the width is still to be chosen.
        parameters: The number of parameters that the model should train.
        row: The row's name, for the message.

    Raises:
        UserError: No width comes within 5 % of the number, or the scanner cannot read the
            features; the message names the row.
    """
    # Settings that do not affect the number are reset, so that rows share the cached result.
    plain = replace(cfg, seed=0, optim=Optim(), train=Train(), frames=Frames(cfg.frames.length))
    try:
        return dict([_nearest(plain, parameters)])
    except UserError as error:
        if not row:
            raise
        leave_out = f"--exclude scanner.kind={cfg.scanner.kind} leaves it out"
        raise UserError(f"row {row!r}: {error}; {leave_out}") from error


@functools.cache
def _nearest(cfg: Config, parameters: int) -> tuple[str, Any]:
    step = _step(cfg)
    low, high = 0, 1  # widths in steps: `low` gives too few parameters, `high` enough
    while _count(cfg, high * step) < parameters:
        low, high = high, 2 * high
        if high * step > WIDEST:
            raise UserError(f"no width up to {WIDEST} gives {_name(cfg)} {parameters:,} parameters")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(cfg, middle * step) < parameters else (low, middle)
    steps = min((high, *[low] * (low > 0)), key=lambda n: abs(_count(cfg, n * step) - parameters))
    off = abs(_count(cfg, steps * step) / parameters - 1)
    if off > OFF_AT_MOST:
        raise UserError(
            f"a budget of {parameters:,} parameters: {_name(cfg)} comes no nearer than "
            f"{_count(cfg, steps * step):,}, which is {off:.0%} off instead of {OFF_AT_MOST:.0%}"
        )
    return _setting(cfg, steps * step)


def _step(cfg: Config) -> int:
    """Return the number of which a scanner's units must be a multiple."""
    args = dict(cfg.scanner.args)
    if cfg.scanner.kind == "transformer":
        return 2 * int(args.get("heads", 4))
    return int(args.get("heads", 1)) if cfg.scanner.kind == "attention" else 1


def _setting(cfg: Config, width: int) -> tuple[str, Any]:
    if cfg.scanner.kind in WEIGHTLESS:
        return "scanner.dense", (width,)
    return "scanner.units", width


@functools.cache
def _count(cfg: Config, width: int) -> int:
    from vidrec.training import prepare

    return prepare.count_params(override(cfg, dict([_setting(cfg, width)])))


def _name(cfg: Config) -> str:
    return f"scanner.kind = {cfg.scanner.kind}"
