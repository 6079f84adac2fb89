"""A run of labelled frames from end to end: a published folder, predictions, streams, figures."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

import vidrec
from tests.helpers.label_folders import gtea_like
from vidrec import UserError
from vidrec.config import override
from vidrec.data.datasets import framewise as frame_data
from vidrec.data.datasets.frame_labels import LabelRules
from vidrec.evaluation import predict, presentation
from vidrec.evaluation.predict import drawing, framewise
from vidrec.report.run import read_run
from vidrec.training import prepare

FOLDER = {
    "data.kind": "features",
    "data.split": "given",
    "data.fold": 2,
    "encoder.pca": 0,
    "scanner.units": 8,
    "scanner.dropout": 0.0,
    "train.epochs": 3,
    "train.batch_size": 4,
}


def settings(root, **more):
    base = vidrec.load("experiments/segments.py")
    return override(base, FOLDER | {"data.root": str(root)} | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("gtea")
    gtea_like(root)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    return vidrec.train(settings(folder), tmp_path_factory.mktemp("runs"))


def test_a_published_folder_trains_as_it_comes(trained):
    assert trained["task"] == "segmentation"
    assert trained["counts"]["test"]["scored"] == 2
    figures = trained["metrics"]["test"]
    assert 0 < figures["frame_accuracy"] <= 1
    assert set(figures["class_f1_50"]) == {"background", "take", "open", "pour"}
    assert figures["class_f1_50"]["background"] is None


def test_evaluation_gives_the_figures_of_training(trained, folder):
    again = predict.score(trained["dir"])
    found, expected = (dict(each["metrics"]["test"]) for each in (again, trained))
    assert found.pop("objective") == pytest.approx(expected.pop("objective"), rel=1e-5)
    assert found == expected
    # Clips that are longer than all in training are scored whole, too.
    other = folder.parent / "longer"
    truth = gtea_like(other, frames=(90, 120))
    longer = predict.score(trained["dir"], {"data.root": str(other)}, part="all")
    assert longer["metrics"]["all"]["frames"] == sum(map(len, truth.values()))


def test_predicted_segments_are_read_back_as_labels(trained, folder, tmp_path):
    model = vidrec.Classifier.load(trained["dir"])
    file = folder / "features" / "S2_Cheese_C1.npy"
    lines = list(predict.lines(model, [file]))
    text = io.StringIO()
    predict.write_csv(lines, text, model.network.task)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert [row["label"] for row in rows] == [line["class"] for line in lines[:-1]]
    np.save(tmp_path / file.name, np.load(file).T)
    named = text.getvalue().replace(str(file), file.name)
    (tmp_path / "segments.csv").write_text(named)
    data = override(settings(tmp_path), {"data.fold": 0, "data.split": "group"}).data
    dataset = frame_data.load(data, LabelRules())
    again = dataset.frame_labels[0].frames(np.load(file).shape[1])
    said = framewise._probabilities(model, model.open(file)).argmax(-1)
    assert [dataset.classes[k] for k in again] == [model.classes[k] for k in said]
    assert dataset.classes == tuple(sorted({model.classes[k] for k in said}))


def test_the_page_shows_truth_beside_prediction(trained):
    page = Path(trained["dir"], "report.html").read_text()
    assert '<section id="timelines">' in page
    assert "Confusions of frames" in page
    assert "number of frames, " in page
    drawing_of = Path(trained["dir"], "figures", "timelines.svg").read_text()
    run = read_run(Path(trained["dir"]))
    lines = run.task.timelines(run.part(), 8)
    shown = {run.predictions().names_B[line.clip] for line in lines.shown}
    assert all(name in drawing_of for name in shown)
    true, predicted = lines.shown[0].true, lines.shown[0].predicted
    used = {int(label) for labels in (true[0], predicted[0]) for label in labels}
    for label in used - lines.background:
        assert "#{:02x}{:02x}{:02x}".format(*presentation.colour(label)) in drawing_of


def whole(model, inputs):
    """Probabilities of all frames from one call."""
    network = model.network
    mask = np.ones((1, len(inputs)), bool)
    return np.asarray(network.label(network.variables, inputs[None], mask)[1])[0]


def test_streams_and_chunks_label_frames_as_the_whole_clip(trained):
    model = vidrec.Classifier.load(trained["dir"])
    clip = np.random.default_rng(0).standard_normal((150, 6)).astype("f4")
    expected = whole(model, model.encode(clip))
    chunks = framewise._probabilities(model, model.open(clip))
    stream = model.stream()
    streamed = np.stack([stream.push(frame) for frame in clip])
    np.testing.assert_allclose(chunks, expected, atol=2e-6)
    np.testing.assert_allclose(streamed, expected, atol=2e-6)
    np.testing.assert_array_equal(streamed.argmax(-1), expected.argmax(-1))
    answer = model.predict(clip)
    spans = [(window.frames, window.label) for window in answer.windows]
    labels = np.concatenate([[label] * (end - start) for (start, end), label in spans])
    assert labels.tolist() == [model.classes[k] for k in expected.argmax(-1)]
    with pytest.raises(UserError, match="segments of labelled frames have no windows"):
        model.predict(clip, every=1.0)


def test_both_directions_label_a_file_and_refuse_a_stream(folder, tmp_path):
    cfg = settings(folder, **{"scanner.bidirectional": "concat", "train.epochs": 1})
    model = vidrec.Classifier.load(vidrec.train(cfg, tmp_path)["dir"])
    clip = np.random.default_rng(1).standard_normal((70, 6)).astype("f4")
    found = framewise._probabilities(model, model.open(clip))
    np.testing.assert_allclose(found, whole(model, model.encode(clip)), atol=2e-6)
    with pytest.raises(UserError, match=r"this model cannot stream|which a stream has not seen"):
        model.stream()


def test_labels_are_part_of_an_id(folder, tmp_path):
    root = tmp_path / "copy"
    gtea_like(root)
    before = prepare.data_fingerprint(settings(root))
    assert before == prepare.data_fingerprint(settings(folder))
    file = root / "groundTruth" / "S1_Cheese_C1.txt"
    lines = file.read_text().splitlines()
    lines[0] = "pour" if lines[0] != "pour" else "take"
    file.write_text("\n".join(lines))
    assert prepare.data_fingerprint(settings(root)) != before
    ignored = settings(root, **{"task.ignore": ("take",)})
    assert prepare.data_fingerprint(ignored) != prepare.data_fingerprint(settings(root))


def test_an_export_of_labels_of_frames_is_refused(trained, tmp_path):
    from vidrec.evaluation.export import export

    with pytest.raises(UserError, match=r"labels frames: use vidrec predict, or Classifier.stream"):
        export(trained["dir"], tmp_path / "out")


def test_a_line_of_time_shows_segments_where_they_are():
    along = [
        {"start": 0.0, "end": 1.0, "class": "a"},
        {"start": 1.0, "end": 4.0, "class": "b"},
    ]
    line = drawing.timeline(along, ("a", "b"), 400, now=2.0)
    assert line.shape == (drawing.LINE, 400, 3)
    assert tuple(line[0, 50]) == presentation.colour(0)
    assert tuple(line[0, 300]) == presentation.colour(1) != presentation.colour(0)
    assert (line[:, 199:201] == 255).all()
    known = drawing.timeline(along, ("a", "b"), 400, now=0.5, known=0)
    assert tuple(known[0, 300]) == drawing.TRACK
