"""The order of the rooms, their size, and what importing vidrec loads."""

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

LONGEST = 500  # lines of a file
MOST_POSITIONAL = 5  # parameters of a function, self and cls not counted


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


def sources() -> dict[str, ast.Module]:
    """The parsed files of vidrec by their path inside it, shipped experiments left out."""
    files = (file.relative_to(HOUSE) for file in sorted(HOUSE.rglob("*.py")))
    return {
        str(file): ast.parse((HOUSE / file).read_text(encoding="utf-8"))
        for file in files
        if file.parts[0] not in ("experiments", "ablations")
    }


def positional(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    """Count the parameters that may be passed by position, self and cls left out."""
    names = [entry.arg for entry in (*function.args.posonlyargs, *function.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_no_file_is_longer_than_500_lines():
    long = {
        name
        for name in sources()
        if len((HOUSE / name).read_text(encoding="utf-8").splitlines()) > LONGEST
    }
    assert long == set()


def test_no_function_takes_more_than_five_positional_parameters():
    functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    long = {
        name: f"{getattr(node, 'name', 'lambda')} takes {positional(node)}"
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, functions) and positional(node) > MOST_POSITIONAL
    }
    assert long == {}


def test_parameters_are_counted_as_a_caller_passes_them():
    def counted(text: str) -> int:
        return positional(next(ast.walk(ast.parse(text).body[0])))

    assert counted("def f(a, b, /, c, d=1, *e, f, g=2, **h): ...") == 4
    assert counted("def f(self, a): ...") == counted("def f(cls, a): ...") == 1
    assert counted("async def f(a, self): ...") == 2


def top_level(tree: ast.Module):
    """The statements that run when a module is loaded, those for a type checker left out."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.Try) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test)
        ):
            waiting += [*node.body, *node.orelse]


def packages_of(name: str) -> set[str]:
    return {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}


def loaded_by(name: str, tree: ast.Module, modules) -> set[str]:
    """The modules that a module loads while it is loaded itself, with the packages around them."""
    loaded = set()
    for node in top_level(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            loaded |= {full if full in modules else node.module for full in names}
        elif isinstance(node, ast.Import):
            loaded |= {alias.name for alias in node.names}
    around = set().union(*map(packages_of, loaded)) if loaded else set()
    return ((loaded | around) & set(modules)) - packages_of(name) - {name}


def circles(trees: dict[str, ast.Module]) -> list[list[str]]:
    """Groups of modules each of which loads all others, directly or through others."""
    graph = {name: loaded_by(name, tree, trees) for name, tree in trees.items()}
    reached: dict[str, set[str]] = {}
    for name in graph:
        seen, waiting = set(), list(graph[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += graph[other]
        reached[name] = seen
    groups = {
        tuple(sorted(other for other in seen if name in reached[other]))
        for name, seen in reached.items()
        if name in seen
    }
    return [list(group) for group in sorted(groups)]


def test_no_modules_load_each_other():
    """So that each can be imported first."""
    trees = {
        f"vidrec.{name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__"): tree
        for name, tree in sources().items()
    }
    assert circles(trees) == []
    texts = {"v.a": "from v import b", "v.b": "if x:\n import v.c", "v.c": "from v.a import f"}
    texts |= {"v": "", "v.d": "from v.a import f", "v.e": "def f():\n from v import e, d"}
    assert circles({n: ast.parse(t) for n, t in texts.items()}) == [["v.a", "v.b", "v.c"]]


def test_tests_share_by_helpers_and_not_by_each_other():
    folder = Path(__file__).parent
    sharing = [
        f"{file.relative_to(folder)} imports {node.module}"
        for file in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("test_")
    ]
    assert sharing == []


def test_no_module_is_callable():
    """A module whose class is replaced could be a function and a module at once."""
    replaced = [
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "__class__"
        and isinstance(node.ctx, ast.Store)
    ]
    assert replaced == []


def test_pmap_lives_in_one_file():
    users = {
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "pmap"
    }
    assert users == {"training/devices.py"}


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
