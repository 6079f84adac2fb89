"""Documents and docstrings are written in short sentences, without what proselint objects to."""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers import prose

ROOT = Path(__file__).parent.parent
LOG = ROOT / "docs" / "log"  # what was tried, in the words of its day
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if LOG not in path.parents),
]
MODULES = sorted((ROOT / "vidrec").rglob("*.py"))
LONGEST = 35  # words


@functools.cache
def sentences_of(file: Path) -> list[str]:
    """The sentences of a page or of a module's docstrings."""
    if file.suffix == ".py":
        found = (part for text in prose.docstrings(file) for part in prose.parts(text))
    else:
        found = prose.paragraphs(file.read_text(encoding="utf-8"))
    return [sentence for paragraph in found for sentence in prose.sentences(paragraph)]


def named_sentences(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each sentence of the files, with its file's path in the checkout."""
    for file in files:
        for sentence in sentences_of(file):
            yield file.relative_to(ROOT), sentence


@pytest.mark.parametrize("files", [PAGES, MODULES], ids=["pages", "docstrings"])
def test_no_sentence_is_long(files):
    long = [
        f"{name}: {prose.length(sentence)} words: {sentence}"
        for name, sentence in named_sentences(files)
        if prose.length(sentence) > LONGEST
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("files", [PAGES, MODULES], ids=["pages", "docstrings"])
def test_no_word_is_written_twice(files):
    twice = [
        f"{name}: {sentence}"
        for name, sentence in named_sentences(files)
        if re.search(r"(?<![\w`/.-])([a-z]{2,}) \1(?![\w`/.-])", sentence)
        and not sentence.startswith("Example: ")
    ]
    assert not twice, "\n".join(twice)


def test_proselint_has_no_objection_to_docstrings(tmp_path):
    """The pages are checked by the command line of CONTRIBUTING.md."""
    program = shutil.which("proselint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("proselint is not installed")
    for file in MODULES:
        text = "\n\n".join(sentences_of(file))
        name = file.relative_to(ROOT).as_posix().replace("/", "__")
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    command = [program, "-o", "compact", "check", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # .proselintrc.json
    assert done.returncode == 0, done.stdout + done.stderr


def test_sentences_are_told_apart_and_code_is_left_out():
    page = """# A heading of its own
A sentence with `code. In it`, see [a link](x.md). Another
one, e.g. this (of 1.5 s). vidrec begins small.

- an item
  over two lines
- **another**: one

| a | table |
|---|---|

```
code that is not read. At all
```

    nor this
"""
    found = [each for part in prose.paragraphs(page) for each in prose.sentences(part)]
    assert found == [
        "A sentence with `code. In it`, see a link.",
        "Another one, e.g. this (of 1.5 s).",
        "vidrec begins small.",
        "an item over two lines",
        "another: one",
    ]
    assert prose.length(found[0]) == 7
    assert prose.length("Names such as `a`, `b` and `c` count once") == 6
    docstring = "Do it.\n\nWhy it\nis done.\n\nArgs:\n    first: one thing.\n"
    docstring += "    second: another\n        thing."
    assert list(prose.parts(docstring)) == [
        "Do it.",
        "Why it is done.",
        "first: one thing.",
        "second: another thing.",
    ]
