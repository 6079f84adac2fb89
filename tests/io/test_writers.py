"""One module writes files and one reads them back: found by reading the source."""

import ast
from pathlib import Path

import vidrec

HOUSE = Path(vidrec.__file__).parent
# What creates or replaces a file or a folder, by the last name of what is called.
WRITERS = {
    *("write_text", "write_bytes", "savefig", "savez", "savez_compressed", "tofile"),
    *("save_file", "dump", "copyfile", "copy2", "copytree", "move", "touch", "symlink_to"),
    *("rename", "link", "mkstemp", "mkdtemp", "NamedTemporaryFile", "SummaryWriter"),
    *("TemporaryDirectory", "TemporaryFile", "truncate", "hardlink_to"),
}
# Names that others have too, so with what stands before them.
QUALIFIED = {"np.save", "shutil.copy", "os.replace", "os.open", "os.mkfifo"}
OPENERS = {"open", "fdopen", "File", "ZipFile"}
# (file, what it calls): why it needs no help of io/files.
ALLOWED = {
    ("sweeps/cluster/pool.py", "open"): "a job's log, written while it runs",
    ("io/checkpoint.py", "TemporaryDirectory"): "a link to a folder whose name orbax cannot take",
    ("io/checkpoint.py", "symlink_to"): "a link to a folder whose name orbax cannot take",
    ("sweeps/search/engine.py", "TemporaryDirectory"): "Optuna's journal, read into memory",
    ("sweeps/cluster/job.py", "touch"): "a lock, which holds nothing",
    ("cli/output.py", "fdopen"): "stdout",
    ("training/loop.py", "open"): "the lock, which holds nothing",
    ("io/files/content.py", "savez_compressed"): "into memory",
    ("data/video/writing.py", "open"): "PyAV, into a file of files.writing",
    ("report/tensorboard.py", "SummaryWriter"): "into a folder of files.writing_folder",
    ("evaluation/export/__init__.py", "copytree"): "into a folder of files.writing_folder",
    ("evaluation/export/__init__.py", "copy2"): "into a folder of files.writing_folder",
    (
        "features/shards.py",
        "open",
    ): "appended under checksums and locks of its own",
    ("features/shards.py", "truncate"): "an append that failed is taken back",
    ("report/figures.py", "savefig"): "into memory",
    ("io/runs.py", "copytree"): "into a folder of files.writing_folder",
}


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def renames(node: ast.Call) -> bool:
    """`path.replace(other)`; `"a".replace("b", "c")` and `replace(thing, name=…)` are none."""
    return isinstance(node.func, ast.Attribute) and len(node.args) == 1 and not node.keywords


def writes(node: ast.Call) -> bool:
    name = called(node)
    if name in OPENERS:
        given = [*node.args, *(k.value for k in node.keywords if k.arg == "mode")]
        modes = [m.value for m in given if isinstance(m, ast.Constant) and isinstance(m.value, str)]
        return any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)
    if name == "replace" and renames(node):
        return True
    return name in WRITERS or ast.unparse(node.func) in QUALIFIED


def writers(source: str) -> list[str]:
    return [
        ast.unparse(node.func) if ast.unparse(node.func) in QUALIFIED else called(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and writes(node)
    ]


def test_every_file_is_written_by_one_module():
    found = {}
    for file in sorted(HOUSE.rglob("*.py")):
        name = str(file.relative_to(HOUSE))
        if name == "io/files/atomic.py" or name.startswith(("experiments/", "ablations/")):
            continue
        for call in writers(file.read_text()):
            found.setdefault((name, call), 0)
            found[name, call] += 1
    assert sorted(found.keys() - ALLOWED.keys()) == []


def test_a_new_writer_would_be_found():
    for line in (
        "open('a', 'w')",
        "open(file, mode='ab')",
        "path.open('x+b')",
        "path.write_text('a')",
        "np.savez(file, a=1)",
        "os.replace(a, b)",
        "a.rename(b)",
        "json.dump(a, b)",
        "figure.savefig(file)",
        "tempfile.NamedTemporaryFile()",
        "av.open(path, 'w')",
    ):
        assert writers(line), line
    for line in ("open('a.csv')", "path.open('rb')", "'a'.replace('b', 'c')", "replace(a, b=1)"):
        assert not writers(line), line


# What parses a file that may be damaged or foreign, and who may besides io/files/content.py.
READERS = {"json.load", "json.loads", "np.load", "pickle.load", "pickle.loads", "tomllib.load"}
PARSERS = {
    "evaluation/export/loader.py": "stands alone, and checks SHA-256 before",
    "config/arguments.py": "a setting's text on the command line",
    "models/encoders/onnx_net.py": "a text that the same function wrote, since a cache needs one",
    "features/shards.py": "lines of an index, after their checksum",
    "data/datasets/feature_files.py": "a user's arrays, memory-mapped",
}


def test_every_file_is_read_back_by_one_module():
    found = set()
    for file in sorted(HOUSE.rglob("*.py")):
        name = str(file.relative_to(HOUSE))
        if name == "io/files/content.py" or name.startswith(("experiments/", "ablations/")):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
                found.add(name)
    assert sorted(found - PARSERS.keys()) == []
