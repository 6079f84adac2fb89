"""The tutorial runs as it is printed: block after block, in one Python and an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorials" / "first-comparison.md"
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


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    page = script(TUTORIAL.read_text(encoding="utf-8"))
    program = f"{BEGIN}exec(compile({page!r}, 'first-comparison.md', 'exec'))"
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=plain
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(TUTORIAL.parents[2]),
            "VIDREC_CACHE": str(tmp_path / "cache"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "did you mean 'scanner.units'?" in done.stdout
    assert "nan" not in done.stdout
    assert (tmp_path / "seen.mp4").stat().st_size > 0
    assert list(tmp_path.glob("runs/order-*/report.html"))
