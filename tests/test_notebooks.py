"""The notebooks of docs/notebooks run from the first cell to the last, and hold their outputs."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_a_notebook_gave_is_in_it(file):
    cells = code(json.loads(file.read_text(encoding="utf-8")))
    assert len(cells) > 3
    for number, cell in enumerate(cells, 1):
        assert cell["execution_count"] == number, "run all cells in order, and save"
        assert cell["outputs"], number
        assert not any(output["output_type"] == "error" for output in cell["outputs"])


@pytest.mark.slow  # a minute each
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(file, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=900, resources=where).execute()
    before = code(json.loads(file.read_text(encoding="utf-8")))
    for old, new in zip(before, code(notebook), strict=True):
        kinds = [
            [output["output_type"] for output in cell["outputs"] if output.get("name") != "stderr"]
            for cell in (old, new)
        ]
        assert kinds[0] == kinds[1], old["source"]
