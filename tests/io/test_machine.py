"""What a machine gives a process: the limits of control groups, in both versions."""

import math
import re
from pathlib import Path

import pytest

import vidrec
from vidrec.io import machine
from vidrec.io.machine import group_memory
from vidrec.training import runtime


@pytest.fixture
def groups(tmp_path):
    """Make files of limits; tell what the process may take by its own line."""

    def limit(own, limits):
        for name, text in limits.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "own").write_text(own)
        return group_memory(tmp_path / "own", tmp_path / "cgroup")

    return limit


def test_version_2_takes_the_least_on_the_way_up(groups):
    limits = {"a/b/memory.max": "max\n", "a/memory.max": "5000000000\n", "memory.max": "max\n"}
    assert groups("0::/a/b\n", limits) == 5e9
    assert groups("0::/a/b\n", {"a/b/memory.max": "4000000000\n"}) == 4e9


def test_version_1_has_a_hierarchy_for_memory(groups):
    own = "3:cpu,cpuacct:/x\n2:memory:/a\n0::/\n"
    limits = {
        "memory/a/memory.limit_in_bytes": "3000000000\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "cpu/x/memory.limit_in_bytes": "7\n",
    }
    assert groups(own, limits) == 3e9


def test_in_a_container_the_limit_lies_at_the_top(groups):
    assert groups("0::/docker/0123\n", {"memory.max": "2000000000\n"}) == 2e9


@pytest.mark.parametrize("own", ["", "0::/\n", "nonsense\n", "1:name=systemd:/\n"])
def test_no_limit_is_infinite(groups, own):
    assert groups(own, {"unified/x": ""}) == math.inf


def test_a_system_without_control_groups_sets_no_limit(tmp_path):
    assert group_memory(tmp_path / "nowhere") == math.inf


def test_a_machine_is_as_large_as_its_group(monkeypatch):
    monkeypatch.setattr(runtime, "group_memory", lambda: 3e9)
    assert runtime.machine_bytes() == 3e9
    monkeypatch.setattr(runtime, "group_memory", lambda: math.inf)
    assert 1e8 < runtime.machine_bytes() < math.inf


def test_an_extra_is_installed_as_vidrec_itself_is(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "vidrec" / "io" / "machine.py"
    monkeypatch.setattr(machine, "__file__", str(installed))
    assert machine.how_to_install("demo") == "pip install 'vidrec[demo]'"
    checkout = tmp_path / "my code"
    checkout.mkdir()
    (checkout / "pyproject.toml").touch()
    (checkout / "launch.py").touch()
    monkeypatch.setattr(machine, "__file__", str(checkout / "vidrec" / "io" / "machine.py"))
    assert machine.how_to_install("demo") == f"pip install -e '{checkout}[demo]'"
    monkeypatch.chdir(checkout)
    assert machine.how_to_install("demo") == "pip install -e '.[demo]'"


def test_messages_name_no_way_to_install_of_their_own():
    root = Path(vidrec.__file__).parent
    texts = {file: file.read_text() for file in root.rglob("*.py")}
    named = [file.name for file, text in texts.items() if re.search(r"vidrec\[\w+\]", text)]
    assert named == []
