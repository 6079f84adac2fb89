"""No byte of a file that is read back can be changed in silence, and none costs a traceback.

Files are changed byte by byte, cut and emptied, and the commands that read them are run: each gives
the same answer as before, or one line that names what is damaged.
"""

import copy
import json
import os
import random

import pytest
from helpers import result_folders
from helpers.trained_folder import TrainedFolder

from vidrec import report
from vidrec.errors import UserError
from vidrec.evaluation.predict import choose
from vidrec.report import figures

pytestmark = pytest.mark.slow(minutes=12)
DAMAGES = 500


def damaged(content, rng):
    """The content with one byte changed; rarely cut, emptied, or filled with zeros."""
    kind = rng.random()
    if not content or kind < 0.04:
        return b"" if content else b"x"
    if kind < 0.12:
        return content[: rng.randrange(len(content))]
    if kind < 0.15:
        return bytes(len(content))
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]


def page(trained, name):
    """What a report shows, besides the figures' own ids and the times."""
    folder = {"report": trained.single, "report table": trained.table}.get(name)
    return folder and (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return TrainedFolder(tmp_path_factory.mktemp("damage"))


def test_no_changed_byte_goes_unnoticed(trained):
    rng = random.Random(int(os.environ.get("VIDREC_TEST_SEED", "5")))
    expected = {}
    for name, words in trained.commands().items():
        status, answer, _ = trained.run(words)
        expected[name] = (status, answer, page(trained, name))
        assert status == 0, name
        trained.restore()
    found, wrong, noticed = trained.files(), [], 0
    assert len(found) > 30
    names = sorted(found)
    for number in range(int(os.environ.get("VIDREC_TEST_DAMAGES", DAMAGES))):
        name = names[number % len(names)]
        file = trained.folder / name
        content = damaged(file.read_bytes(), rng)
        file.write_bytes(content)
        command = rng.choice(found[name])
        try:
            status, answer, said = trained.run(trained.commands()[command])
        except pytest.fail.Exception as error:
            wrong.append(f"{command}, {name}: traceback {str(error)[-900:]}")
        else:
            lines = [line for line in said.splitlines() if line.startswith("error: ")]
            refused = status == 2 and len(lines) == 1 and len(lines[0]) < 600
            if refused or str(file) in said + json.dumps(answer):
                noticed += 1
            elif (status, answer, page(trained, command)) != expected[command]:
                what = "page" if (status, answer) == expected[command][:2] else f"{status} {said}"
                wrong.append(f"{command}, {name}: another answer without a word: {what[-600:]}")
        trained.restore()
    print(f"{noticed} of the damages were refused in a line")
    assert not wrong, "\n".join(wrong)


BAD = [None, 5, "x", [], {}, [[1]], {"a": {"b": []}}, True, -1.5, KeyError]


def paths(content, at=()):
    """Where values lie in nested content; of lists the first one."""
    if at:
        yield at
    if isinstance(content, dict):
        for name in content:
            yield from paths(content[name], (*at, name))
    elif isinstance(content, list) and content:
        yield from paths(content[0], (*at, 0))


def changed(content, at, bad):
    content = copy.deepcopy(content)
    inner = content
    for name in at[:-1]:
        inner = inner[name]
    if bad is KeyError:
        del inner[at[-1]]
    else:
        inner[at[-1]] = bad
    return content


def test_values_of_another_type_and_missing_keys_cost_no_traceback(tmp_path, monkeypatch):
    """Of files without checksums, as another program may write them."""
    monkeypatch.setattr(figures, "draw", lambda *_: '<svg width="10" height="10"></svg>')
    monkeypatch.setattr(figures, "save", lambda figure, _: figure)
    single = result_folders.run(tmp_path / "single", steps=6)
    rows = (("mean", 0.6, 330), ("lstm", 3.6, 25482))
    table = result_folders.ablation(tmp_path / "table", seeds=2, steps=6, rows=rows)
    trial = sorted(table.glob("trials/*"))[0]
    for each in table.glob("trials/*"):
        (each / "model").mkdir()
    beside = [single / f"{name}.json" for name in ("result", "config", "environment", "model")]
    refused = []
    uses = [
        report.build,
        report.table,
        lambda folder: report.compare(single, folder, tmp_path / "compared"),
        lambda folder: str(report.terminal(folder)),
        choose,
    ]
    for file in [*beside, table / "ablation.json", trial / "result.json"]:
        content = json.loads(file.read_text())
        for at in paths(content):
            for bad in BAD:
                file.write_text(json.dumps(changed(content, at, bad)))
                for use in uses:
                    try:
                        use(single if file in beside else table)
                    except UserError as error:
                        refused.append(str(error))
                    except Exception as error:
                        where = ".".join(map(str, at))
                        pytest.fail(f"{file.name}, {where} = {bad!r}: {error!r}")
        file.write_text(json.dumps(content))
    assert len(refused) > 500
    assert all(len(each.splitlines()) == 1 for each in refused)
