"""What is exported gives the original's answers where none of this package is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from helpers import trained_runs
from helpers.trained_runs import random_model

from vidrec.data import frames
from vidrec.errors import UserError
from vidrec.evaluation import export
from vidrec.evaluation.export import loader
from vidrec.evaluation.predict import Classifier
from vidrec.io import files
from vidrec.io.files import atomic

# Small, and together all that a program may hold.
MODELS = {
    "both directions": {
        "scanner.bidirectional": "concat",
        "scanner.layers": 2,
        "scanner.batch_norm": True,
        "encoder.pca": 4,
    },
    "maps": {"scanner.kind": "convlstm", "encoder.pooling": "map", "scanner.units": 3},
    "every step": {"scanner.kind": "gru", "head.kind": "per_frame", "encoder.pooling": "flatten"},
    "mean": {"scanner.kind": "mean", "head.kind": "mean", "encoder.store_dtype": "bfloat16"},
    "flattened": {"head.kind": "flatten", "scanner.units": 3},
    "features": {"data.kind": "features", "encoder.kind": "none"},
}
FIXED = ("flattened",)
# Runs in a process of its own: what it may not import does not exist there.
SCRIPT = """
import sys
for name in ("flax", "optax", "orbax", "vidrec", "safetensors", "av", "tyro", "PIL"):
    sys.modules[name] = None
import importlib.util, json, pathlib
import numpy as np
for folder in map(pathlib.Path, sys.argv[1:]):
    spec = importlib.util.spec_from_file_location("loader", folder / "loader.py")
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    model = loader.load()
    asked = np.load(folder / "asked.npz")
    answers = {name: model(asked[name]) for name in asked.files}
    np.savez(folder / "answers.npz", **answers)
print(json.dumps(sorted(name for name in sys.modules if sys.modules[name])))
"""


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    return trained_runs.made(tmp_path_factory)


def questions(model, name):
    """Batches of clips of unlike sizes and lengths."""
    rng = np.random.default_rng(3)
    shapes = [(1, 8), (3, 8)] if name in FIXED else [(1, 8), (3, 8), (2, 1), (2, 13)]
    if model.network.takes_features:
        return {f"{b}x{t}": rng.normal(size=(b, t, 7)).astype(np.float32) for b, t in shapes}
    return {f"{b}x{t}": rng.integers(0, 255, (b, t, 32, 32, 3), np.uint8) for b, t in shapes}


def original(model, clips):
    """Through the model as it was trained: encoded, then scored as a batch."""
    inputs = np.stack([model.encode(clip) for clip in clips])
    mask_BT = np.ones(inputs.shape[:2], bool)
    scores_BK, weight_B = model.network.score(model.network.variables, inputs, mask_BT)
    return np.asarray(jax.nn.softmax(scores_BK / weight_B[:, None]))


@pytest.mark.slow
def test_exports_answer_as_the_originals_do_without_this_package(runs, tmp_path):
    models = {name: random_model(settings) for name, settings in MODELS.items()}
    models["trained"] = Classifier.load(runs["trained"])
    asked = {name: questions(model, name) for name, model in models.items()}
    for name, model in models.items():
        export.export(model, tmp_path / name)
        np.savez(tmp_path / name / "asked.npz", **asked[name])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": _path_of("flatbuffers")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *(str(tmp_path / name) for name in models)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = json.loads(done.stdout.splitlines()[-1])
    assert not [each for each in imported if each.split(".")[0] in ("flax", "vidrec", "optax")]
    for name, model in models.items():
        answers = np.load(tmp_path / name / "answers.npz")
        assert set(answers.files) == set(asked[name])
        for case in answers.files:
            truth = original(model, asked[name][case])
            np.testing.assert_allclose(answers[case], truth, atol=1e-5, err_msg=f"{name} {case}")
            assert np.ptp(truth) > 1e-3  # an answer, not an even spread


def _path_of(package):
    """Where a package lies, which may be outside of the interpreter's own folders."""
    return str(Path(__import__(package).__file__).parent.parent)


def test_the_example_runs_in_the_exports_own_folder(runs, tmp_path):
    out = tmp_path / "out"
    export.export(runs["single"], out)
    video_THWC = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
    np.save(out / "video.npy", video_THWC)
    script = "import numpy as np\nvideo_THWC = np.load('video.npy')\n" + export.EXAMPLE
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": _path_of("flatbuffers")},
        cwd=out,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = Classifier.load(runs["single"]).predict(video_THWC)
    assert done.stdout.split() == [answer.label]
    about = json.loads((out / "meta.json").read_text())
    assert about["classes"] == ["left", "right"]
    assert about["input"]["frame"] == [32, 32, 3]
    assert about["frames"] == {"length": 8, "rule": "segment", "fixed": False, "fps": None}
    assert about["platforms"] == ["cpu", "cuda"]


def test_the_loader_reads_weights_as_they_were_written(tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 5)) * 100
    kinds = [np.float32, np.float16, np.float64, np.int32, np.int64, np.uint8, np.bool_]
    arrays = {np.dtype(kind).name: np.abs(values).astype(kind) for kind in kinds}
    arrays |= {"scalar": np.array(2.5, np.float32), "empty": np.zeros((0, 4), np.float32)}
    save_file(arrays, tmp_path / "weights.safetensors", {"made": "by a test"})
    found = loader.parse_weights((tmp_path / "weights.safetensors").read_bytes())
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    # NumPy's writer knows no bfloat16: its bits are put into a file by hand.
    half = values.astype(ml_dtypes.bfloat16)
    head = json.dumps({"x": {"dtype": "BF16", "shape": [3, 5], "data_offsets": [0, 30]}}).encode()
    (tmp_path / "half").write_bytes(len(head).to_bytes(8, "little") + head + half.tobytes())
    np.testing.assert_array_equal(loader.parse_weights((tmp_path / "half").read_bytes())["x"], half)


@pytest.mark.parametrize("rule", ["segment", "segment_mean_length", "uniform", "whole"])
def test_the_loader_picks_the_frames_that_scoring_sees(rule):
    indices = jax.jit(frames.indices, static_argnums=(1, 2))
    for length in (1, 7, 16):
        meta = {"classes": [], "frames": {"rule": rule, "length": length}}
        model = loader.Model(type("Program", (), {"call": len}), {}, meta)
        for n in range(1, 40):
            index_L, mask_L = indices(n, length, rule)
            expected = np.asarray(index_L)[np.asarray(mask_L)]
            np.testing.assert_array_equal(model.pick(np.arange(n)), expected)


def test_wrong_frames_are_refused_by_the_loader(runs, tmp_path):
    export.export(runs["single"], tmp_path / "out")
    model = loader.load(tmp_path / "out")
    for wrong in (np.zeros((1, 8, 32, 32, 3), np.float32), np.zeros((1, 8, 16, 32, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"frames should be uint8 \(B, T, 32, 32, 3\)"):
            model(wrong)


def test_an_export_replaces_an_export_and_nothing_else(runs, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        export.export(runs["single"], tmp_path / "thesis")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        export.export(runs["single"], tmp_path / "file")
    with pytest.raises(UserError, match="holds no trained model"):
        export.export(tmp_path, tmp_path / "out")


def test_a_model_of_whole_clips_says_so(tmp_path):
    about = export.export(random_model(MODELS["flattened"]), tmp_path / "out")
    assert about["frames"]["fixed"] is True
    assert about["frames"]["length"] == 8


class Killed(BaseException):
    """In place of a kill: nothing that this process would tidy up counts."""


def test_an_export_that_is_stopped_anywhere_leaves_the_older_one(tmp_path, monkeypatch):
    old, new = (random_model(MODELS[name]) for name in ("mean", "features"))
    out = tmp_path / "out"
    export.export(old, out)
    (out / "README").write_text("a user's own")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    write = files.write_whole
    for stop in range(5):
        calls = iter(range(10))

        def stopping(*arguments, stop=stop, calls=calls, **named):
            if next(calls) == stop:
                raise Killed
            return write(*arguments, **named)

        for module in (files, atomic):  # what an export calls, and what `write_json` calls
            monkeypatch.setattr(module, "write_whole", stopping)
        with pytest.raises(Killed):
            export.export(new, out)
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    monkeypatch.undo()
    export.export(new, out)
    assert loader.load(out).meta["input"]["dtype"] == "float32"
    assert (out / "README").read_text() == "a user's own"


def test_a_half_export_of_a_killed_process_may_be_repeated(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.stablehlo").write_bytes(b"half")
    (out / ".vidrec-0123456789abcdef.partial").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"no complete export: .*checksums\.json is missing"):
        loader.load(out)
    export.export(random_model(MODELS["features"]), out)
    loader.load(out)
    assert sorted(file.name for file in out.iterdir()) == sorted(export.FILES)


def test_the_loader_finds_every_change(tmp_path):
    export.export(random_model(MODELS["features"]), tmp_path)
    rng, named = np.random.default_rng(0), []
    for name in ("model.stablehlo", "weights.safetensors", "meta.json", "checksums.json"):
        whole = (tmp_path / name).read_bytes()
        damages = [whole[: len(whole) // 2], b"", b"[" * 100_000]
        for place in rng.integers(0, len(whole), 20):
            changed = bytearray(whole)
            changed[place] ^= 1
            damages.append(bytes(changed))
        for damaged in damages:
            (tmp_path / name).write_bytes(damaged)
            try:
                model = loader.load(tmp_path)
            except ValueError as error:
                named.append(str(tmp_path) in str(error))
                continue
            # Blanks between the checksums, or that of the loader, which it does not check.
            assert name == "checksums.json"
            assert model.classes == ["class 0", "class 1", "class 2"]
        (tmp_path / name).write_bytes(whole)
    assert all(named)
    assert len(named) > 70


def test_an_export_may_be_read_by_others_as_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        export.export(random_model(MODELS["features"]), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "out").iterdir()}
    assert modes == dict.fromkeys(export.FILES, 0o644)


def test_a_place_that_cannot_be_written_is_found_out_before_the_work(monkeypatch):
    monkeypatch.setattr(export, "_serialised", lambda *_: pytest.fail("the work was begun"))
    with pytest.raises(UserError, match="cannot write /proc/out"):
        export.export(random_model(MODELS["features"]), "/proc/out")
