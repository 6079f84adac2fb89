"""Every command that a document shows is one: its files exist, its words and settings are known."""

import ast
import functools
import importlib
import importlib.util
import pkgutil
import re
import shlex
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
import tyro

import vidrec
from vidrec import config
from vidrec.cli import main
from vidrec.cli.commands import COMMANDS
from vidrec.cli.commands.data import Check, Doctor, Extract
from vidrec.cli.commands.training import Ablate, Train
from vidrec.errors import UserError
from vidrec.sweeps import ablation
from vidrec.sweeps.ablation import Ablation

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTES = [
    *sorted((ROOT / "vidrec" / "cli" / "commands").glob("*.py")),
    *sorted((ROOT / "experiments").glob("*.py")),
    *sorted((ROOT / "ablations").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]
READERS = ("mine.py", "units.py", "NAME")  # files that a reader has and we have not
COMMAND = r"(?:srun -n\d )?(?:vidrec |python (?:launch\.py|benchmarks/|-m benchmarks)).*"
KNOWN = {name for name, _, _ in config.fields()}
OPTIONS = {field.name.replace("_", "-") for kind in COMMANDS.values() for field in fields(kind)}


def code(page: str) -> str:
    """The fenced and indented blocks of a page."""
    fenced = re.findall(r"^```\w*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return "\n".join([*fenced, *re.findall(r"^    .*", page, re.MULTILINE)])


def quoted(page: str) -> list[str]:
    """What stands between backticks within the text."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]


def notes(module: str) -> str:
    """The docstrings of a file."""
    held = (ast.Module, ast.ClassDef)
    nodes = (node for node in ast.walk(ast.parse(module)) if isinstance(node, held))
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def commands_of(text: str) -> list[str]:
    """Lines that start a program of ours, without prompts and remarks; a backslash goes on."""
    text = re.sub(r"(?<=\S)( {4,}[A-Za-z]| +# ).*", "", text)  # remarks beside a command
    text = re.sub(r"\\\n *", "", text)
    lines = (line for each in text.splitlines() for line in each.split(" && "))
    lines = (re.sub(r"^(\$|Example:) ", "", line.strip()) for line in lines)
    return [line for line in lines if re.fullmatch(COMMAND, line)]


@functools.cache
def shown() -> tuple[tuple[str, str], ...]:
    """(file, command) of every document."""
    found = []
    for file in PAGES:
        page = file.read_text(encoding="utf-8")
        found += ((file, line) for line in commands_of(code(page)))
        found += ((file, line) for line in commands_of("\n".join(quoted(page))))
    for file in NOTES:
        found += ((file, line) for line in commands_of(notes(file.read_text(encoding="utf-8"))))
    return tuple((str(file.relative_to(ROOT)), line) for file, line in found)


@functools.cache  # documents repeat each other
def check(line: str) -> None:
    """Raises where a command line would not do."""
    if benchmark := re.match(r"python (-m )?(benchmarks\S*)", line):
        module, name = benchmark.groups()
        file = ROOT / (name.replace(".", "/") if module else name)
        check_benchmark(file / "__main__.py" if file.is_dir() else file, line)
        return
    words = shlex.split(re.sub(r"^srun -n\d ", "", line))
    words = words[1 if words[0] == "vidrec" else 2 :]
    if "--help" in words or (len(words) == 1 and line.startswith("vidrec")):
        assert words[0] in (*COMMANDS, *main.ABOUT), words[0]
        return
    command, settings = main.parse(words)
    if isinstance(command, Train) and command.more_epochs:
        return  # of a run that a reader has
    if isinstance(command, Train | Extract | Doctor):
        check_file(command.experiment, settings)
    elif isinstance(command, Ablate) and not any(
        file.startswith(READERS) for file in command.files
    ):
        ablation.trials(command.table(), settings, command.on)
    elif isinstance(command, Check):
        for pattern in command.files:
            assert list(ROOT.glob(pattern)), pattern


def check_file(path: str, settings: dict) -> None:
    if not path.startswith(READERS):
        found = ablation.load(path)
        assert not isinstance(found, Ablation), f"{path} is a table"
        config.override(found, settings)


def check_benchmark(file: Path, line: str) -> None:
    """Its options stand in its source; it is not run."""
    files = (file, ROOT / "benchmarks" / "turns.py")
    source = "".join(each.read_text(encoding="utf-8").split('"""', 2)[2] for each in files)
    for option in re.findall(r"--([a-z_-]+)", line):
        assert re.search(rf"\b{option}\b", source), f"{file.name} has no --{option}"


@pytest.mark.parametrize("file", sorted({file for file, _ in shown()}))
def test_every_command_is_known(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in (line for where, line in shown() if where == file):
        try:
            check(line)
        except (UserError, AssertionError, OSError, SystemExit) as error:
            pytest.fail(f"{file}: {line}\n{error}")


def test_every_option_and_setting_between_backticks_is_known():
    sections = {name.partition(".")[0] for name in KNOWN} - {"train"}  # also a file: `train.fit`
    for file in PAGES:
        for text in quoted(file.read_text(encoding="utf-8")):
            for word in re.findall(r"(?<!\S)--([a-z_.-]+)", text):
                if word != "section.field" and not re.fullmatch(COMMAND, text):
                    known = KNOWN if "." in word else OPTIONS
                    assert word in known, f"{file.name}: `{text}`"
            if re.fullmatch(rf"({'|'.join(sections)})\.[a-z_]+", text):
                assert text in KNOWN, f"{file.name}: `{text}`"


def test_every_name_of_code_in_the_design_exists():
    """`training.loop.fit` is vidrec.training.loop.fit; `data.root` is a setting."""
    page = (ROOT / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    rooms = "|".join(path.stem for path in (ROOT / "vidrec").iterdir())
    names = set()
    for text in quoted(page):
        match = re.match(rf"(?:vidrec\.)?((?:{rooms})\.[A-Za-z_][\w.]*)", text)
        if match and match[1] not in KNOWN and not match[1].endswith((".py", ".json", ".html")):
            names.add(match[1])
            pkgutil.resolve_name(f"vidrec.{match[1]}")
    assert len(names) > 20


def test_every_file_that_a_page_names_exists():
    path = (
        r"\b(?:vidrec|tests|benchmarks|docs|experiments|ablations)/[\w/.-]*\.(?:py|md|sh|svg|png)"
    )
    for file in PAGES:
        for name in set(re.findall(path, file.read_text(encoding="utf-8"))):
            assert (ROOT / name).exists(), f"{file.name}: {name}"


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub and mkdocs name them."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", each).strip().lower() for each in found)
    return {re.sub(r"[\s]+", "-", each) for each in plain}


def links(page: str) -> list[str]:
    """What a page links to and shows as pictures, in its text."""
    text = re.sub(r"^```.*?^```$|`[^`]*`", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def missing(file: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    lost = []
    for link in links(file.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        if re.match(r"[a-z]+:", link):
            continue
        if not target.is_file() or (
            anchor and anchor not in headings(target.read_text(encoding="utf-8"))
        ):
            lost.append(link)
    return lost


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file):
    assert missing(file) == []


def test_a_link_to_nothing_is_noticed(tmp_path):
    (tmp_path / "a.md").write_text("# One two: `x`\n[a](b.md) [b](a.md#one-two-x) [c](#three)\n")
    assert missing(tmp_path / "a.md") == ["b.md", "#three"]


def test_every_page_is_in_the_navigation():
    shown = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for file in (ROOT / "docs").rglob("*.md"):
        assert file.relative_to(ROOT / "docs").as_posix() in shown, file.name


API = r"^::: (\S+)\n(?:    options:\n      members: \[([^\]]*)\])?"
API_PAGES = sorted((ROOT / "docs" / "reference" / "api").glob("*.md"))


@pytest.mark.parametrize("page", API_PAGES, ids=lambda page: page.stem)
def test_every_name_of_an_api_page_exists(page):
    text = page.read_text(encoding="utf-8")
    for module, members in re.findall(API, text, re.MULTILINE):
        for name in filter(None, re.split(r"[,\s]+", members)):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
        importlib.import_module(module)
    for link in re.findall(r"\]\[(vidrec[\w.]+)\]", text):
        pkgutil.resolve_name(link)


def test_the_pages_made_by_scripts_are_of_today():
    listings = script("listings")
    table = listings.settings()
    assert [name for name in KNOWN if f"`{name}`" not in table] == ["seed"]
    listed = listings.commands()
    for name, kind in COMMANDS.items():
        part = listed.partition(f"## {name}\n")[2].partition("\n## ")[0]
        for field in fields(kind):
            word = f"`--{field.name.replace('_', '-')}`"
            shared = field.name in ("workdir", "json", "settings")
            positional = tyro.conf.Positional in get_args(field.type)
            assert shared or (word in part) != positional, (name, word)
    assert "`learning_rate`" in listings.experiments()
    for name, make in listings.PAGES.items():
        page = (listings.REFERENCE / name).read_text(encoding="utf-8")
        assert page == listings.written(page, make()), f"{name}: run python docs/listings.py"
    picture = (ROOT / "docs" / "images" / "rooms.svg").read_text(encoding="utf-8")
    assert picture == script("rooms").draw(), "run python docs/rooms.py"


def test_every_file_names_the_same_version():
    said = {
        "pyproject.toml": r'^version = "(.*)"$',
        "CITATION.cff": r"^version: (.*)$",
        "CHANGELOG.md": r"^## (\d+\.\d+\.\d+)",
    }
    for name, pattern in said.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.search(pattern, text, re.MULTILINE)[1] == vidrec.__version__, name


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "vidrec trian motion",
        "vidrec train motoin",
        "vidrec train motion --scaner.kind gru",
        "vidrec train motion --scanner.kind gruu",
        "vidrec ablate scanners --sedes 3",
        "vidrec ablate scanners --axis scanner.unit=3",
        "vidrec train scanners",
        "vidrec check experimnts/*.py",
        "python benchmarks/groups.py --sedes 1",
        "python benchmarks/goups.py",
    ],
)
def test_a_misspelt_command_is_noticed(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((UserError, AssertionError, OSError)):
        check(line)


def test_commands_are_found_wherever_they_stand():
    page = (
        "x `vidrec train\nmotion` y\n```\n$ a && vidrec status runs/x   # why\nvidrec ablate \\\n"
    )
    page += "    scanners\n```\n    python launch.py              the default\n"
    assert commands_of(code(page)) == [
        "vidrec status runs/x",
        "vidrec ablate scanners",
        "python launch.py",
    ]
    assert commands_of("\n".join(quoted(page))) == ["vidrec train motion"]
