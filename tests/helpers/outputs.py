"""What commands leave in a folder: outcomes to compare, temporary files, files that are whole."""

import re

from vidrec.data import video
from vidrec.evaluation.export import loader
from vidrec.io import files

TEMPORARY = re.compile(r"(\.vidrec-.*|.*\.partial.*|incomplete\..*|.*\.incomplete.*|.*tfds)$")


def tidy(text):
    """A table without the columns of seconds, or an answer without what passes."""
    lines = [line.split(",") for line in text.splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if not name.startswith("seconds")]
    return [[line[i] for i in kept] for line in lines]


def outcome(folder):
    """What a command leaves for people and for other commands, by name."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if file.name == "table.csv":
            found[name] = tidy(file.read_text())
        elif file.name == "checksums.json" and file.parent.name == "exported":
            loader._checked(file.parent)  # raises where a file is not the one that belongs here
            found[name] = "whole"
        elif file.name == "model.stablehlo":  # names in it are counted on in a process
            found[name] = "there"
        elif file.name == "predictions.csv" or file.parent.name == "exported":
            found[name] = file.read_bytes() if file.is_file() else None
        elif file.name in ("predictions.npz", "samples.npz"):
            found[name] = {n: a.tobytes() for n, a in files.read_arrays(file).items()}
        elif file.name in ("metrics.jsonl", "model.json", "config.json"):
            found[name] = file.read_bytes()
        elif file.name == "seen.mp4":  # threads of the encoder decide on some of its bytes
            found[name] = file.read_bytes() if file.stat().st_size < 100 else frames(file)
        elif file.name in ("report.html", "result.json"):
            found[name] = "there"
    return found


def frames(film):
    return sum(len(chunk) for chunk in video.stream(film, 32))


def temporary_files(folder):
    """Names of writers that a killed process may leave."""
    return [str(each) for each in folder.rglob("*") if TEMPORARY.fullmatch(each.name)]


def check_whole(folder):
    """Fails where a file is half written, other than under a temporary name."""
    for file in folder.rglob("*"):
        if TEMPORARY.search(str(file.relative_to(folder))) or "/xla/" in str(file):
            continue
        if any(TEMPORARY.fullmatch(part) for part in file.relative_to(folder).parts):
            continue
        if file.suffix == ".json" and "data" not in file.parts and "jobs" not in file.parts:
            files.read_json(file, kind=(dict, list))
        elif file.suffix == ".npz":
            files.read_arrays(file)
        elif file.name == "report.html":
            assert file.read_text().rstrip().endswith("</html>")
        elif file.name == "metrics.jsonl":
            files.read_lines(file, whole=False)
