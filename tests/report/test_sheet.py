"""The page with frames of each clip: every clip is there, by class, and bad ones are named."""

import base64
import io
import re

import numpy as np
import pytest
from helpers.pages import Page
from helpers.small_datasets import features
from helpers.video_files import clip
from PIL import Image

from vidrec.cli import main
from vidrec.config import Data
from vidrec.data import datasets
from vidrec.errors import UserError
from vidrec.report import sheet


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "v"
    for kind, recording in (("run", 1), ("run", 2), ("walk", 3)):
        (root / kind).mkdir(parents=True, exist_ok=True)
        clip(f"v_g{recording:02}_c01.mp4", 4 + recording)(root / kind)
    (root / "walk" / "v_g04_c01.mp4").write_bytes(b"none")
    return root


def test_each_clip_is_shown_with_three_frames(folder, tmp_path):
    dataset = datasets.load(Data(kind="videos", root=str(folder)))
    told = []
    page = Page(sheet.write(dataset, tmp_path / "clips.html", lambda *at: told.append(at)))
    assert told == [(i, 4) for i in range(1, 5)]
    assert "run (2 clips)" in page.text
    assert "walk/v_g04_c01.mp4 cannot be read: " in page.text
    assert "figures/" not in page.text
    shown = {image["alt"]: image["src"] for image in page.all("img")}
    names = ["run/v_g01_c01.mp4", "run/v_g02_c01.mp4", "walk/v_g03_c01.mp4"]
    assert list(shown) == [f"3 frames of {name}" for name in names]
    for name, address in zip(names, shown.values(), strict=True):
        assert f"{name}, recording {re.search('v_g0[0-9]', name)[0]}" in page.text
        data = base64.b64decode(address.partition(",")[2])
        picture = np.asarray(Image.open(io.BytesIO(data)), np.float32)
        at = dataset.names.index(name)
        frames = dataset.read(at, [0, (dataset.lengths[at] - 1) // 2, dataset.lengths[at] - 1], 224)
        for place in range(3):
            left = place * (224 + 2)  # a line of two pixels stands between frames
            drawn = picture[:, left : left + 224]
            apart = [np.abs(drawn - frame).mean() for frame in frames]
            assert np.argmin(apart) == place
            assert apart[place] < 6  # JPEG


def test_features_have_no_pictures(tmp_path):
    with pytest.raises(UserError, match=r"--sheet: .* holds features, not frames"):
        sheet.write(features(), tmp_path / "clips.html")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_it_and_says_so(folder, tmp_path, capsys):
    words = ["doctor", "my_videos", "--data.root", str(folder), "--sheet"]
    with pytest.raises(SystemExit) as left:
        main.main([*words, str(tmp_path / "none" / "clips.html")])
    assert "--sheet" in str(left.value) + capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main([*words, str(tmp_path / "clips.html")])
    assert f"frames of each clip: {tmp_path / 'clips.html'}" in capsys.readouterr().out
    assert "v_g03_c01.mp4" in (tmp_path / "clips.html").read_text(encoding="utf-8")
