"""Reports from folders alone: figures checked against the saved scores by plain means."""

import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers import result_folders
from helpers.events import scalars
from helpers.pages import Page

from vidrec import report
from vidrec.errors import UserError
from vidrec.evaluation import statistics
from vidrec.report import figures, forest, formats, numbers, tables, wording
from vidrec.report.page import _scored_table
from vidrec.report.results import read
from vidrec.report.table_model import as_csv, as_markdown


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Finished folders of every kind, each with its report."""
    root = tmp_path_factory.mktemp("results")
    made = {
        "run": result_folders.run(root / "run", steps=12),
        "leaked": result_folders.run(root / "leaked", leaked=True, skill=3.4, row="gru", seed=1),
        "scanners": result_folders.ablation(root / "scanners", missing=(("lstm", 2),)),
        "rates": result_folders.doubtful(root / "rates"),
    }
    for folder in made.values():
        report.build(folder)
    made["compared"] = report.compare(made["run"], made["leaked"], root / "compared").parent
    return made


@pytest.fixture(params=["run", "leaked", "scanners", "rates", "compared"])
def page(request, folders):
    return Page(folders[request.param] / "report.html")


def loads(page: Page) -> list[str]:
    """Every address that the page would fetch by being opened."""
    found = [a[k] for _, a in page.tags for k in ("src", "srcset", "data", "poster") if k in a]
    found += [a["href"] for name in ("link", "image", "use") for a in page.all(name) if "href" in a]
    found += [a.get("xlink:href", "") for _, a in page.tags if "xlink:href" in a]
    found += re.findall(r"url\(\s*['\"]?([^'\")]+)", page.source)
    return found + re.findall(r"@import\s+['\"]?([^'\";]+)", page.source)


def test_page_asks_nothing_of_another_host(page):
    addresses = loads(page)
    assert all(a.startswith(("data:", "#")) for a in addresses), addresses
    assert not page.all("script")


def test_page_is_read_by_all(page):
    assert all(a.get("alt") for a in page.all("img"))
    drawings = [a for a in page.all("svg") if "aria-hidden" not in a]
    assert drawings
    assert all(a.get("role") == "img" and a.get("aria-label") for a in drawings)
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert page.all("html")[0]["lang"]
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_every_row_of_a_table_has_a_cell_in_each_column(page):
    for table in re.findall(r"<table.*?</table>", page.source, re.DOTALL):
        head, *rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
        columns = len(re.findall(r"<th ", head))
        assert rows
        assert {len(re.findall(r"<t[hd][ >]", row)) for row in rows} == {columns}


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    wanted |= {a["xlink:href"][1:] for a in page.all("use") if "xlink:href" in a}
    assert wanted <= set(ids)


def test_a_line_of_numbers_for_each_row_with_its_intervals(folders):
    with (folders["scanners"] / "summary.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    results = report.read(folders["scanners"])
    assert [line["setting"] for line in lines] == [row.name for row in results.rows]
    assert [line["control"] for line in lines] == [str(r is results.control) for r in results.rows]
    for row, line in zip(results.rows, lines, strict=True):
        wanted = {"test_accuracy": row.headline, "val_accuracy": row.mean("val_accuracy")}
        wanted |= {"low": row.interval.low, "high": row.interval.high, "seeds": row.seeds}
        wanted |= {name: getattr(row.interval, name) for name in ("sd_seeds", "df")}
        if gap := row.difference:
            wanted |= {"difference": gap.mean, "difference_low": gap.low, "p": gap.p}
            wanted["difference_high"] = gap.high
        assert {name: float(line[name]) for name in wanted} == pytest.approx(wanted)
        assert line["verdict"] == ("" if gap is None else tables.verdict(row))
    assert report.summary(folders["scanners"])[1]["p"] == results.rows[1].difference.p
    for row, line in zip(
        read(folders["rates"]).rows, report.summary(folders["rates"]), strict=True
    ):
        theirs = {name: line[f"published_{name}"] for name in row.published}
        assert theirs == dict(row.published)
        assert line["seeds_needed"] == (row.difference and row.difference.seeds_needed)
        assert line["optim.learning_rate"] == row.planned[0]["overrides"]["optim.learning_rate"]
        if row.published:
            why = row.another_task, ", ".join(row.doubtful)
            assert (line["another_task"], line["doubtful"]) == why


def test_an_end_of_an_interval_shows_its_side_of_zero():
    assert formats.points(-0.00012, 0.029) == "−0.01 to +2.9"
    assert formats.points(-0.2, 0.000012) == "−20.0 to +0.001"
    assert formats.points(0.0, 0.0005) == "+0.0 to +0.1"
    assert formats.points(0.0001) == "+0.0"


def test_csv_lists_planned_trials_with_exact_figures(folders):
    lines = list(csv.DictReader((folders["scanners"] / "table.csv").open(encoding="utf-8")))
    head = list(lines[0])
    assert head[:14] == [
        *("id", "row", "seed", "status", "scanner.kind", "test_accuracy", "test_avg_f1"),
        *("test_top5", "val_accuracy", "train_accuracy", "params", "epochs", "seconds_compile"),
        "seconds_train",
    ]
    plan = json.loads((folders["scanners"] / "ablation.json").read_text())["trials"]
    assert [(line["id"], line["row"], int(line["seed"])) for line in lines] == [
        (trial["id"], trial["row"], trial["seed"]) for trial in plan
    ]
    for line in lines:
        file = folders["scanners"] / "trials" / line["id"] / "result.json"
        if not file.is_file():
            assert line["status"] == "missing"
            assert line["test_accuracy"] == line["seconds_train"] == ""
            continue
        result = json.loads(file.read_text())
        assert line["status"] == result["status"]
        assert line["test_avg_f1"] == f"{result['metrics']['test']['avg_f1']:.9g}"
        assert line["test_loss"] == f"{result['metrics']['test']['loss']:.9g}"
        assert line["seconds_train"] == f"{result['seconds']['train']:.9g}"
        assert line["params"] == str(result["params"])
    assert sum(line["status"] == "missing" for line in lines) == 1


def test_csv_survives_a_round_trip(folders):
    text = (folders["rates"] / "table.csv").read_text(encoding="utf-8")
    columns, rows = report.table(folders["rates"])
    back = io.StringIO()
    writer = csv.writer(back, lineterminator="\n")
    writer.writerows(csv.reader(io.StringIO(text)))
    assert back.getvalue() == text
    for line, row in zip(csv.DictReader(io.StringIO(text)), rows, strict=True):
        for name in columns:
            if isinstance(row[name], float) and row[name] == row[name]:
                assert float(line[name]) == pytest.approx(row[name], rel=5e-9)
    assert [line["optim.learning_rate"] for line in csv.DictReader(io.StringIO(text))][-1] == "10"


def test_axis_a_row_leaves_alone_shows_its_base_value(tmp_path):
    folder = result_folders.ablation(tmp_path, seeds=1, samples=0)
    meta = json.loads((folder / "ablation.json").read_text())
    meta["trials"][0]["overrides"] = {"scanner.layers": 2}
    (folder / "ablation.json").write_text(json.dumps(meta))
    columns, rows = report.table(folder)
    assert columns[4:6] == ["scanner.kind", "scanner.layers"]
    config = json.loads((folder / "trials" / "00000001" / "config.json").read_text())
    assert rows[1]["scanner.layers"] == config["scanner"]["layers"] == 1


def test_only_times_differ_between_repetitions(tmp_path):
    texts = []
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        folder = result_folders.ablation(tmp_path / name, seeds=1, samples=0)
        for file in folder.glob("trials/*/result.json"):
            result = json.loads(file.read_text())
            result["seconds"] = {"compile": seconds, "train": seconds}
            file.write_text(json.dumps(result))
        columns, _ = report.table(folder)
        lines = list(csv.reader(io.StringIO(as_csv(numbers.trials_table(read(folder))))))
        timeless = [i for i, c in enumerate(columns) if not c.startswith("seconds_")]
        texts.append([[line[i] for i in timeless] for line in lines])
    assert texts[0] == texts[1]


def cells(markdown: str) -> list[dict[str, str]]:
    lines = [
        [cell.strip().replace("\u00a0", " ") for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_markdown_sets_ours_beside_theirs(folders):
    rows = cells((folders["rates"] / "table.md").read_text(encoding="utf-8"))
    assert [row["setting"] for row in rows][1:] == [
        "learning_rate=0.0005",
        "learning_rate=0.001",
        "learning_rate=10",
    ]
    right = [
        np.load(folders["rates"] / "trials" / f"0000000{i}" / "predictions.npz") for i in (3, 4, 5)
    ]
    accuracy = np.mean([(a["test_logits"].argmax(1) == a["test_labels"]).mean() for a in right])
    assert rows[1]["test accuracy"] == f"{100 * accuracy:.1f} %"
    correct = np.array([a["test_logits"].argmax(1) == a["test_labels"] for a in right])
    ours = statistics.accuracy_interval(correct, right[0]["test_groups"])
    shown = [f"{100 * (x - 0.6565):+.1f}" for x in (accuracy, ours.low, ours.high)]
    expected = f"{shown[0]} ({shown[1]} to {shown[2]})".replace("-", "−")
    assert rows[1]["to published, points"] == expected
    assert rows[1]["to the control (95 % interval), points"] == "control"
    assert rows[1]["seeds"] == "3"
    assert rows[0]["published test top5"] == "86.9 %"


def test_a_table_says_which_intervals_hold_less_often(folders, monkeypatch):
    found = read(folders["rates"])
    monkeypatch.setattr(tables, "COVERAGE_AS_SAID", 0.0)
    assert not any("simulated" in note for note in tables.notes(found))
    monkeypatch.setattr(tables, "COVERAGE_AS_SAID", 1.0)
    told = [note for note in tables.notes(found) if "simulated" in note]
    rows = [row for row in found.rows if row.interval is not None]
    assert rows
    for row in rows:
        (mine,) = (note for note in told if row.name in note)
        assert mine.startswith(f"With {len(row.done)} seeds")
        assert formats.percent(row.interval.worst_coverage) in mine


def test_the_table_has_the_columns_its_author_asks_for(folders, tmp_path):
    folder = shutil.copytree(folders["rates"], tmp_path / "rates")
    heads = tables.summary_table(read(folder)).columns
    assert "test top10" not in heads
    described = json.loads((folder / "ablation.json").read_text())
    described["read"] = ["test_accuracy", "test_top10"]
    (folder / "ablation.json").write_text(json.dumps(described))
    found = read(folder)
    summary = tables.summary_table(found)
    heads, body = list(summary.columns), summary.rows
    place = heads.index("test top10")
    assert {len(line) for line in body} == {len(heads)}
    assert body[1][place] == formats.percent(found.rows[1].mean("test_top10")) != "–"


def test_doubtful_figures_are_marked_and_get_no_difference(folders):
    row = cells((folders["rates"] / "table.md").read_text(encoding="utf-8"))[2]
    assert row["published"] == "95.8 % †"
    assert row["to published, points"] == "–"
    assert row["published test top5"] == "87.74 %"
    assert "doubtful" in (folders["rates"] / "table.md").read_text(encoding="utf-8")


def test_diverged_trials_are_counted_out_and_named(folders):
    rows = cells((folders["rates"] / "table.md").read_text(encoding="utf-8"))
    assert rows[2]["seeds"] == "2 of 3 (1 diverged)"
    assert rows[3]["seeds"] == "0 of 3 (3 diverged)"
    assert rows[3]["test accuracy"] == "–"
    text = Page(folders["rates"] / "report.html").text
    assert "Trials without scores" in text
    assert "diverged: the loss of epoch 2 is not finite" in text


def test_noise_is_called_noise(tmp_path):
    rows = (("a", 3.0, 10), ("b", 3.02, 10), ("c", 0.5, 10))
    folder = result_folders.ablation(tmp_path, rows=rows, control="a", samples=0)
    found = read(folder)
    assert [row.within_noise for row in found.rows] == [None, True, False]
    written = as_markdown(tables.summary_table(found))
    verdicts = [row["to the control (95 % interval), points"] for row in cells(written)]
    assert verdicts[0] == "control"
    assert verdicts[1].endswith("within noise")
    assert verdicts[2].endswith("worse")


def test_difference_is_taken_on_shared_clips_and_seeds(tmp_path):
    """A row's clips lie in another order and lack some: the difference must not notice."""
    folder = result_folders.ablation(tmp_path, samples=0)
    before = read(folder).rows[2].difference
    own = np.random.default_rng(3)
    for trial in ("00000006", "00000007", "00000008"):
        file = folder / "trials" / trial / "predictions.npz"
        arrays = dict(np.load(file))
        order = own.permutation(len(arrays["test_labels"]))
        parts = ("logits", "labels", "names", "groups")
        np.savez(file, **{f"test_{p}": arrays[f"test_{p}"][order] for p in parts})
    shuffled = read(folder).rows[2].difference
    assert (shuffled.mean, shuffled.low, shuffled.high) == pytest.approx(
        (before.mean, before.low, before.high), rel=1e-12
    )
    shutil.rmtree(folder / "trials" / "00000001")
    fewer = read(folder).rows[2].difference
    right = {}
    for trial in ("00000000", "00000002", "00000006", "00000008"):
        arrays = np.load(folder / "trials" / trial / "predictions.npz")
        right[trial] = (arrays["test_logits"].argmax(1) == arrays["test_labels"]).mean()
    plain = right["00000006"] + right["00000008"] - right["00000000"] - right["00000002"]
    assert fewer.mean == pytest.approx(plain / 2)


def test_best_row_is_chosen_on_validation(tmp_path):
    folder = result_folders.ablation(tmp_path, samples=0)
    for trial in ("00000003", "00000004", "00000005"):
        file = folder / "trials" / trial / "result.json"
        result = json.loads(file.read_text())
        result["metrics"]["val"]["accuracy"] = 0.99
        file.write_text(json.dumps(result))
    found = read(folder)
    assert found.best.name == "lstm"
    assert found.rows[2].mean("test_accuracy") > found.best.mean("test_accuracy")
    text = wording.answer(found.rows, found.control, found.best)
    assert "Best on validation: lstm (99.0\u00a0%, the next 82.7\u00a0%), " in text
    assert text.endswith(f" Highest on test: gru, {formats.percent(found.rows[2].headline)}.")


def test_rows_as_high_on_validation_as_the_best_are_named(tmp_path):
    folder = result_folders.ablation(tmp_path, samples=0)
    for file in folder.glob("trials/*/result.json"):
        result = json.loads(file.read_text())
        result["metrics"]["val"]["accuracy"] = 0.5 if result["row"] == 0 else 0.75
        file.write_text(json.dumps(result))
    found = read(folder)
    others = [row.name for row in found.rows[1:] if row is not found.best]
    text = wording.answer(found.rows, found.control, found.best)
    said = f"{found.best.name} (75.0\u00a0%, as high as {', '.join(others)}), "
    assert text.startswith(f"Best on validation: {said}")


def without_validation(tmp_path):
    """A table whose trials have no figures of validation clips."""
    folder = result_folders.ablation(tmp_path, samples=0)
    for file in folder.glob("trials/*/result.json"):
        result = json.loads(file.read_text())
        del result["metrics"]["val"]
        file.write_text(json.dumps(result))
    return folder


def test_rows_as_high_on_test_as_the_best_are_named_and_have_no_badge(tmp_path):
    folder = without_validation(tmp_path)
    found = read(folder)
    badge = "highest on test"
    report.build(folder)
    assert badge in (folder / "report.html").read_text()
    equal = [dataclasses.replace(row, interval=None) for row in found.rows]
    equal = [dataclasses.replace(row, runs=equal[0].runs) for row in equal]
    text = wording.answer(equal, equal[0], equal[0])
    others = ", ".join(row.name for row in equal[1:])
    assert f"Highest on test: {equal[0].name} (as high as {others}), " in text
    columns = tables.summary_columns(found)
    table = _scored_table(equal, columns, equal[0], equal[0])
    assert badge not in str(table)


def test_a_difference_that_rounds_to_nothing_is_not_called_nothing(folders):
    row = read(folders["scanners"]).rows[1]

    def said(mean):
        return wording._away(dataclasses.replace(row.difference, mean=mean))

    assert said(0.0) == "as high as"
    assert said(0.0004) == "less than 0.1 points above"
    assert said(-0.012) == "1.2 points below"


def test_the_classes_that_were_chosen_are_said_below_the_table(folders):
    row = read(folders["scanners"]).rows[1]
    assert wording.left_out([row]) == []
    run = dataclasses.replace(row.runs[0], config={"data": {"classes": ["up", "down"]}})
    for about in ({}, {"another_task": "clips out of every fold"}):
        chosen = dataclasses.replace(row, runs=(run,), published={}, **about)
        assert wording.left_out([chosen]) == ["Only these classes (data.classes): up, down."]
    told = dataclasses.replace(chosen, published={"test_accuracy": 0.5})
    assert wording.left_out([told]) == []  # the note on another task names them


def test_without_a_comparable_published_figure_there_is_no_column_for_differences_to_it(folders):
    found = read(folders["rates"])
    assert "to published, points" in [column.head for column in tables.summary_columns(found)]
    rows = tuple(dataclasses.replace(row, another_task="other classes") for row in found.rows)
    heads = [c.head for c in tables.summary_columns(dataclasses.replace(found, rows=rows))]
    assert "published" in heads
    assert "to published, points" not in heads


def test_what_was_left_out_of_the_data_is_said_below_the_table(tmp_path):
    folder = result_folders.ablation(tmp_path, samples=0)
    assert not wording.left_out(read(folder).rows)
    for place, file in enumerate(sorted(folder.glob("trials/*/result.json"))):
        result = json.loads(file.read_text())
        result["unreadable_names"] = [f"a/{place % 2}.mp4"]
        result["data_warnings"] = ["folders c, d have no videos and are left out"]
        file.write_text(json.dumps(result))
    said = [
        "2 clips could not be read and are left out: a/0.mp4, a/1.mp4.",
        "Folders c, d have no videos and are left out.",
    ]
    assert wording.left_out(read(folder).rows) == said
    page = Page(report.build(folder)).text
    assert all(line in page for line in said)


def test_without_validation_clips_no_row_is_said_to_be_chosen(tmp_path):
    folder = without_validation(tmp_path)
    found = read(folder)
    text = wording.answer(found.rows, found.control, found.best)
    assert text.startswith("There are no validation clips to choose a row by. Highest on test: gru")
    page = Page(report.build(folder)).text
    assert "highest on test" in page
    assert text[:60] in page
    assert "on validation" not in text
    assert "best on validation" not in page
    assert "chosen by validation" not in page
    with pytest.raises(UserError, match="no validation clips to choose a row by: name the folder"):
        report.compare(folder, folder, tmp_path / "out")


def test_page_tells_question_data_answer_and_command(folders):
    text = Page(folders["scanners"] / "report.html").text
    assert "Does a recurrence over frame features beat their mean" in text
    assert "texture 0.15, noise 0.09, shake 1.5" in text
    assert "points above the control mean" in text
    assert "9 (3 rows), 8 done, 1 missing" in text
    assert f"Layers of {read(folders['scanners']).best.name}" in text
    assert "python launch.py train experiments/motion.py" in text
    assert "grows/broken <1>.avi" in text


def test_leak_is_labelled(folders):
    assert "Leaked:" in Page(folders["leaked"] / "report.html").text
    assert "Leaked:" in (folders["leaked"] / "table.md").read_text(encoding="utf-8")
    assert "Leaked:" not in Page(folders["run"] / "report.html").text


def test_a_few_copies_are_no_leak_of_recordings(folders, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(folders["leaked"], folder)
    result = json.loads((folder / "result.json").read_text())
    result["split"]["copied_tests"] = 2
    (folder / "result.json").write_text(json.dumps(result))
    report.build(folder)
    for name in ("report.html", "table.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "2 test clips have copies in another part" in text
        assert "clips of one recording stand" not in text
        assert "clips cut from one recording" not in text


def test_confusions_name_real_clips(folders):
    page = Page(folders["run"] / "report.html")
    arrays = np.load(folders["run"] / "predictions.npz")
    predicted = arrays["test_logits"].argmax(1)
    wrong = np.flatnonzero(predicted != arrays["test_labels"])
    named = re.findall(r"(\S+/test_\d+\.avi) \(\d+ %\)", page.text)
    assert named
    assert set(named) <= set(arrays["test_names"][wrong])


def test_classes_always_and_never_right_are_named(folders):
    folder = folders["rates"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    row = read(folder).best
    counts = np.sum([run.result["metrics"]["test"]["confusion"] for run in row.done], axis=0)
    seeds = len(row.done)
    assert seeds > 1
    always, never = re.search(
        rf"Of [^<]*, {seeds} seeds\. Always right: ([^<]*)\. Never right: ([^<.]*)\. ", page
    ).group(1, 2)
    right = counts.diagonal() == counts.sum(1)
    named = [name for name, each in zip(result_folders.MOTIONS, right, strict=True) if each]
    assert always == (", ".join(named) or "no class")
    missed = [n for n, k in zip(result_folders.MOTIONS, counts.diagonal(), strict=True) if not k]
    assert never == (", ".join(missed) or "no class")


def test_film_strips_show_prediction_and_confidence(folders):
    page = Page(folders["run"] / "report.html")
    arrays = np.load(folders["run"] / "predictions.npz")
    logits = dict(zip(arrays["test_names"].tolist(), arrays["test_logits"], strict=True))
    strips = [a["alt"] for a in page.all("img")]
    assert len(strips) == 8
    for alt in strips:
        name, said, sure = re.match(
            r"8 frames of (\S+): \w+, predicted (\w+) at (\d+)", alt.replace("\u00a0", " ")
        ).groups()
        share_K = np.exp(logits[name]) / np.exp(logits[name]).sum()
        assert result_folders.MOTIONS[share_K.argmax()] == said
        assert int(sure) == pytest.approx(100 * share_K.max(), abs=0.51)


def test_figures_lie_beside_the_page(folders):
    drawn = {
        name: {file.name for file in (folders[name] / "figures").iterdir()}
        for name in ("rates", "scanners")
    }
    both = ("intervals", "curves", "f1")
    files = {f"{name}.{end}" for name in both for end in ("svg", "png")}
    files |= {"confusion_counts.svg", "confusion_shares.svg"}
    assert files | {"steps.svg", "steps.png"} <= drawn["rates"]
    assert files | {"cost.svg", "cost.png"} <= drawn["scanners"]
    # All learning rates have the same parameters and were trained by one program.
    assert not {"cost.svg", "cost.png"} & drawn["rates"]
    assert "are for all of them" in Page(folders["rates"] / "report.html").text
    assert not wording.shared_seconds(read(folders["rates"]).rows[:1])


def test_the_intervals_show_differences_and_published_figures_of_the_same_task(folders):
    for name, published in (("scanners", False), ("rates", True)):
        text = Page(folders[name] / "report.html").text
        assert "Right: difference to the control" in text
        assert ("open diamonds: published" in text) == published
        drawn = (folders[name] / "figures" / "intervals.svg").read_text(encoding="utf-8")
        assert "difference to the control, points" in drawn
    results = read(folders["rates"])
    elsewhere = [dataclasses.replace(row, another_task="14 classes") for row in results.rows]
    assert forest.has_published(results.rows)
    assert not forest.has_published(elsewhere)
    axes = figures.draw(forest.draw, results.rows, results.control).axes
    widths = [
        (a.difference.low, a.difference.high) for a in results.rows if a.difference is not None
    ]
    bars = [line.get_xdata() for line in axes[1].lines if len(line.get_xdata()) == 2][1:]
    assert np.allclose(np.array(bars), 100 * np.array(widths))
    alone = figures.draw(forest.draw, results.rows[1:2], results.control)
    assert len(alone.axes) == 1


def test_rows_that_did_not_stop_early_are_named(folders):
    rows = read(folders["scanners"]).rows
    assert not wording.last_epoch(rows)  # without patience no trial would have stopped

    def ended(run, epochs):
        return dataclasses.replace(
            run,
            result=run.result | {"epochs": epochs},
            config=run.config | {"train": {"epochs": 20, "patience": 5}},
        )

    def row(at, epochs):
        runs = [ended(run, e) for run, e in zip(rows[at].runs, epochs, strict=False)]
        return dataclasses.replace(rows[at], runs=tuple(runs))

    long, short = row(0, (20, 20, 13)), row(2, (20, 19, 7))
    [note] = wording.last_epoch([long, short])
    assert "Did not stop early: mean (2 of 3 trials);" in note
    patient = [
        dataclasses.replace(run, config=run.config | {"train": {"epochs": 20, "patience": 20}})
        for run in long.runs
    ]
    assert not wording.last_epoch([dataclasses.replace(long, runs=tuple(patient))])


def test_a_run_without_test_and_validation_clips_is_said_to_be_trained(tmp_path):
    folder = result_folders.run(tmp_path / "run")
    file = folder / "result.json"
    result = json.loads(file.read_text())
    del result["metrics"]["val"], result["metrics"]["test"]
    result["counts"] = {"train": {"expected": 45, "scored": 45, "unreadable": 0}}
    file.write_text(json.dumps(result))
    with np.load(folder / "predictions.npz") as saved:
        kept = {name: array for name, array in saved.items() if name.startswith("train")}
    np.savez(folder / "predictions.npz", **kept)
    text = Page(report.build(folder)).text
    assert "Trained on 45 clips. There are no test clips, so no accuracy." in text
    assert "No trial has finished" not in text
    assert "Trials without scores" not in text
    assert "train 45 45 0" in text
    told = io.StringIO()
    from rich.console import Console

    Console(file=told, width=120).print(report.terminal(folder))
    assert "0 of 1" not in told.getvalue()
    assert "There are no test clips" in told.getvalue()


def test_each_recording_has_the_share_of_its_answers_that_is_right(tmp_path):
    folder = result_folders.ablation(tmp_path / "few", per_class=8, samples=0)
    assert tables.recordings_table(read(folder).rows) is None  # results do not say that it knows
    for file in folder.glob("trials/*/result.json"):
        result = json.loads(file.read_text())
        result["split"]["recordings_known"] = True
        file.write_text(json.dumps(result))
    rows, right = read(folder).rows, {}
    for row, run in [(each, run) for each in rows for run in each.done]:
        arrays = np.load(run.folder / "predictions.npz")
        parts = (arrays[f"test_{part}"] for part in ("logits", "labels", "groups"))
        for logits, label, name in zip(*parts, strict=True):
            of_row = right.setdefault(str(name), {}).setdefault(row.name, [])
            of_row.append(logits.argmax() == label)
    made, means = tables.recordings_table(rows), []
    assert {line[0] for line in made.rows} == set(right)
    for name, clips, *shares in made.rows:
        wanted = [np.mean(right[name][row.name]) for row in rows]
        assert shares == [formats.percent(share) for share in wanted]
        assert clips * 3 == len(right[name][rows[0].name])
        means.append(np.mean(wanted))
    assert means == sorted(means)
    assert means[0] < means[-1]
    assert "right in each recording" in Page(report.build(folder)).text
    many = result_folders.ablation(tmp_path / "many", samples=0)
    assert "right in each recording" not in Page(report.build(many)).text


def test_files_beside_the_page_are_named(folders):
    for name, files in (
        ("rates", ["table.csv", "table.md", "table.tex", "summary.csv"]),
        ("run", ["table.csv", "table.md", "table.tex"]),
    ):
        page = Page(folders[name] / "report.html")
        linked = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
        assert linked == [*files, "figures/"]
        assert all((folders[name] / file).exists() for file in linked)


def test_tex_is_balanced_and_escaped(folders):
    text = (folders["rates"] / "table.tex").read_text(encoding="utf-8")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert r"learning\_rate" in text
    assert not re.search(r"(?<!\\)%", "\n".join(body))


def test_tensorboard_shows_the_curves_of_every_trial(folders, tmp_path):
    pytest.importorskip("tensorboardX")
    folder = shutil.copytree(folders["scanners"], tmp_path / "copy")
    for _ in range(2):  # the second time anew, not twice
        out = report.events(folder)
    runs = {
        f"{row.name}, seed {r.result['seed']}": r for row in read(folder).rows for r in row.runs
    }
    assert {each.name for each in out.iterdir()} == set(runs)
    for name, run in runs.items():
        lines = [
            json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()
        ]
        expected = {
            (key, line["epoch"]): pytest.approx(line[key], rel=1e-6)
            for line in lines
            for key in line
            if "/" in key and line[key] is not None
        }
        assert len(expected) > 10
        assert scalars(out / name) == expected
    one = report.events(shutil.copytree(runs["lstm, seed 0"].folder, tmp_path / "run"))
    assert scalars(one) == scalars(out / "lstm, seed 0")


def test_rebuilding_changes_nothing(folders):
    folder = folders["leaked"]
    names = ["report.html", "table.csv", "table.md", "table.tex", "figures/curves.svg"]
    before = {name: (folder / name).read_bytes() for name in names}
    report.build(folder)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_compare_tells_difference_classes_and_settings(folders, tmp_path):
    text = Page(folders["compared"] / "report.html").text
    assert "gru is" in text
    assert "on the same clips" in text
    assert re.search(r"\d+ classes improved, \d+ worsened, \d+ stayed", text)
    assert "Leaked:" in text
    assert "report D" not in text


@pytest.mark.slow
def test_compare_of_ucf101_shows_report_ds_changes_and_sorts_confusions_by_type(tmp_path):
    """18 % → 36 % of ApplyEyeMakeup is report D's, whatever ours are."""
    named = {"classes": ("ApplyEyeMakeup", "ApplyLipstick", "HighJump"), "samples": 0}
    ucf = {"data.kind": "ucf101", "data.tfds": ""}
    a = result_folders.run(tmp_path / "a", overrides=ucf | {"scanner.kind": "none"}, **named)
    b = result_folders.run(
        tmp_path / "b", overrides=ucf | {"scanner.kind": "lstm"}, **named, skill=2
    )
    page = Page(report.compare(a, b, tmp_path / "out"))
    assert "18.0 % → 36.0 %" in page.text
    assert "18.9 % → 33.0 %" in page.text
    counts = [
        np.array(json.loads((run / "result.json").read_text())["metrics"]["test"]["confusion"])
        for run in (a, b)
    ]
    within = [each[0, 1] + each[1, 0] for each in counts]
    across = [each.sum() - each.trace() - n for each, n in zip(counts, within, strict=True)]
    for side, (before, after) in (("within", within), ("across", across)):
        assert f"Confused {side} action types: {before} clips a seed in" in page.text
        assert f", {after} in" in page.text
    # Reversed, or on other data, they are no answer to report D's.
    for first, second in ((b, a), (result_folders.run(tmp_path / "c", **named), b)):
        assert "report D" not in Page(report.compare(first, second, tmp_path / "other")).text


def test_compare_with_itself_is_noise(folders, tmp_path):
    text = Page(report.compare(folders["run"], folders["run"], tmp_path)).text
    assert "lstm (B) is as high as lstm (A) on the same clips" in text
    assert "the difference is the same in all seeds and recordings" in text
    assert "within noise" in text
    assert "0 classes improved, 0 worsened, 10 stayed" in text


def test_compare_refuses_other_classes(folders, tmp_path):
    other = result_folders.run(tmp_path / "b", classes=("x", "y"), per_class=4, samples=0)
    with pytest.raises(UserError, match="different classes"):
        report.compare(folders["run"], other, tmp_path)


def test_terminal_is_plain_where_there_is_none(folders):
    from rich.console import Console

    plain, ruled = io.StringIO(), io.StringIO()
    Console(file=plain, width=100, force_terminal=False).print(report.terminal(folders["rates"]))
    Console(file=ruled, width=100, force_terminal=True).print(report.terminal(folders["rates"]))
    assert "\x1b" not in plain.getvalue()
    assert "─" not in plain.getvalue()
    assert "\x1b[" in ruled.getvalue()
    assert "learning_rate=0.0005" in plain.getvalue()
    assert "control" in plain.getvalue()


def test_terminal_shows_the_difference_with_its_interval_where_there_is_room(folders):
    from rich.console import Console

    row = report.read(folders["scanners"]).rows[1]
    gap = row.difference
    whole = f"{formats.points(gap.mean)} ({formats.points(gap.low, gap.high)})"
    for width, room in ((80, True), (50, False)):
        told = io.StringIO()
        Console(file=told, width=width).print(report.terminal(folders["scanners"]))
        line = next(line for line in told.getvalue().splitlines() if line.startswith(row.name))
        assert (whole in line) is room
        assert formats.points(gap.mean) in line
        assert "Best on validation: " in told.getvalue()


def test_terminal_sets_ours_beside_theirs(folders):
    """In eighty columns: theirs, ours, the difference with its interval, and on what ours ran."""
    from rich.console import Console

    told = io.StringIO()
    Console(file=told, width=80, force_terminal=False).print(report.terminal(folders["rates"]))
    first, *lines = told.getvalue().splitlines()
    assert re.split("  +", first) == [
        *("setting", "published", "ours", "to published (95 %)", "to control")
    ]
    row = cells((folders["rates"] / "table.md").read_text(encoding="utf-8"))[1]
    line = next(line for line in lines if line.startswith("learning_rate=0.0005 "))
    line = line.replace("\u00a0", " ")
    assert row["published"] in line
    assert row["test accuracy"] in line
    assert row["to published, points"] in line
    assert all(len(line) <= 80 for line in lines)
    assert "Ours: run on motion (texture 0.15" in " ".join(lines)
    assert "Ours: run on motion" in (folders["rates"] / "table.md").read_text(encoding="utf-8")


def test_nothing_to_report_is_a_users_mistake(tmp_path):
    with pytest.raises(UserError, match=re.escape("no result.json and no ablation.json")):
        report.build(tmp_path)


def test_broken_json_names_its_file(tmp_path):
    (tmp_path / "result.json").write_text('{"id": ')
    with pytest.raises(UserError, match=re.escape("result.json is damaged or no JSON")):
        report.build(tmp_path)


def test_a_table_without_a_finished_trial_is_still_a_page(tmp_path):
    every = tuple((row, seed) for row, _, _ in result_folders.SCANNERS for seed in range(3))
    folder = result_folders.ablation(tmp_path, missing=every)
    assert "No trial has finished yet" in Page(report.build(folder)).text


def test_figures_that_training_left_out_do_not_break_the_page(tmp_path):
    """Two classes have no top-5, a class without clips no F1; files beside may be missing."""
    folder = result_folders.run(tmp_path, classes=("left", "right"), samples=0)
    result = json.loads((folder / "result.json").read_text())
    del result["metrics"]["test"]["top5"]
    result["metrics"]["test"]["f1"]["left"] = None
    result["classes"] = ["left <b>", "right"]
    result["metrics"]["test"]["f1"] = {"left <b>": None, "right": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    for name in ("model.json", "environment.json", "metrics.jsonl"):
        (folder / name).unlink()
    page = Page(report.build(folder))
    assert "<b>" not in [text for _, text in page.texts]
    assert "left <b>" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rates", "many"])
@pytest.mark.parametrize("width", [1366, 390])
def test_browser_opens_the_page_without_a_word(kind, width, folders, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    folder = folders.get(kind) or result_folders.many_classes(tmp_path / "many")
    file = report.build(folder)
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += [f"--window-size={width},3000", f"--screenshot={picture}", file.as_uri()]
    done = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "CONSOLE" not in done.stderr
    from PIL import Image

    shades = np.asarray(Image.open(picture).convert("L"))
    assert shades.std() > 10  # something is drawn


def test_clips_are_counted_of_the_trials_that_have_them(tmp_path):
    """All but the last failed before their data was there."""
    folder = result_folders.ablation(tmp_path, samples=0)
    *others, _ = sorted(folder.glob("trials/*/result.json"))
    for file in others:
        result = json.loads(file.read_text())
        file.write_text(json.dumps(result | {"counts": {}, "metrics": {}, "status": "failed"}))
    table = Page(report.build(folder)).text.partition("Clips of each split")[2]
    assert "test 201 200 1" in table


def test_published_f1_of_classes_stands_beside_ours(tmp_path):
    figures = {"test_accuracy": 0.5, "test_f1_grows": 0.125, "test_f1_shrinks": 0.875}
    folder = result_folders.ablation(tmp_path, samples=0, published={"lstm": figures})
    page = Page(report.build(folder)).text
    assert "(0.125)" in page
    assert "(0.875)" in page


def test_a_class_without_test_clips_is_a_dash_and_comes_last(tmp_path):
    folder = result_folders.ablation(tmp_path, samples=0)
    for file in folder.glob("trials/*/result.json"):
        result = json.loads(file.read_text())
        if "test" in result["metrics"]:
            result["metrics"]["test"]["f1"]["grows"] = None
            file.write_text(json.dumps(result))
    page = Page(report.build(folder))
    assert "nan" not in page.source
    [body] = re.findall(r"F1 of each class.*?</table>", page.source, re.DOTALL)
    assert re.findall(r'<th scope="row"[^>]*>([^<]+)', body)[-1] == "grows"


@pytest.mark.parametrize(
    ("name", "whose", "changed"),
    [
        ("run", "of this run", ["data.tfds"]),
        (
            "scanners",
            "of gru, seed 0 (median test figure of its seeds)",
            ["data.tfds", "scanner.kind"],
        ),
    ],
)
def test_settings_say_whose_they_are_and_which_are_changed(folders, name, whose, changed):
    source = (folders[name] / "report.html").read_text(encoding="utf-8")
    _, _, rest = source.partition(f"<summary>All settings {whose}</summary>")
    rows, _, _ = rest.partition("</details>")
    assert "<code>scanner.kind</code>" in rows
    assert re.findall(r'<code>([^<]+)</code><span class="badge">changed</span>', rows) == changed


def test_without_validation_clips_only_the_training_loss_is_drawn(folders):
    rows = read(folders["scanners"]).rows
    assert len(figures.curves(rows, rows[0], rows[1]).axes) == 4

    def bare(row):
        runs = [
            dataclasses.replace(
                run, result=run.result | {"counts": {"val": {"expected": 0, "scored": 0}}}
            )
            for run in row.runs
        ]
        return dataclasses.replace(row, runs=tuple(runs))

    unvalidated = [bare(row) for row in rows]
    drawn = figures.curves(unvalidated, unvalidated[0], unvalidated[1])
    assert [axes.get_title() for axes in drawn.axes] == ["training loss", ""]
    alone = dataclasses.replace(unvalidated[0], runs=unvalidated[0].runs[:1])
    [axes] = figures.curves([alone], None, None).axes
    assert axes.get_title() == "training loss"
