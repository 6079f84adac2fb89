"""Augmentation against literal loops, PIL and SciPy, on random clips of unequal lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from vidrec.config import Augment, override
from vidrec.config.schema import Config
from vidrec.data import augment, frames
from vidrec.data.augment import features, flips, mixing, pixels, time
from vidrec.errors import UserError


def clips(shape, seed=0, kind=np.uint8):
    drawn = np.random.default_rng(seed).uniform(0, 255.99, shape)
    return drawn.astype(kind)


def keys_of(count, seed=1, epoch=2):
    return augment.keys_of(seed, epoch, jnp.arange(count))


# ------------------------------------------------------------------ pixels


def literally_seen(frame, view):
    """A frame as the view shows it: SciPy reads it at places that are computed one by one."""
    height, width, _ = frame.shape
    rows, columns = np.zeros((height, width)), np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            x, y = (j + 0.5 - width / 2) * view.width, (i + 0.5 - height / 2) * view.height
            cos, sin = np.cos(view.angle), np.sin(view.angle)
            columns[i, j] = cos * x - sin * y + view.x * width - 0.5
            rows[i, j] = sin * x + cos * y + view.y * height - 0.5
    planes = [
        ndimage.map_coordinates(plane, [rows, columns], order=1, mode="nearest")
        for plane in np.moveaxis(frame.astype(float), -1, 0)
    ]
    return np.stack(planes, -1)


@pytest.mark.parametrize("seed", range(6))
def test_a_view_reads_between_pixels_as_scipy_does(seed):
    rng = np.random.default_rng(seed)
    frames_THWC = clips((2, *rng.integers(5, 12, 2), 3), seed, np.float32)
    settings = Augment(flip=0.5, crop=0.3, rotation=40 * (seed % 2))
    view = pixels.drawn_view(settings, jnp.asarray(rng.uniform(size=pixels.DRAWS)))
    ours = np.asarray(pixels.seen(jnp.asarray(frames_THWC), view))
    for frame, own in zip(frames_THWC, ours, strict=True):
        np.testing.assert_allclose(own, literally_seen(frame, view), atol=2e-2)


def test_whole_mirrored_and_overturned_frames_are_copies_to_the_bit():
    frames_THWC = clips((3, 7, 10, 3))
    whole = pixels.View(0.5, 0.5, 1.0, 1.0, 0.0)
    assert np.array_equal(pixels.seen(jnp.asarray(frames_THWC), whole), frames_THWC)
    mirrored = pixels.seen(jnp.asarray(frames_THWC), whole._replace(width=-1.0))
    assert np.array_equal(mirrored, frames_THWC[:, :, ::-1])
    overturned = pixels.seen(jnp.asarray(frames_THWC), whole._replace(angle=np.pi))
    assert np.array_equal(overturned, frames_THWC[:, ::-1, ::-1])


def test_drawn_parts_lie_inside_and_keep_their_share_of_the_area():
    draws = np.random.default_rng(0).uniform(size=(2000, pixels.DRAWS))
    settings = Augment(flip=0.3, crop=0.4, rotation=15)
    views = jax.vmap(lambda each: pixels.drawn_view(settings, each))(jnp.asarray(draws))
    width, height = np.abs(views.width), np.asarray(views.height)
    area, ratio = width * height, width / height
    assert (area > 0.4 - 1e-5).all()
    assert (area < 1 + 1e-5).all()
    assert area.min() < 0.41
    assert ratio.max() < 4 / 3 + 1e-4
    assert ratio.min() > 3 / 4 - 1e-4
    assert ratio.max() > 1.3
    for centre, extent in ((views.x, width), (views.y, height)):
        assert (centre - extent / 2 > -1e-5).all()
        assert (centre + extent / 2 < 1 + 1e-5).all()
    assert abs((np.asarray(views.width) < 0).mean() - 0.3) < 0.03
    assert 14 < np.degrees(np.abs(views.angle)).max() <= 15.001


@pytest.mark.parametrize("name", ["brightness", "contrast", "color"])
def test_tones_are_those_of_pil(name):
    frame, factors = clips((9, 12, 3)), {"brightness": 1.0, "contrast": 1.0, "color": 1.0}
    enhance = getattr(ImageEnhance, name.capitalize())(Image.fromarray(frame))
    for factor in (0.0, 0.6, 1.0, 1.7):
        tones = pixels.Tones(**{k: jnp.float32(v) for k, v in (factors | {name: factor}).items()})
        ours = pixels.toned(jnp.asarray(frame[None]), jnp.ones(1, bool), tones)[0]
        theirs = np.asarray(enhance.enhance(factor)).astype(int)
        # PIL rounds a frame's mean and every pixel's grey to whole levels, and then cuts off.
        assert np.abs(np.asarray(ours).astype(int) - theirs).max() <= 2


def test_contrast_is_about_the_mean_of_the_frames_that_count():
    frames_THWC = clips((5, 4, 6, 3), kind=np.float32)
    mask = jnp.array([True, True, False, True, False])
    tones = pixels.Tones(jnp.float32(0.9), jnp.float32(0.5), jnp.float32(1.2))
    ours = np.asarray(pixels.toned(jnp.asarray(frames_THWC), mask, tones))
    grey = frames_THWC @ np.array(pixels.GREY, np.float32)
    mean = 0.9 * grey[[0, 1, 3]].mean()
    for frame, own in zip(frames_THWC, ours, strict=True):
        bright = 0.9 * frame
        nearer = mean + 0.5 * (bright - mean)
        its_grey = (nearer @ np.array(pixels.GREY))[..., None]
        np.testing.assert_allclose(
            own, (its_grey + 1.2 * (nearer - its_grey)).clip(0, 255), atol=1e-3
        )


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_all_frames_of_a_clip_change_alike_and_clips_apart(kind):
    one = clips((6, 6, 3), kind=kind)
    batch = jnp.asarray(np.broadcast_to(one, (4, 5, *one.shape)))
    settings = Augment(flip=0.5, crop=0.5, rotation=10, brightness=0.4, contrast=0.4, color=0.4)
    mask = jnp.ones((4, 5), bool)
    out = np.asarray(augment.changed(batch, mask, settings, keys_of(4)))
    assert out.dtype == kind
    assert out.shape == batch.shape
    assert out.min() >= 0
    assert out.max() <= 255
    assert (out == out[:, :1]).all()
    assert len({each.tobytes() for each in out[:, 0]}) == 4
    again = np.asarray(augment.changed(batch[::-1], mask, settings, keys_of(4)[::-1]))[::-1]
    assert np.array_equal(out, again)  # wherever a clip stands in its batch


def test_one_change_draws_the_same_beside_others():
    batch, mask = jnp.asarray(clips((8, 2, 5, 6, 3))), jnp.ones((8, 2), bool)
    alone = augment.changed(batch, mask, Augment(flip=0.5), keys_of(8))
    mirrored = [not np.array_equal(a, b) for a, b in zip(alone, batch, strict=True)]
    assert 0 < sum(mirrored) < 8
    draws = jax.vmap(pixels.drawn)(keys_of(8))
    with_crop = jax.vmap(lambda each: pixels.drawn_view(Augment(flip=0.5, crop=0.4), each))(draws)
    assert mirrored == (np.asarray(with_crop.width) < 0).tolist()


# ------------------------------------------------------------------ frames in time


def literal_places(length, L, rule, start, pace):
    """Where frames are seen, one after another, and which of them count."""
    speed = 256 if pace.speed is None else int(pace.speed)
    last, placed, counted = max(length, 1) - 1, [], []
    if rule == "whole":
        while L * speed < length * 256:
            speed += 1
    elif rule == "segment" and L > 1:
        # Not past the end, except as far as a clip too short for any segment has to be continued.
        while speed > 256 and (L - 1) * speed > last * 256:
            speed -= 1
    span = max(1, length * min(speed, 256) // 256)
    for j in range(L):
        if rule == "uniform":
            placed.append(start + (2 * j + 1) * span // (2 * L))
        else:
            placed.append(start + j * speed // 256)
        counted.append(length > 0 and (rule != "whole" or placed[-1] < length))
    bound = max(last, (L - 1) * speed // 256) if rule == "segment" else last
    for j in range(L):
        if pace.shift_L is not None:
            placed[j] = min(max(placed[j] + int(pace.shift_L[j]), 0), bound)
            placed[j] = max(placed[j], placed[j - 1] if j else 0)
    if pace.lost_L is not None:
        for j in range(1, L):
            if pace.lost_L[j]:
                placed[j] = placed[j - 1]
    return [min(place, bound) for place in placed], counted


def spare_of(length, L, rule, pace):
    """How many places a stretch may begin at, less one."""
    speed = 256 if pace.speed is None else int(pace.speed)
    if rule == "whole":
        return 0
    if rule == "uniform":
        return length - max(1, length * min(speed, 256) // 256)
    while speed > 256 and L > 1 and (L - 1) * speed > (length - 1) * 256:
        speed -= 1
    return max(0, length - 1 - (L - 1) * speed // 256)


@pytest.mark.parametrize("rule", ["segment", "uniform", "whole"])
def test_frames_at_a_pace_are_those_of_a_literal_loop(rule):
    rng = np.random.default_rng(7)
    program = jax.jit(time.places, static_argnums=(1, 2))
    for trial in range(60):
        L = (1, 5, 9)[trial % 3]
        length = int(rng.integers(1, L + 1 if rule == "whole" else 25))
        pace = time.Pace(
            jnp.int32(rng.integers(128, 512)) if trial % 2 else None,
            jnp.asarray(rng.integers(-2, 3, L)) if trial % 3 else None,
            jnp.asarray(rng.random(L) < 0.4) if trial % 5 else None,
        )
        key = jax.random.key(trial)
        place_L, mask_L = program(jnp.int32(length), L, rule, key, pace)
        if rule == "whole":
            start = 0
        else:
            start = int(jax.random.randint(key, (), 0, spare_of(length, L, rule, pace) + 1))
        placed, counted = literal_places(length, L, rule, start, pace)
        assert place_L.tolist() == placed, (length, L, pace)
        assert mask_L.tolist() == counted


@pytest.mark.parametrize("rule", ["segment", "uniform", "whole"])
def test_time_never_turns_back_and_no_frame_is_beyond_the_end(rule):
    settings = Augment(speed=0.8, jitter=2, drop=0.3)

    @jax.jit
    def chosen(key, length):
        return frames.indices(length, 8, rule, key=key, pace=time.drawn(settings, key, 8))

    seen = []
    for clip, key in enumerate(keys_of(80)):
        length = 8 if rule == "whole" else 8 + clip % 20
        index_L, mask_L = chosen(key, length)
        index_L = np.asarray(index_L)[np.asarray(mask_L)]
        assert (np.diff(index_L) >= 0).all()
        assert index_L.min() >= 0
        assert index_L.max() < length
        seen.append(tuple(index_L))
    assert len(set(seen)) > 60


def test_a_pace_of_nothing_is_what_is_seen_without_one():
    for length in range(1, 15):
        key = jax.random.key(length)
        for rule in ("segment", "whole"):
            L = 14 if rule == "whole" else 6
            plain = frames.indices(length, L, rule, key=key)
            paced = frames.indices(length, L, rule, key=key, pace=time.Pace())
            assert all(map(np.array_equal, plain, paced))


# ------------------------------------------------------------------ features


@pytest.mark.parametrize("shape", [(7, 4), (7, 2, 3, 5)])
def test_noise_is_a_share_of_the_deviation_of_what_counts(shape):
    x = np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)
    x[5:] = 1e6  # padding, which must not count
    mask = np.arange(7) < 5
    key = keys_of(1)[0]
    noise = np.asarray(features.noisy(jnp.asarray(x), jnp.asarray(mask), key, 0.25)) - x
    unit = np.asarray(features.noisy(jnp.zeros(shape), jnp.asarray(mask), key, 0.25))
    assert not unit.any()  # a clip without deviation has none to share
    drawn = np.asarray(jax.random.normal(jax.random.fold_in(key, 1), shape))
    np.testing.assert_allclose(noise[:5], 0.25 * x[:5].std() * drawn[:5], rtol=1e-4, atol=1e-5)


def test_a_hidden_stretch_is_the_mean_of_what_counts():
    rng, lengths = np.random.default_rng(0), []
    program = jax.jit(features.hidden, static_argnums=3)
    for clip in range(100):
        count = int(rng.integers(1, 12))
        x = rng.normal(size=(12, 3)).astype(np.float32)
        mask = np.arange(12) < count
        key = augment.keys_of(0, 0, jnp.array([clip]))[0]
        out = np.asarray(program(x, mask, key, 0.5))
        changed = np.flatnonzero((out != x).any(1))
        assert len(changed) <= count // 2
        assert (changed < count).all()
        assert (np.diff(changed) == 1).all()
        if count > 1:
            np.testing.assert_allclose(
                out[changed], np.tile(x[:count].mean(0), (len(changed), 1)), atol=1e-6
            )
            lengths.append(len(changed) / (count // 2))
    assert set(np.round(lengths, 1)) >= {0.0, 0.5, 1.0}


# ------------------------------------------------------------------ mixtures


def test_partners_are_one_round_whatever_the_order_of_the_batch():
    for count, padded in ((1, 0), (2, 1), (7, 0), (6, 3)):
        clip = np.arange(count + padded)
        valid = clip < count
        key_B = keys_of(count + padded)
        place = np.asarray(mixing.partners(jnp.asarray(valid), key_B))
        assert (place[count:] == clip[count:]).all()
        walked, at = [], 0
        for _ in range(count):
            walked.append(at)
            at = int(place[at])
        assert at == 0
        assert sorted(walked) == list(range(count))
        order = np.random.default_rng(count).permutation(len(clip))
        moved = np.asarray(mixing.partners(jnp.asarray(valid[order]), key_B[order]))
        assert {(a, order[b]) for a, b in zip(order, moved, strict=True)} == set(enumerate(place))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_mixtures_are_sums_where_both_clips_have_frames(kind):
    a, b = clips((3, 4, 5), 0, kind), clips((3, 4, 5), 1, kind)
    share = np.array([0.5, 0.8, 1.0], np.float32)
    counted = np.arange(4) < np.array([4, 2, 3])[:, None]
    out = np.asarray(mixing.mixed(*map(jnp.asarray, (a, b, counted, share))))
    assert out.dtype == kind
    for clip in range(3):
        for t in range(4):
            sums = share[clip] * a[clip, t] + (1 - share[clip]) * b[clip, t].astype(float)
            expected = sums if counted[clip, t] else a[clip, t]
            np.testing.assert_allclose(
                out[clip, t], expected, atol=0.51 if kind == np.uint8 else 1e-4
            )


def test_shares_are_the_larger_part_of_a_beta_variable():
    share = np.asarray(mixing.shares(0.4, keys_of(4000)))
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 40_000)
    larger = np.maximum(drawn, 1 - drawn)
    assert share.min() >= 0.5
    assert share.max() <= 1
    np.testing.assert_allclose(
        np.quantile(share, [0.1, 0.5, 0.9]), np.quantile(larger, [0.1, 0.5, 0.9]), atol=0.03
    )


# ------------------------------------------------------------------ what is refused


def settings(**changes):
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return override(Config(), named)


def test_a_flip_is_refused_for_classes_that_it_exchanges():
    cfg = settings(encoder__trainable="all", augment__flip=0.5)
    for names, found in (
        (("walk", "turn_left"), "turn_left"),
        (("SwipeRight", "SwipeUp"), "SwipeRight"),
        (("leftwards", "x"), "leftwards"),
        (("clockwise", "x"), "clockwise"),
    ):
        with pytest.raises(UserError, match=rf"augment.flip = 0.5 .* of {found} would"):
            flips.check(cfg, names)
    flips.check(cfg, ("bright", "copyrighted", "cleft", "Up"))
    flips.check(override(cfg, {"augment.flip_exchanges": ("none",)}), ("left", "right"))
    flips.check(override(cfg, {"augment.flip": 0.0}), ("left", "right"))
    listed = override(cfg, {"augment.flip_exchanges": ("wave",)})
    with pytest.raises(UserError, match="of wave would"):
        flips.check(listed, ("wave", "left"))
    with pytest.raises(UserError, match=r"no class is 'wave'.*'waves'"):
        flips.check(listed, ("waves", "left"))
    flips.check(override(listed, {"data.classes": ("left",)}), ("left",))


@pytest.mark.parametrize(
    ("name", "value"), [("flip", 0.5), ("crop", 0.5), ("color", 0.1), ("rotation", 9.0)]
)
def test_pixels_of_a_frozen_encoder_are_refused(name, value):
    with pytest.raises(
        UserError, match=rf"augment.{name} = {value:g} .*encoder.trainable = 'none'"
    ):
        settings(**{f"augment__{name}": value})
    with pytest.raises(UserError, match=r"data.kind = 'features' has no pixels"):
        settings(data__kind="features", **{f"augment__{name}": value})
    trained = settings(encoder__trainable="all", **{f"augment__{name}": value})
    frozen = override(trained, {"encoder.trainable": "none"})
    assert frozen.augment == Augment()  # it follows


def test_features_are_not_changed_where_an_encoder_trains():
    for name in ("noise", "time_mask"):
        with pytest.raises(UserError, match=f"augment.{name} = 0.1 changes features"):
            settings(encoder__trainable="all", **{f"augment__{name}": 0.1})
        assert getattr(settings(**{f"augment__{name}": 0.1}).augment, name) == 0.1


def test_pictures_have_no_time_and_not_every_frame_is_lost():
    for name in ("speed", "jitter", "drop"):
        with pytest.raises(UserError, match="'images' has one a clip"):
            settings(data__kind="images", **{f"augment__{name}": 0.5 if name != "jitter" else 1})
    with pytest.raises(UserError, match="should be below 1"):
        settings(augment__drop=1.0)
