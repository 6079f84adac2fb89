"""Generate the data set `motion`, whose ten classes are five motions and their time reversals.

`clip(seed, partner)` is exactly `clip(seed, class)` played backwards. So neither a frame nor an
unordered set of frames tells a class from its partner: a model that ignores order is at chance
within a pair. A recording, that is a shape and a background, has two clips of every class.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from vidrec.data.read_ahead import map_ahead
from vidrec.errors import UserError

# A motion as it is drawn, and the same motion reversed.
PAIRS = (
    ("right", "left"),
    ("down", "up"),
    ("grow", "shrink"),
    ("clockwise", "anticlockwise"),
    ("appear", "vanish"),
)
CLASSES = tuple(sorted(name for pair in PAIRS for name in pair))
PARTNER = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}

TAKES = 2  # seeds that share a recording, that is a shape and a background
SUBPIXELS = 4  # backgrounds are drawn finer than frames, so that the camera can shake by fractions
SPRITE = 96  # texels across a shape's picture, which spans 1.25 radii to each side of its centre
REACH = 1.25
NOISE_TABLE = 1 << 20  # values of pixel noise, read from a random position for every frame


@dataclasses.dataclass(frozen=True)
class Settings:
    """The parameters from which a data set of motions is generated."""

    clips: int = 1200
    frames: int = 30  # of every clip; with `memory`, of the longest clip
    size: int = 64  # height and width in pixels
    difficulty: float = 3.0  # strength of what hides the motion, see `nuisances`; 0: nothing
    seed: int = 0
    memory: bool = False  # the motion is a cue in the first third of a long clip

    def __post_init__(self) -> None:
        ranges = {
            "clips": (30, 10**7),
            "frames": (27 if self.memory else 2, 10**4),
            "size": (8, 512),  # larger frames would hold more pixels than the table of noise
            "difficulty": (0, 20),
            "seed": (0, 2**32 - 1),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            kinds = (int, float) if name == "difficulty" else int
            if not isinstance(value, kinds) or not low <= value <= high:
                raise UserError(f"motion: {name} must be from {low} to {high}, got {value!r}")

    @property
    def nuisances(self) -> dict[str, float]:
        """Return what hides the motion: shake in pixels, others as shares of full scale or size."""
        return {
            "texture": 0.05 * self.difficulty,
            "noise": 0.03 * self.difficulty,
            "shake": 0.5 * self.difficulty,
            "clutter": 0.05 * self.difficulty,
            "wobble": 0.005 * self.difficulty,
        }


def group(seed: int) -> str:
    """Return the name of the recording (a shape and a background) of a seed's clips."""
    return f"source{seed // TAKES:04d}"


def clip(seed: int, label: int | str, settings: Settings | None = None) -> np.ndarray:
    """Draw one clip; the clip of the partner class with the same seed is its reversal.

    With `settings.memory` only the cue is reversed, and all other frames are the same.

    Args:
        seed: seed of the clip.
        label: name or index of the class.
        settings: parameters of the data set; None: the defaults.

    Returns:
        uint8 (T, H, W, 3).
    """
    name = label if isinstance(label, str) else CLASSES[label]
    pair = next((i for i, names in enumerate(PAIRS) if name in names), None)
    if pair is None:
        raise UserError(f"motion: no class {name!r}; classes are {', '.join(CLASSES)}")
    frames_THWC, cue = _drawn(seed, pair, settings or Settings())
    return frames_THWC if name == PAIRS[pair][0] else _reversed(frames_THWC, cue)


def _reversed(frames_THWC: np.ndarray, cue: slice) -> np.ndarray:
    order = np.arange(len(frames_THWC))
    order[cue] = order[cue][::-1].copy()
    return frames_THWC[order]


def generator(settings: Settings, *place: int) -> np.random.Generator:
    """Return the random generator of one item of the data set, which `place` identifies."""
    return np.random.Generator(np.random.PCG64([settings.seed, *place]))


def _drawn(seed: int, pair: int, settings: Settings) -> tuple[np.ndarray, slice]:
    """Draw the frames of a pair's first class; also return which of them show the motion."""
    # The clips do not depend on how many a set has. A fixed number lets all sets share the caches.
    settings = dataclasses.replace(settings, clips=30)
    rng = generator(settings, 1, seed, pair)
    pose, cue = _pose(rng, pair, settings)
    return draw(rng, seed // TAKES, pose, settings), cue


# ---------------------------------------------------------------------------- how the shape moves


@dataclasses.dataclass
class Pose:
    """The shape in each frame, (T,): place and radius in pixels, angle in radians, opacity 0-1."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    opacity: np.ndarray
    shake: np.ndarray  # (T, 2) shift of the picture right and down: pixels, in whole subpixels


def _pose(rng: np.random.Generator, pair: int, settings: Settings) -> tuple[Pose, slice]:
    """Draw how the shape moves, and which frames are the cue."""
    length, cue = _timing(rng, settings)
    path = resting(rng, length)
    if settings.memory:
        _distract(rng, path, length)
    for name, values in motion_of(rng, pair, cue.stop - cue.start).items():
        path[name][cue] = values
    return placed(rng, path, settings), cue


def resting(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """Draw the path of a shape that does not change, in the units that `placed` takes."""
    rest = {
        "x": rng.uniform(-0.11, 0.11),
        "y": rng.uniform(-0.11, 0.11),
        "radius": rng.uniform(0.15, 0.19),
        "angle": rng.uniform(-0.35, 0.35),
        "opacity": 1.0,
    }
    return {name: np.full(length, value) for name, value in rest.items()}


def placed(rng: np.random.Generator, path: dict[str, np.ndarray], settings: Settings) -> Pose:
    """Convert a path to pixels, and add the wobble of the shape and the shake of the picture.

    Args:
        rng: the random generator.
        path: the values of `Pose` in each frame, with lengths as shares of the frame's size.
        settings: parameters of the data set.
    """
    length = len(path["x"])
    for name in ("x", "y"):
        path[name] += settings.nuisances["wobble"] * rng.standard_normal(length)
        path[name] = (path[name] + 0.5) * settings.size
    path["radius"] *= settings.size
    shake = settings.nuisances["shake"] * rng.standard_normal((length, 2)).clip(-3, 3)
    return Pose(**path, shake=np.round(shake * SUBPIXELS) / SUBPIXELS)


def draw(rng: np.random.Generator, recording: int, pose: Pose, settings: Settings) -> np.ndarray:
    """Draw the frames of a recording's shape and background, uint8 (T, H, W, 3)."""
    scene = _scene(recording, settings)
    frames_THWC = _background(rng, scene, pose, settings)
    _draw_shape(frames_THWC, scene, pose)
    _add_noise(rng, frames_THWC, settings)
    return frames_THWC


def _timing(rng: np.random.Generator, settings: Settings) -> tuple[int, slice]:
    """Draw a clip's length and the frames of its cue, with memory a part of the first third."""
    if not settings.memory:
        return settings.frames, slice(0, settings.frames)
    length = int(rng.integers(2 * settings.frames // 3, settings.frames + 1))
    cue = settings.frames // 9
    start = int(rng.integers(0, length // 3 - cue + 1))
    return length, slice(start, start + cue)


def _distract(rng: np.random.Generator, path: dict[str, np.ndarray], length: int) -> None:
    """Vary everything that a cue could change back and forth, but by less than a cue does."""
    swing = {"x": 0.08, "y": 0.08, "radius": 0.02, "angle": 0.4}
    for name, size in swing.items():
        period, phase = rng.uniform(16, 40), rng.uniform(0, 2 * np.pi)
        path[name] += size * np.sin(2 * np.pi * np.arange(length) / period + phase)
    dimmed = 1 + np.sin(2 * np.pi * np.arange(length) / rng.uniform(16, 40))
    path["opacity"] -= 0.125 * dimmed


def motion_of(rng: np.random.Generator, pair: int, length: int) -> dict[str, np.ndarray]:
    """Draw what the first class of a pair changes, from start to end, at a varying speed."""
    time = np.linspace(0, 1, length)
    # Its slope stays positive: a motion slows down and speeds up but never turns back.
    progress = time + rng.uniform(-0.6, 0.6) * np.sin(2 * np.pi * time) / (2 * np.pi)
    middle, extent = rng.uniform(-0.04, 0.04), rng.uniform(0.55, 0.8)
    swept = middle + extent * (progress - 0.5)
    small, large = rng.uniform(0.06, 0.08), rng.uniform(0.24, 0.30)
    turn = rng.uniform(-np.pi, np.pi) + rng.uniform(1.5, 2.5) * np.pi * progress
    return (
        {"x": swept},
        {"y": swept},
        {"radius": small + (large - small) * progress},
        {"angle": turn},
        {"opacity": progress},
    )[pair]


# ------------------------------------------------------------------- what a recording looks like


@dataclasses.dataclass
class _Scene:
    """The shape and the background, which the clips of a recording share."""

    shape: np.ndarray  # (SPRITE, SPRITE) uint32: red, green, blue times opacity, and opacity
    canvas: np.ndarray  # (SUBPIXELS, SUBPIXELS, h, w, 3) uint8: a background shifted by fractions


@functools.lru_cache(maxsize=8)
def _scene(recording: int, settings: Settings) -> _Scene:
    rng = generator(settings, 0, recording)
    return _Scene(shape=_shape(rng), canvas=_canvas(rng, settings))


def _colour(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Draw red, green and blue with a brightness between `low` and `high`."""
    return rng.uniform(low, high) + rng.uniform(-0.15, 0.15, 3)


def _shape(rng: np.random.Generator) -> np.ndarray:
    """Draw a random blob with a light and a dark half, so that every angle looks different."""
    axis = np.linspace(-REACH, REACH, SPRITE)
    x, y = np.meshgrid(axis, axis)
    angle = np.arctan2(y, x)
    radius = np.hypot(x, y)
    edge = 0.9 + sum(
        rng.uniform(-0.25, 0.25) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        for k in range(2, 7)
    )
    opacity = ((edge - radius) / 0.08 + 0.5).clip(0, 1)[..., None]
    light, dark = _colour(rng, 0.85, 1.0), _colour(rng, 0.0, 0.15)
    tone = (y / 0.08 + 0.5).clip(0, 1)[..., None]
    stripes = 0.08 * np.sin(
        rng.uniform(5, 12) * (x * np.cos(a := rng.uniform(0, 7)) + y * np.sin(a))
    )
    rgb = (light * (1 - tone) + dark * tone + stripes[..., None]).clip(0, 1)
    texels = np.concatenate([rgb * opacity, opacity], axis=-1)
    return np.round(255 * texels).astype(np.uint8).view(np.uint32)[..., 0]


def _canvas(rng: np.random.Generator, settings: Settings) -> np.ndarray:
    """Draw a textured, cluttered background that wraps around, for every shift by a subpixel."""
    pixels = settings.size * 3 // 2
    canvas = settings.nuisances["texture"] * _texture(rng, pixels) + _colour(rng, 0.4, 0.6)
    for _ in range(12):
        _add_blob(rng, canvas, settings.nuisances["clutter"])
    edge = settings.size + 1
    canvas = np.pad(canvas.clip(0, 1), ((0, edge), (0, edge), (0, 0)), mode="wrap")
    canvas = (255 * canvas).astype(np.float32)
    share = np.arange(SUBPIXELS, dtype=np.float32)[:, None, None, None] / SUBPIXELS
    rows = canvas[:-1] + share * (canvas[1:] - canvas[:-1])
    left = rows[:, None, :, :-1]
    return (left + share * (rows[:, None, :, 1:] - left) + np.float32(0.5)).astype(np.uint8)


def _texture(rng: np.random.Generator, pixels: int) -> np.ndarray:
    """Draw coloured smooth noise of standard deviation 1 at three scales, (pixels, pixels, 3)."""
    scales = (6, 12, 24)
    texture_HWC = np.zeros((pixels, pixels, 3))
    for cells in scales:
        grey, colour = (
            rng.standard_normal((1, cells, cells)),
            rng.standard_normal((3, cells, cells)),
        )
        weights = _bumps(cells, pixels)
        texture_CHW = weights @ (0.8 * grey + 0.6 * colour) @ weights.T
        texture_HWC += texture_CHW.transpose(1, 2, 0) / np.sqrt(len(scales))
    return texture_HWC


@functools.cache
def _bumps(cells: int, pixels: int) -> np.ndarray:
    """Return weights (pixels, cells) of Gaussian bumps on a ring, each row of unit norm."""
    distance = np.abs(np.arange(pixels)[:, None] * cells / pixels - np.arange(cells))
    weights = np.exp(-2 * np.minimum(distance, cells - distance) ** 2)
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _add_blob(rng: np.random.Generator, canvas: np.ndarray, contrast: float) -> None:
    """Add one still distractor: a small disc of another colour."""
    radius = rng.uniform(0.02, 0.06) * len(canvas)
    reach = int(radius) + 1
    top, left = rng.integers(0, len(canvas) - 2 * reach, 2)
    axis = np.arange(2 * reach) + 0.5 - reach
    inside = (radius + 0.5 - np.hypot(axis, axis[:, None])).clip(0, 1)[..., None]
    colour = contrast * rng.uniform(1, 2) * rng.choice([-1, 1]) * rng.uniform(0.5, 1.5, 3)
    canvas[top : top + 2 * reach, left : left + 2 * reach] += inside * colour


# ------------------------------------------------------------------------------------- frames


def _background(
    rng: np.random.Generator, scene: _Scene, pose: Pose, settings: Settings
) -> np.ndarray:
    """Draw the scene behind the shape in every frame, as the shaking camera sees it."""
    size = settings.size
    wrap = scene.canvas.shape[2] - size
    start = rng.integers(0, wrap, 2) * SUBPIXELS
    # The picture moves right where the window on the canvas moves left.
    steps = np.mod(start - np.round(pose.shake * SUBPIXELS), wrap * SUBPIXELS).astype(int)
    whole, part = np.divmod(steps, SUBPIXELS)
    frames_THWC = np.empty((len(steps), size, size, 3), np.uint8)
    for t, ((x, y), (i, j)) in enumerate(zip(whole, part, strict=True)):
        frames_THWC[t] = scene.canvas[j, i, y : y + size, x : x + size]
    return frames_THWC


def _draw_shape(frames_THWC: np.ndarray, scene: _Scene, pose: Pose) -> None:
    """Blend the shape into the frames, in patches just large enough for it."""
    size = frames_THWC.shape[1]
    side = min(size, int(2 * REACH * pose.radius.max()) + 3)
    centres_T2 = np.stack([pose.x, pose.y], axis=-1) + pose.shake
    corners_T2 = np.floor(centres_T2 - side / 2).clip(0, size - side).astype(np.int32)
    # From the shape's centre to the middle of its patch's first pixel.
    offsets_T2 = (corners_T2 + 0.5 - centres_T2).astype(np.float32)
    x, y = (np.arange(side, dtype=np.float32) + offsets_T2[:, :, None]).transpose(1, 0, 2)
    texels = _texels(scene.shape, pose, x[:, None, :], y[:, :, None])
    texels *= pose.opacity.astype(np.float32)[:, None, None, None]
    patches = [
        frame[y : y + side, x : x + side]
        for frame, (x, y) in zip(frames_THWC, corners_T2.tolist(), strict=True)
    ]
    blend = np.stack(patches) * (1 - texels[..., 3:] / np.float32(255))
    blend += texels[..., :3] + np.float32(0.5)
    for patch, values in zip(patches, blend.astype(np.uint8), strict=True):
        patch[...] = values


def _texels(shape: np.ndarray, pose: Pose, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Look up the turned and scaled shape at pixels (x, y) off its centre, float32 (T, h, w, 4)."""
    zoom = SPRITE / (2 * REACH) / pose.radius
    cos, sin = (
        (zoom * turn(pose.angle)).astype(np.float32)[:, None, None] for turn in (np.cos, np.sin)
    )
    middle, rim = np.float32(SPRITE / 2), np.float32(SPRITE - 1)
    # The rim of the picture is transparent, so positions outside it may be read from the rim.
    u, v = (
        np.minimum(np.maximum(place + middle, np.float32(0)), rim).astype(np.int32)
        for place in (x * cos + y * sin, y * cos - x * sin)
    )
    texels = shape.ravel().take(v * SPRITE + u)
    return texels.view(np.uint8).reshape(*texels.shape, 4).astype(np.float32)


@functools.lru_cache(maxsize=2)
def _noise_table(settings: Settings) -> np.ndarray:
    rng = generator(settings, 2)
    values = rng.standard_normal(NOISE_TABLE, dtype=np.float32)
    return np.round(255 * settings.nuisances["noise"] * values).astype(np.int16)


def _add_noise(rng: np.random.Generator, frames_THWC: np.ndarray, settings: Settings) -> None:
    """Add pixel noise from a table: drawing each value would take longer than all the rest."""
    table = _noise_table(settings)
    values = frames_THWC[0].size
    starts = rng.integers(0, len(table) - values, len(frames_THWC))
    noisy = np.stack([table[start : start + values] for start in starts])
    noisy = noisy.reshape(frames_THWC.shape)
    noisy += frames_THWC
    np.minimum(np.maximum(noisy, 0, out=noisy), 255, out=noisy)
    frames_THWC[...] = noisy


def generate(settings: Settings, test: bool) -> Iterator[tuple[int, str, int, np.ndarray]]:
    """Yield every clip of a split in order, drawn by all cores: index, class, seed, frames."""
    # Recordings 1, 6, 11 … are for testing: the smallest set, of two recordings, has both splits.
    seeds = [s for s in range(-(-settings.clips // 10)) if (s // TAKES % 5 == 1) == test]
    drawings = [(seed, pair) for seed in seeds for pair in range(len(PAIRS))]
    drawn = map_ahead(lambda drawing: _drawn(*drawing, settings), drawings)
    for (seed, pair), (frames_THWC, cue) in zip(drawings, drawn, strict=True):
        for side, label in enumerate(PAIRS[pair]):
            index = 10 * seed + 2 * pair + side
            if index < settings.clips:
                yield index, label, seed, _reversed(frames_THWC, cue) if side else frames_THWC
