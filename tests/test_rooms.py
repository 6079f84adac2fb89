"""The order of the house: a file imports only from rooms above it; a light front door."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import vidrec

HOUSE = Path(vidrec.__file__).parent
# In the order of the flow: a folder imports only from itself and from those above it.
ROOMS = [
    "errors",
    "io",
    "config",
    "data",
    "models",
    "features",
    "evaluation",
    "training",
    "report",
    "sweeps",
    "cli",
]


def imports(file: Path):
    """Rooms of vidrec that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            parts = node.module.split(".")
            if parts == ["vidrec"]:
                yield from (alias.name for alias in node.names)
            elif parts[0] == "vidrec":
                yield parts[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "vidrec" and len(parts) > 1:
                    yield parts[1]


def room_of(file: Path) -> str:
    return file.relative_to(HOUSE).parts[0].removesuffix(".py")


def test_every_file_is_in_a_room_and_imports_only_from_rooms_above():
    wrong = []
    for file in sorted(HOUSE.rglob("*.py")):
        room = room_of(file)
        if room in ("__init__", "__main__", "experiments", "ablations"):
            continue
        assert room in ROOMS, f"{file} is in no room"
        for other in imports(file):
            if other == "__version__" or other == room:
                continue
            assert other in ROOMS, f"{file} imports vidrec.{other}, which is no room"
            if ROOMS.index(other) >= ROOMS.index(room):
                wrong.append(f"{room} imports {other}")
    assert not wrong, wrong


def test_pmap_lives_in_one_file():
    users = [
        file.relative_to(HOUSE).name
        for file in HOUSE.rglob("*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "pmap"
            for node in ast.walk(ast.parse(file.read_text()))
        )
    ]
    assert users == ["devices.py"]


def test_the_front_door_is_light():
    script = (
        "import time, sys, json; began = time.perf_counter(); import vidrec; "
        "seconds = time.perf_counter() - began; vidrec.Config(); "
        "heavy = [m for m in ('tensorflow', 'torch', 'keras', 'jax', 'matplotlib') "
        "if m in sys.modules]; print(json.dumps([seconds, heavy]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    _, heavy = json.loads(out.stdout)
    assert heavy == []


def test_the_whole_house_needs_neither_tensorflow_nor_torch():
    script = (
        "import sys, vidrec.cli, vidrec.sweeps.runner, vidrec.report, vidrec.data.datasets; "
        "print([m for m in ('tensorflow', 'torch', 'keras') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
