"""Each tutorial runs as it is printed: block after block, in one Python and an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# What each leaves behind, beside its output.
LEFT = {
    "first-comparison": "runs/order-*/report.html",
    "own-videos": "seen.mp4",
    "first-ablation": "runs/units-*/report.html",
    "own-cell": "runs/cells-*/report.html",
}
BEGIN = """\
import subprocess
def console(line): subprocess.run(["bash", "-c", line], check=True)
def save(name, text): open(name, "w").write(text)
"""


def script(page: str) -> str:
    """The page as one program, each line where it stands there, so that errors name it."""
    lines: list[str] = []
    block, printed = "", page.splitlines()
    for line, after in zip(printed, [*printed[1:], ""], strict=True):
        fence = re.fullmatch(r"```(\w*)", line)
        if fence and not block:
            file = re.fullmatch(r"# (\w+\.py)", after)
            block = "file" if file else fence[1] or "text"
            lines.append(f"save({file[1]!r}, '''" if file else "")
        elif fence:
            lines.append("''')" if block == "file" else "")
            block = ""
        elif block in ("python", "file"):
            lines.append(line)
        elif block == "console" and line.startswith("$ "):
            lines.append(f"console({line[2:]!r})")
        else:
            lines.append("")
    return "\n".join(lines)


def test_every_block_of_code_is_in_the_script():
    page = "a\n```python\nx = 1\n```\n```console\n$ ls\nout\n```\n"
    page += "```python\n# f.py\ny\n```\n```\nz\n```"
    lines = ["", "", "x = 1", "", "", "console('ls')", "", "", "save('f.py', '''", "# f.py", "y"]
    assert script(page).split("\n") == [*lines, "''')", "", "", ""]


def run(program: str, folder: Path) -> str:
    """Run a program of the page's blocks in a folder, and return what it prints."""
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program],
        cwd=folder,
        env=plain
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "VIDREC_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_tutorial_is_known():
    assert {page.stem for page in TUTORIALS} == set(LEFT)


@pytest.mark.slow  # four minutes
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs(page, tmp_path):
    written = script(page.read_text(encoding="utf-8"))
    out = run(f"exec(compile({written!r}, {page.name!r}, 'exec'))", tmp_path)
    assert "nan" not in out
    [left, *_] = tmp_path.glob(LEFT[page.stem])
    assert left.stat().st_size > 0
    if page.stem == "first-comparison":
        assert "did you mean 'scanner.units'?" in out


@pytest.mark.slow  # a minute
def test_the_python_of_the_readme_runs(tmp_path):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    clip = "import numpy as np; from vidrec.data import video\n"
    clip += "video.write('new.mp4', np.zeros((30, 48, 64, 3), np.uint8), fps=30)\n"
    run(f"exec({clip!r}); exec({block!r}); print(answer.label)", tmp_path)
    assert list(tmp_path.glob("runs/units-*/report.html"))
