"""A user's own file as a setting: what it means, what it imports, where its path is taken from."""

import hashlib
from pathlib import Path

import pytest

from vidrec import config
from vidrec.config import Config, override, plugins, shipped
from vidrec.errors import UserError
from vidrec.sweeps import ablation

CELL = "from vidrec.models.cells import Cell\n\n\nclass Mine(Cell):\n    size = {size}\n"
TABLE = """
from vidrec import Ablation, Config, load, override


def ablation():
    return Ablation("table", {base}, [{{"scanner.kind": "mine.py:Mine"}}, {{}}])
"""
EXPERIMENT = """
from vidrec.config import Config, Data, Encoder, Scanner


def config():
    return Config(
        data=Data(kind="videos", root="clips"),
        encoder=Encoder(weights="net.h5"),
        scanner=Scanner(kind="mine.py:Mine"),
    )
"""


def write(folder: Path, **files: str) -> Path:
    """Python files by name without ending."""
    for name, text in files.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_file_alone_has_the_hash_that_sha256sum_gives(tmp_path):
    content = b"class Mine: pass\r\n"
    (tmp_path / "mine.py").write_bytes(content)
    spec = f"{tmp_path}/mine.py:Mine"
    assert plugins.code_hash(spec) == hashlib.sha256(content).hexdigest()


def test_what_was_named_stays_what_it_was(tmp_path):
    write(tmp_path, mine="size = 1\n")
    pinned = plugins.pin(f"{tmp_path}/mine.py:size")
    write(tmp_path, mine="size = 2\n")
    assert (plugins.load_user(pinned), plugins.load_user(str(pinned))) == (1, 2)
    assert plugins.code_hash(pinned) != plugins.code_hash(str(pinned))


def test_files_beside_it_belong_to_it(tmp_path):
    """Plain, in packages, relative, one by another, and only where a function is called."""
    write(
        tmp_path,
        mine="import helper, tools.deep as deep\n"
        "from tools import twice\nfrom .late import late as relative\n"
        "import json, vidrec, numpy\n\n"
        "def value():\n    from late import late\n    return late(), relative()\n\n"
        "size = helper.one + deep.two + twice(helper.one)\n",
        helper="from base import one\n",
        base="one = 1\n",
        late="def late():\n    return 'late'\n",
        json="raise SystemExit('not the standard one')\n",
        unused="raise SystemExit('nobody imports it')\n",
    )
    write(
        tmp_path / "tools",
        __init__="from tools.deep import two\n\ndef twice(x):\n    return two * x\n",
        deep="from . import deeper\n\ntwo = deeper.two\n",
        deeper="two = 2\n",
    )
    (tmp_path / "vidrec").mkdir()
    write(tmp_path / "vidrec", __init__="raise SystemExit('not ours')\n")
    pinned = plugins.pin(f"{tmp_path}/mine.py:size")
    names = sorted(pinned.source.texts)
    assert names == sorted(
        [
            *("mine.py", "helper.py", "base.py", "late.py"),
            *("tools/__init__.py", "tools/deep.py", "tools/deeper.py"),
        ]
    )
    value = plugins.load_user(plugins.UserCode(f"{tmp_path}/mine.py:value", pinned.source))
    for file in tmp_path.rglob("*.py"):
        file.unlink()
    assert plugins.load_user(pinned) == 5
    assert value() == ("late", "late")


def test_two_helpers_of_one_name_are_two(tmp_path):
    specs = []
    for size in (1, 2):
        folder = write(
            tmp_path / str(size),
            mine="import helper\nsize = helper.size\n",
            helper=f"size = {size}",
        )
        specs.append(f"{folder}/mine.py:size")
    assert [plugins.load_user(spec) for spec in specs] == [1, 2]
    one, two = map(plugins.code_hash, specs)
    assert one != two


def test_a_helper_is_part_of_what_a_trial_is(tmp_path):
    write(tmp_path, mine="import helper\n", helper="size = 1\n")
    cfg = override(Config(), {"scanner.kind": f"{tmp_path}/mine.py:Mine"})
    before = config.identifying_settings(cfg), config.signature(cfg)
    write(tmp_path, helper="size = 2\n")
    after = config.identifying_settings(cfg), config.signature(cfg)
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("import nothing_of_that_name\n", r"mine\.py cannot be imported \(ModuleNotFoundError"),
        ("def broken(:\n", r"mine\.py cannot be imported \(SyntaxError"),
        ("import helper\n", r"helper\.py cannot be imported \(SyntaxError"),
        ("\0", r"mine\.py cannot be imported \(S?y?"),
        ("raise SystemExit(3)\n", r"mine\.py cannot be imported \(SystemExit"),
        ("size = 1\n", "has no 'Mine'"),
    ],
)
def test_a_file_that_does_not_run_is_one_line(tmp_path, text, line):
    write(tmp_path, mine=text, helper="def broken(:\n")
    with pytest.raises(UserError, match=line) as error:
        plugins.load_user(f"{tmp_path}/mine.py:Mine")
    assert "\n" not in str(error.value)


def test_paths_in_an_experiment_are_taken_from_its_folder(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    write(home, mine=CELL.format(size=1), experiment=EXPERIMENT)
    write(elsewhere, mine="raise SystemExit('the wrong one')\n")
    monkeypatch.chdir(elsewhere)
    cfg = ablation.load("../home/experiment.py")
    assert cfg.scanner.kind == f"{home}/mine.py:Mine"
    assert cfg.data.root == f"{home}/clips"
    assert cfg.encoder.weights == f"{home}/net.h5"
    assert config.load_user(cfg.scanner.kind).size == 1


@pytest.mark.parametrize("base", ['"experiment.py"', 'load("experiment.py")', "Config()"])
def test_paths_in_an_ablation_are_taken_from_its_folder(base, tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    write(home, mine=CELL.format(size=1), experiment=EXPERIMENT, table=TABLE.format(base=base))
    wrong = "raise SystemExit('the wrong one')\n"
    write(elsewhere, mine=wrong, experiment=wrong)
    monkeypatch.chdir(elsewhere)
    [first, second] = ablation.trials(ablation.load(home / "table.py"))
    assert first.config.scanner.kind == f"{home}/mine.py:Mine"
    assert second.config.scanner.kind == ("lstm" if "Config" in base else f"{home}/mine.py:Mine")


def test_paths_on_the_command_line_and_in_python_are_taken_from_the_current_folder(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert config.parse("scanner.kind", "mine.py:Mine") == f"{tmp_path}/mine.py:Mine"
    assert config.parse("data.root", "clips") == f"{tmp_path}/clips"
    assert config.parse("encoder.weights", "imagenet") == "imagenet"
    cfg = override(Config(), {"scanner.kind": "mine.py:Mine", "data.root": "clips"})
    [trial] = ablation.trials(ablation.Ablation("one", cfg, [{"encoder.weights": "runs/a"}]))
    monkeypatch.chdir("/")
    assert trial.config.scanner.kind == f"{tmp_path}/mine.py:Mine"
    assert trial.config.data.root == f"{tmp_path}/clips"
    assert trial.config.encoder.weights == f"{tmp_path}/runs/a"
    assert trial.overrides == {"encoder.weights": "runs/a"}


def test_what_came_with_vidrec_is_not_looked_for_in_the_current_folder(tmp_path, monkeypatch):
    """Where nobody names a file, a stranger's folder cannot put its own in the place of ours."""
    wrong = "raise SystemExit('the wrong one')\n"
    write(tmp_path / "experiments", motion=wrong, ucf101_lstm=wrong)
    write(tmp_path / "ablations", scanners=wrong)
    (tmp_path / "motion").write_text(wrong)
    monkeypatch.chdir(tmp_path)
    from vidrec.cli.commands import training
    from vidrec.report import ucf101

    assert ablation.load(training.EXPERIMENT) == ablation.load("motion")
    assert len(ablation.trials(ablation.load(*training.TABLES))) == 9
    assert shipped.find(ucf101.EXPERIMENT).is_absolute()
    with pytest.raises(UserError, match="the wrong one"):
        ablation.load("experiments/motion.py")


def test_a_folder_in_place_of_an_experiment_is_told_where_it_belongs(tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path}: it is a folder; .*--data.root {tmp_path}`"):
        shipped.find(tmp_path)


def test_code_read_from_a_folder_does_not_run(tmp_path):
    write(tmp_path, mine="size = 1\n")
    cfg = override(Config(), {"scanner.kind": f"{tmp_path}/mine.py:size"})
    stored = config.from_dict({"scanner": {"kind": str(cfg.scanner.kind)}})
    assert stored.scanner.kind == cfg.scanner.kind
    for use in (plugins.load_user, plugins.pin, plugins.code_hash):
        with pytest.raises(UserError, match=r"mine\.py:size .* --trust-code"):
            use(stored.scanner.kind)


def test_nor_where_its_path_is_relative(tmp_path, monkeypatch):
    write(tmp_path, mine="raise SystemExit('a stranger')\n")
    monkeypatch.chdir(tmp_path)
    stored = config.from_dict({"scanner": {"kind": "mine.py:size"}})
    [trial] = ablation.trials(ablation.Ablation("one", stored, [{}]))
    with pytest.raises(UserError, match="--trust-code"):
        ablation.with_code([trial])


def test_weights_are_no_code():
    with pytest.raises(UserError, match=r"encoder\.weights = 'mine\.py:net' should be random"):
        override(Config(), {"encoder.weights": "mine.py:net"})
