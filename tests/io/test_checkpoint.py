"""Checkpoints are whole or they are not used; types and shapes are exact."""

import logging
import os
import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from helpers.system_errors import TRANSIENT_CODES

from vidrec.errors import TransientError, UserError
from vidrec.io import checkpoint
from vidrec.io.checkpoint import Checkpoints, DamagedCheckpoint


class State(NamedTuple):
    weights: dict
    step: np.ndarray


def state(value=0.0):
    rng = np.random.default_rng(3)
    return State(
        {"kernel": rng.normal(size=(4, 3)) + value, "bias": np.arange(3, dtype=np.int32)},
        np.float32(value),
    )


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype for x, y in pairs
    )


def test_a_tree_comes_back_to_the_bit(tmp_path):
    checkpoint.write(tmp_path / "one", state(1), {"epoch": 7})
    tree, meta = checkpoint.read(tmp_path / "one", state())
    assert same(tree, state(1))
    assert meta == {"epoch": 7}


def test_without_a_pattern_a_tree_of_dicts_comes_back(tmp_path):
    nested = {"params": {"dense": {"kernel": np.ones((2, 2))}}, "stats": np.zeros(3)}
    checkpoint.write(tmp_path / "one", nested, {})
    tree, _ = checkpoint.read(tmp_path / "one")
    assert same(tree, nested)
    assert set(tree["params"]) == {"dense"}


def test_the_latest_are_kept(tmp_path):
    saves = Checkpoints(tmp_path, keep=2)
    for step in range(4):
        saves.save(step, state(step), {})
    saves.close()
    assert saves.steps() == [2, 3]
    assert saves.restore(state())[0] == 3
    assert Checkpoints(tmp_path / "nothing").restore(state()) is None


def every_file(tmp_path):
    checkpoint.write(tmp_path / "pattern", state(), {})
    return sorted(
        str(file.relative_to(tmp_path / "pattern"))
        for file in (tmp_path / "pattern").rglob("*")
        if file.is_file()
    )


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_falls_back_to_the_save_before(tmp_path, damage, caplog):
    saves = Checkpoints(tmp_path / "saves", keep=2)
    for step in (1, 2):
        saves.save(step, state(step), {"epoch": step})
    saves.close()
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "saves", whole)
    files = [file for file in (whole / "2").rglob("*") if file.is_file()]
    assert len(files) >= 4
    for file in files:
        shutil.rmtree(tmp_path / "saves")
        shutil.copytree(whole, tmp_path / "saves")
        victim = tmp_path / "saves" / file.relative_to(whole)
        content = bytearray(victim.read_bytes())
        if damage == "remove":
            victim.unlink()
        elif damage == "cut":
            victim.write_bytes(content[: len(content) // 2])
        else:
            content[len(content) // 2] ^= 1
            victim.write_bytes(content)
        with caplog.at_level(logging.WARNING):
            step, tree, meta = saves.restore(state())
        assert (step, meta["epoch"]) == (1, 1), victim
        assert same(tree, state(1)), victim
        assert "going back" in caplog.text


@pytest.mark.parametrize("code", TRANSIENT_CODES)
@pytest.mark.parametrize("place", ["sums", "files", "folder", "arrays"])
def test_what_the_system_refuses_is_raised_and_no_older_save_is_taken(
    tmp_path, monkeypatch, code, place
):
    saves = Checkpoints(tmp_path)
    for step in (1, 2):
        saves.save(step, state(step), {"epoch": step})
    saves.close()

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    def refuse_in_orbax(*_, **__):
        raise ValueError(f"INTERNAL: {os.strerror(code)} [OS error {code}]")

    with monkeypatch.context() as patch:
        if place == "sums":
            patch.setattr(checkpoint.Path, "read_bytes", refuse)
        elif place == "files":
            patch.setattr(checkpoint.Path, "open", refuse)
        elif place == "folder":
            patch.setattr(os, "scandir", refuse)
        else:
            patch.setattr(checkpoint, "_orbax", refuse_in_orbax)
        with pytest.raises(TransientError, match=os.strerror(code)):
            saves.restore(state())
    assert saves.steps() == [1, 2]
    assert saves.restore(state())[0] == 2


def test_a_whole_save_that_orbax_cannot_read_is_not_passed_over(tmp_path, monkeypatch):
    saves = Checkpoints(tmp_path)
    saves.save(1, state(1), {})
    saves.close()
    monkeypatch.setattr(checkpoint, "_orbax", lambda: 1 / 0)
    with pytest.raises(UserError, match=r"1.arrays is whole and cannot be read: division"):
        saves.restore(state())


def test_a_new_save_is_not_taken_for_older_than_damaged_ones(tmp_path):
    saves = Checkpoints(tmp_path)
    for step in (8, 9):
        saves.save(step, state(step), {})
    saves.wait()
    for step in (8, 9):
        (tmp_path / str(step) / checkpoint.SUMS).unlink()
    assert saves.restore(state()) is None
    for step in (1, 2, 3):  # trained anew
        saves.save(step, state(step), {})
    saves.close()
    assert saves.restore(state())[0] == 3
    assert saves.steps() == [2, 3, 8, 9]


def test_a_half_written_folder_is_no_checkpoint(tmp_path):
    checkpoint.write(tmp_path / "5", state(), {})
    (tmp_path / "5" / checkpoint.SUMS).unlink()
    with pytest.raises(DamagedCheckpoint, match="no complete checkpoint"):
        checkpoint.read(tmp_path / "5", state())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree._replace(step=np.float64(0)), "this configuration needs float64"),
        (lambda tree: tree._replace(step=np.zeros(2, np.float32)), r"needs float32\[2\]"),
        (lambda tree: tree._replace(weights={"kernel": np.zeros((4, 3))}), "holds an unknown"),
        (lambda tree: tree._replace(weights=tree.weights | {"x": np.zeros(1)}), "lacks"),
    ],
)
def test_another_configuration_is_refused_by_the_first_difference(tmp_path, change, words):
    checkpoint.write(tmp_path / "one", state(), {})
    with pytest.raises(UserError, match=words):
        checkpoint.read(tmp_path / "one", change(state()))


def test_a_full_disk_stops_with_a_line_and_keeps_the_save_before(tmp_path, monkeypatch):
    saves = Checkpoints(tmp_path)
    saves.save(1, state(1), {})
    saves.wait()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_save_arrays", full)
    saves.save(2, state(2), {})
    with pytest.raises(UserError, match="No space left on device"):
        saves.wait()
    monkeypatch.undo()
    assert saves.steps() == [1]
    assert same(saves.restore(state())[1], state(1))
    assert not list(tmp_path.glob("*.partial*"))


def test_a_full_disk_is_told_without_the_traceback_that_orbax_logs(tmp_path, monkeypatch, caplog):
    import orbax.checkpoint as ocp

    def full(*_, **__):
        logging.getLogger("absl").error("run() raised an exception", exc_info=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.write(tmp_path / "1", state(), {})
    assert caplog.text == ""


def test_a_full_disk_is_told_without_the_paths_of_orbax(tmp_path, monkeypatch):
    def full(*_):
        raise ValueError(
            'RESOURCE_EXHAUSTED: Error writing "params/0.0" in OCDBT database at local file '
            '"/runs/.vidrec-50e3.partial/arrays/": Failed to write 766429 bytes to file 15: '
            "No space left on device [os_error_code='28']"
        )

    monkeypatch.setattr(checkpoint, "_save_arrays", full)
    with pytest.raises(UserError) as caught:
        checkpoint.write(tmp_path / "1", state(), {})
    assert str(caught.value) == f"cannot save {tmp_path / '1'}: No space left on device"


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        checkpoint.write(tmp_path / "file" / "1", state(), {})


@pytest.mark.parametrize("name", ["a [x]", "a\\b", "a\nb", "gs:", "é \udcff", "{a}*?", "$x$"])
def test_a_folder_of_any_name_is_written_and_read_back(name, tmp_path):
    tree = {"params": {"w": np.arange(3.0)}}
    try:
        (tmp_path / name).mkdir()
    except OSError:
        pytest.skip("this file system has no such names")
    checkpoint.write(tmp_path / name / "model", tree, {})
    found, _ = checkpoint.read(tmp_path / name / "model")
    np.testing.assert_array_equal(found["params"]["w"], np.arange(3.0))
    saves = checkpoint.Checkpoints(tmp_path / name / "checkpoints")
    saves.save(1, tree, {})
    saves.wait()
    assert saves.restore(tree) is not None
    saves.close()
