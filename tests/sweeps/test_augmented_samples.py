"""What the report shows of augmentation: clips before and after, as training saw them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import result_folders
from helpers.pages import Page
from helpers.small_datasets import pixels, prepared, settings

from vidrec import report
from vidrec.config import override
from vidrec.errors import UserError
from vidrec.sweeps import augmented
from vidrec.training import batches, feeds
from vidrec.training.batches import Clips, Sampling

CHANGED = {
    "encoder.kind": "cnn3",
    "encoder.size": 8,
    "encoder.trainable": "all",
    "augment.crop": 0.5,
    "augment.rotation": 10.0,
    "augment.speed": 0.5,
    "augment.color": 0.5,
}


def test_what_is_shown_is_what_the_first_epoch_trains_on():
    cfg = override(settings(frames__length=8), CHANGED)
    data = prepared(cfg, pixels(lengths=(5, 30)))
    trial = SimpleNamespace(config=cfg)
    seen = augmented.shown([SimpleNamespace(config=settings()), trial], data, 8)
    index_of = {name: i for i, name in enumerate(data.dataset.names)}
    clips = jnp.array([index_of[name] for name in seen["clips"]])
    assert len(clips) == min(augmented.CLIPS, len(data.clips("train")))
    assert set(np.asarray(clips).tolist()) <= set(data.clips("train").tolist())
    resident = jax.tree.map(jnp.asarray, feeds.resident(data))
    for name, epoch in (("before", None), ("after", 0)):
        every = Clips(clips, jnp.ones(len(clips), bool))
        batch = batches.gather(resident, every, Sampling(cfg, 8, cfg.seed, epoch))
        difference = np.abs(np.asarray(batch.inputs).astype(int) - seen[name])
        assert difference.max() <= 1, name  # a value in the middle may be rounded either way


def test_nothing_is_shown_where_nothing_can_be_seen():
    unseen = SimpleNamespace(config=settings(augment__noise=0.3, augment__mixup=0.2))
    train = SimpleNamespace(clips=lambda part: np.arange(3))
    assert augmented.shown([unseen], train, 8) == {}


def test_the_report_shows_rows_before_and_after(tmp_path):
    folder = result_folders.run(tmp_path, samples=4)
    report.build(folder)
    assert "Augmented clips" not in (folder / "report.html").read_text()
    saved = dict(np.load(folder / "samples.npz"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 20, 3), np.uint8)
    more = {"before": frames, "after": frames[:, ::-1], "clips": np.array(["<a>.mp4", "b.mp4"])}
    np.savez(folder / "samples.npz", **saved, **more)
    page = Page(report.build(folder))
    pictures = [attrs for tag, attrs in page.tags if tag == "img" and "augmented" in attrs["alt"]]
    assert [each["alt"].split(" of ")[1].split(",")[0] for each in pictures] == ["<a>.mp4", "b.mp4"]
    assert {each["height"] for each in pictures} == {"34"}  # two rows and the edge between them
    np.savez(folder / "samples.npz", **saved, **(more | {"after": frames[:1]}))
    with pytest.raises(UserError, match="its augmented frames do not fit"):
        report.build(folder)
