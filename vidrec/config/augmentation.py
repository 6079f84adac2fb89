"""Define which augmentations are allowed under which settings."""

from collections.abc import Callable, Iterator
from typing import Any

from vidrec.config.rule import Rule
from vidrec.config.schema import Augment, Config, get

# Settings of `augment` that change pixels, the choice of frames (OF_TIME), or features.
MOVING = ("flip", "crop", "rotation")
TONES = ("brightness", "contrast", "color")
OF_PIXELS = (*MOVING, *TONES)
OF_TIME = ("speed", "jitter", "drop")
OF_FEATURES = ("noise", "time_mask")
OF_PIXELS_OR_FEATURES = tuple(f"augment.{name}" for name in (*OF_PIXELS, *OF_FEATURES))


def acting(settings: Augment, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the named settings that have an effect: they differ from the default."""
    off = Augment()
    return tuple(name for name in names if getattr(settings, name) != getattr(off, name))


def outdated(name: str) -> Callable[[Config, Config], bool]:
    """Return a function (before, after) -> whether setting `name` has no effect after a change."""
    of_pixels = name.removeprefix("augment.") in OF_PIXELS
    return lambda _, cfg: (cfg.encoder.trainable != "none") != of_pixels


def rules(cfg: Config) -> Iterator[Rule]:
    """Yield the rules of `augment` and `eval.views`; they refuse settings without an effect."""
    settings, trainable = cfg.augment, cfg.encoder.trainable
    has_pixels = cfg.data.kind != "features"
    if not has_pixels:
        kept = "data.kind = 'features' has no pixels"
    else:
        kept = "encoder.trainable = 'none' keeps the features of frames as they are"
    for name in acting(settings, OF_PIXELS):
        yield Rule(
            trainable == "none",
            f"{_said(cfg, name)} changes pixels, and {kept}: take augment.noise, "
            "augment.time_mask, augment.mixup or augment.speed"
            + (", or an encoder that trains" if has_pixels else ""),
        )
    for name in acting(settings, OF_FEATURES):
        yield Rule(
            trainable != "none",
            f"{_said(cfg, name)} changes features, and encoder.trainable = {trainable!r} trains "
            "from pixels: take augment.flip, augment.crop, augment.color or augment.mixup",
        )
    for name in acting(settings, (*OF_TIME, "time_mask")):
        yield Rule(
            cfg.data.kind == "images",
            f"{_said(cfg, name)} changes frames in time, and data.kind = 'images' has one a clip: "
            "take augment.flip, augment.crop or augment.color",
        )
    yield Rule(
        cfg.eval.views != "one" and trainable == "none",
        f"eval.views = {cfg.eval.views!r} scores other views of the pixels, and {kept}: take "
        "eval.views = 'one'" + (", or an encoder that trains" if has_pixels else ""),
    )
    yield Rule(settings.drop == 1, "augment.drop = 1 loses every frame: it should be below 1")


def _said(cfg: Config, name: str) -> str:
    value: Any = get(cfg, f"augment.{name}")
    return f"augment.{name} = {value:g}"
