"""Text that people give, in every field and through every output: shown, never obeyed."""

import csv
import io
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import result_folders
from helpers.pages import Page
from rich.console import Console

from vidrec import report
from vidrec.io import escape, files
from vidrec.report import numbers, tables
from vidrec.report.results import read

# What each of the outputs would take for more than text; every one is tried in every field.
BOTH = (  # all in two, for the quick tests
    "$<img src=//x onerror=y>$ [/x] \"'&amp;",
    '=a;"b"\n_|`\x1b[2J\udcff $(x) id="#1b1f24"',
)
HOSTILE = (
    "<script>alert(1)</script><img src=//x onerror=y>",
    "\"'><svg/onload=z> &amp; </td></dd></code><!--",
    "$\\frac{$ and $x$",
    "_hidden $",
    "[/x] [bold]b[/bold] :smile: [link=file:///]l[/link]",
    '=HYPERLINK("x";"y")',
    "+1-2",
    "-3+x",
    "@sum(1)",
    "a;=1+1\t=2\r=3",
    "two\nlines | pipe\n\n#SBATCH --x",
    "\x1b]0;title\x07\x1b[2J\x00\x9b1m \u202egpj.exe",
    "it's `a` \\ $(touch x) %PATH% {0} \\\\[2pt] ~^#",
    "*star* __b__ [a](javascript:b)",
    "動画 é 🎬 \udcff",
    'id="x" url(#y) href="#z" #1b1f24',
    "long " * 200,
    "",
    " ",
)
EVERY = [*BOTH, *(pytest.param(text, marks=pytest.mark.slow) for text in HOSTILE)]


def shown(text: str) -> str:
    """What a reader of the page sees, blanks taken together as a browser does."""
    return " ".join(str(escape.visible(text, keep="\n\t")).split())


def texts_of(page: Page) -> str:
    pieces = [text for _, text in page.texts]
    values = [str(value) for _, attributes in page.tags for value in attributes.values()]
    return " ".join(" ".join(pieces + values).split())


@pytest.fixture(scope="module", params=EVERY, ids=lambda text: ascii(text)[:12])
def hostile(request, tmp_path_factory):
    """A hostile text, and reports of a table and a run that hold it wherever a text can stand."""
    text = request.param
    root = tmp_path_factory.mktemp("hostile")
    classes = (f"{text}1", f"{text}2", "plain")
    rows = (("mean", 0.6, 3), (f"{text}row", 2.0, 4))
    folder = result_folders.ablation(
        root / "table",
        rows=rows,
        axis="encoder.weights",
        values=(f"{text}value", text),
        classes=classes,
        seeds=1,
        per_class=5,
        steps=4,
        samples=3,
        control="mean",
        published={f"{text}row": {"test_accuracy": 0.5}},
        meta={"name": text, "question": f"{text}?", "source": text, "on": text, "command": text},
    )
    about = json.loads((folder / "ablation.json").read_text())
    about["data"] = {"name": text, "note": text, text: 1.5}
    for trial in about["trials"]:
        trial["overrides"] = {**trial["overrides"], text or "unnamed": text}
    write(folder / "ablation.json", about)
    for trial in (folder / "trials").iterdir():
        spoil(trial, text)
    run = next((folder / "trials").iterdir())
    report.build(folder)
    report.build(run)
    return text, folder, run


def spoil(folder: Path, text: str) -> None:
    """Puts a text into every field of a run that is a text."""
    result = json.loads((folder / "result.json").read_text())
    result["unreadable"] = [{"path": f"{text}.avi", "reason": f"{text} reason"}]
    result |= {"damaged": {f"{text}.mp4": text}, "name": text, "why": text}
    result["split"]["id"] = text
    result["versions"] = {"vidrec": "0.1.0", text: text}
    result["data"] = {"name": text, "about": {text: text}}
    write(folder / "result.json", result)
    config = json.loads((folder / "config.json").read_text())
    config["data"] |= {"root": text, "classes": [text], text: text}
    write(folder / "config.json", config | {text: {text: text}})
    write(folder / "environment.json", {"command": text, text: text, "devices": [text, {text: 1}]})
    layer = dict.fromkeys(("name", "kind", "input", "output"), text)
    write(folder / "model.json", {"layers": [{**layer, "params": 3}, {**layer, "params": 0}]})
    for name in ("predictions.npz", "samples.npz"):
        arrays = dict(np.load(folder / name))
        for key in (each for each in arrays if each.endswith("names")):
            arrays[key] = np.array([f"{text}{each}".replace("\0", "") for each in arrays[key]])
        np.savez(folder / name, **arrays)


def write(file: Path, content) -> None:
    files.write_json(file, content, durable=False)


def test_a_page_holds_the_text_and_no_tag_of_it(hostile, tmp_path):
    text, folder, run = hostile
    pages = [folder / "report.html", run / "report.html", report.compare(run, run, tmp_path)]
    for file in pages:
        page = Page(file)
        seen = texts_of(page)
        assert shown(text) in seen
        assert not page.all("script")
        assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
        assert len(page.all("img")) <= 3
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page.source)
    told = Page(pages[0])
    drawn = [" ".join(each.split()) for tag, each in told.texts if tag == "text"]
    assert shown(escape.short(f"{text}row")) in drawn
    assert any(shown(f"{text}1") in " ".join(each.split()) for _, each in told.texts)
    rows = [each for tag, each in told.texts if tag == "th"]
    assert any(shown(f"{text}row") == " ".join(each.split()) for each in rows)


def test_figures_are_drawn_and_are_xml(hostile):
    import xml.etree.ElementTree as ElementTree

    from PIL import Image

    text, folder, run = hostile
    for place in (folder, run):
        drawn = sorted((place / "figures").iterdir())
        assert {"curves.png", "f1.png", "steps.svg", "confusion_counts.svg"} <= {
            file.name for file in drawn
        }
        for file in drawn:
            if file.suffix == ".png":
                assert np.asarray(Image.open(file).convert("L")).std() > 1
            else:
                ElementTree.parse(file)
    named = "".join(
        "".join(each.itertext())
        for each in ElementTree.parse(folder / "figures" / "intervals.svg").iter()
        if each.tag.endswith("text")
    )
    assert escape.short(f"{text}row").strip() in named


def test_table_csv_is_read_back_and_holds_no_formula(hostile):
    _, folder, _ = hostile
    content = (folder / "table.csv").read_bytes().decode("utf-8")
    heads, *lines = csv.reader(io.StringIO(content, newline=""))
    columns, values = numbers.trials(read(folder))
    assert [escape.uncell(head) for head in heads] == [clean(each) for each in columns]
    for line, value in zip(lines, values, strict=True):
        told = dict(zip(columns, line, strict=True))
        assert len(line) == len(columns)
        assert escape.uncell(told["encoder.weights"]) == clean(value["encoder.weights"])
        assert escape.uncell(told["row"]) == clean(value["row"])
        for cell in line:
            formula = cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
            assert not formula or re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", cell)
        assert float(told["test_accuracy"]) == pytest.approx(value["test_accuracy"], rel=1e-8)


def clean(text: str) -> str:
    return escape.visible(text, keep="\t\r\n")


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("-1", "-1"),
        ("+1.5e-3", "+1.5e-3"),
        ("-inf", "-inf"),
        ("-1_000", "'-1_000"),
        ("-1+2", "'-1+2"),
        ("=1", "'=1"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("＝1", "'＝1"),
    ],
)
def test_numbers_stay_numbers_and_formulas_become_texts(value, wanted):
    assert escape.cell(value) == wanted
    assert escape.uncell(wanted) == value


def test_markdown_and_tex_stay_tables(hostile):
    _, folder, _ = hostile
    heads = tables.summary_table(read(folder)).columns
    lines = (folder / "table.md").read_text().split("\n\n")[0].splitlines()
    assert len(lines) == 4
    for line in lines:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(heads) + 1
        assert not re.search(r"<\w", line)
    tex = (folder / "table.tex").read_text().splitlines()
    body = [line for line in tex if line.endswith(r" \\")]
    assert len(body) == 3
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(heads) - 1}
    assert all(line.startswith(("%", "\\")) or line.endswith(r" \\") for line in tex if line)
    assert not [line for line in body if line.lstrip().startswith(("[", "*"))]


def test_a_terminal_obeys_nothing(hostile):
    text, folder, _ = hostile
    out = io.StringIO()
    Console(file=out, width=2000, force_terminal=True).print(report.terminal(folder))
    told = re.sub(r"\x1b\[[\d;]*m", "", out.getvalue())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\udcff]", told)
    assert escape.terminal(f"{text}row").strip()[:200] in told


def test_a_command_is_pasted_back(tmp_path, monkeypatch):
    from vidrec.sweeps import runner

    words = ["launch.py", "train", "my videos.py", "--data.root", *HOSTILE[:13], "--data.groups"]
    monkeypatch.setattr(sys, "argv", [*words, "_g(\\d+)_"])
    folder = result_folders.run(tmp_path / "it's $(a) run", samples=0, steps=0)
    runner._write_environment(folder)
    [command] = re.findall(
        '<code class="command">(.*?)</code>', report.build(folder).read_text(), re.DOTALL
    )
    import html

    # A page cannot hold some control characters; all other words come back as they were.
    kept = [escape.visible(each, keep="\n\t") for each in ["python", *sys.argv]]
    assert shlex.split(html.unescape(command)) == kept
    recorded = json.loads((folder / "environment.json").read_text())["command"]
    assert shlex.split(recorded) == ["python", *sys.argv]
    assert "'it'\"'\"'s $(a) run'" in Page(folder / "report.html").text


def test_what_csv_files_hold_is_read_back_as_labels(tmp_path):
    """A table of predictions with another heading is a labels.csv."""
    from vidrec.data.datasets import tables as labels

    names = [text for text in HOSTILE if text.strip() and clean(text) == escape.visible(text)]
    names = [escape.visible(text).strip() for text in names] + ["'=x", "-1", "don't"]
    file = tmp_path / "labels.csv"
    file.write_text(escape.csv([["path", "label"], *([f"{n}.mp4", n] for n in names)]))
    rows = [row for _, row in labels.read(file, ("path", "label")).rows]
    assert [row["label"] for row in rows] == names
    assert [row["path"] for row in rows] == [f"{name}.mp4" for name in names]


@pytest.mark.parametrize("text", [*BOTH, *HOSTILE])
def test_a_label_of_any_letters_is_drawn_on_a_frame(text):
    from vidrec.evaluation.predict.drawing import with_panel

    frame = np.zeros((120, 160, 3), np.uint8)
    assert with_panel(frame, text, 0.5).any()


def test_folders_of_tensorboard_are_one_a_trial(tmp_path):
    pytest.importorskip("tensorboardX")
    rows = tuple((name, 1.0, 3) for name in ("a/b", "a_b", "..", "é" * 300, "é" * 301, "\0\n"))
    folder = result_folders.ablation(
        tmp_path / "t", rows=rows, seeds=1, samples=0, control=0, by_index=True
    )
    out = report.events(folder)
    assert len(list(out.iterdir())) == len(rows)
    assert not list(tmp_path.glob("*.tfevents*"))
    assert sorted(each.name for each in folder.iterdir() if "events" in each.name) == []


@pytest.mark.parametrize("text", [*BOTH, *HOSTILE])
def test_what_commands_say_is_shown_as_it_is(text, monkeypatch, capsys):
    """On a line, in the cells and the title of a table, beside a bar."""
    from vidrec.cli import output, progress
    from vidrec.report.terminal import Columns

    out = io.StringIO()
    console = output.Terminal(file=out, width=3000, force_terminal=True, color_system=None)
    console.tell(f"{text}!")
    console.print(Columns([f"h{text}", "n"], [[f"{text}1", "2"]], f"h{text}", title=f"{text}2"))
    progress.ConsoleReporter(console).say(f"{text}3")
    shown = escape.terminal(text)
    for sign in "!123":
        assert f"{shown}{sign}" in out.getvalue()
    console = output.Terminal(file=out, width=3000)
    screen = progress.ConsoleReporter(console)
    screen.advance(f"{text}4", 1, 2, f"{text}5")
    for sign in "45":
        assert f"{shown}{sign}" in out.getvalue()
    screen.console = output.Terminal(file=io.StringIO(), force_terminal=True)
    screen.advance(text, 1, 2, text)
    screen.close()
