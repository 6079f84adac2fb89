"""Groups as jobs: what is asked of a cluster, signals inside of a job, a pool of devices; and a
real SLURM of one host, where one can be started.
"""

import contextlib
import itertools
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from vidrec.cli import main
from vidrec.config import Config, override
from vidrec.errors import UserError
from vidrec.sweeps import cluster, plan, runner
from vidrec.sweeps.ablation import Ablation, product
from vidrec.sweeps.cluster import folders, job
from vidrec.sweeps.cluster import pool as pool_room
from vidrec.sweeps.cluster.options import DATA
from vidrec.sweeps.cluster.pool import Pool
from vidrec.training import loop

LAB = Path(__file__).with_name("slurm_lab.sh")
TINY = {
    "data.kind": "tfds",
    "data.tfds": "motion/clips=60,frames=8,size=16",
    "encoder.size": 16,
    "frames.length": 4,
    "scanner.kind": "mean",
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.save_seconds": 0.5,
}


def tiny(groups: int = 2, **settings) -> Ablation:
    """A table of so many programs (batch sizes change shapes), two trials in each."""
    base = override(Config(), TINY | settings)
    axes = {"train.batch_size": [5 + k for k in range(groups)]}
    return Ablation("tiny", base, product(axes | {"optim.learning_rate": [1e-3, 1e-2]}))


def absent(groups: int = 3) -> Ablation:
    """A table whose data is not here: it can be planned, not trained."""
    base = override(Config(), {"data.kind": "videos", "data.root": "/nowhere/at/all"})
    return Ablation("absent", base, product({"scanner.units": list(range(4, 4 + groups))}))


def rows(folder: Path) -> list[dict]:
    """Lines of the table, without seconds."""
    found = runner.collect(folder, trained=False).rows
    return [{n: v for n, v in row.items() if not n.startswith("seconds_")} for row in found]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Data, features and compiled programs, made once for all tests of this file and their jobs."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDREC_CACHE", str(folder))
        settings = {
            "jax_compilation_cache_dir": str(folder / "xla"),
            "jax_persistent_cache_min_compile_time_secs": 0.1,
        }
        before = {name: getattr(jax.config, name) for name in settings}
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield folder
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


# --------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("state", "alive"),
    [("RUNNING", True), ("pending (Priority)", True), ("CANCELLED by 0", False), ("", False)],
)
def test_a_state_may_carry_its_reason(state, alive):
    assert folders.is_alive(state) == alive


def test_a_site_file_gives_defaults_and_the_command_line_wins(tmp_path):
    site = tmp_path / "site.toml"
    site.write_text(
        'partition = "gpu"\nminutes = 90\ngpus = 2\nsetup = ["module load cuda"]\n'
        '[sbatch]\naccount = "vision"\nqos = "long"\n'
    )
    given = {"minutes": 30, "gpus": None, "sbatch": cluster.parse_sbatch(["qos=short", "--x"])}
    options = cluster.read_options(site, given)
    assert (options.partition, options.minutes, options.gpus) == ("gpu", 30, 2)
    assert options.sbatch == {"account": "vision", "qos": "short", "x": True}
    assert options.setup == ("module load cuda",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('partitoin = "gpu"', "unknown option 'partitoin'; did you mean 'partition'?"),
        ('minutes = "long"', "minutes = 'long' should be a int"),
        ("minutes = 0", "minutes = 0 should be a whole number, 1 or more"),
        ("minutes = ", "is no TOML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_site_file_is_one_line(tmp_path, text, line):
    site = tmp_path / "site.toml"
    if text is not None:
        site.write_text(text)
    with pytest.raises(UserError, match=line.replace("?", r"\?")) as error:
        cluster.read_options(site)
    assert "\n" not in str(error.value)


def test_a_dry_run_shows_both_scripts_and_writes_nothing(tmp_path):
    pytest.importorskip("submitit")
    options = cluster.Options(
        partition="gpu",
        minutes=90,
        gpus=1,
        mem="8G",
        sbatch={"mail-user": "a@b", "exclusive": True},
    )
    data, array = cluster.dry_run(absent(3), tmp_path / "runs", options)
    for script in (data, array):
        for line in ("partition=gpu", "time=90", "gpus-per-node=1", "mem=8G", "mail-user=a@b"):
            assert f"#SBATCH --{line}\n" in script
        assert "#SBATCH --exclusive\n" in script
        assert "export VIDREC_CACHE=" in script
    assert "--array" not in data
    assert "--dependency" not in data
    assert "#SBATCH --array=0-2%3\n" in array
    assert "#SBATCH --dependency=afterok:DATA_JOB\n" in array
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in array
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"sbatch": {"account": "a\n#SBATCH --uid=root"}}, "account=a\\n#SBATCH"),
        ({"sbatch": {"x\n#SBATCH --y": "z"}}, "an option of sbatch is like account"),
        ({"sbatch": {"--wrap": "z"}}, "an option of sbatch is like account"),
        ({"partition": "gpu\n#SBATCH --wrap=x"}, "partition=gpu\\n"),
        ({"mem": "1G\r"}, "mem=1G\\r"),
    ],
)
def test_an_option_of_a_job_is_one_line_of_its_script(more, line):
    with pytest.raises(UserError) as error:
        cluster.Options(**more)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["two\nlines", "two\n#SBATCH --wrap=x", "100%j", "a\rb"])
def test_a_workdir_that_slurm_would_change_is_refused_before_any_work(name, tmp_path):
    pytest.importorskip("submitit")
    workdir = tmp_path / name
    with pytest.raises(UserError, match="--workdir") as error:
        cluster.dry_run(absent(2), workdir, cluster.Options())
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--workdir"):
        cluster.launch(absent(2), workdir, cluster.Options())
    assert not list(tmp_path.iterdir())


def test_words_of_a_script_are_read_back_by_a_shell(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("VIDREC_CACHE", str(tmp_path / "it's $(x)\ntwo"))
    workdir = tmp_path / "it's $(touch x) `y` é"
    options = cluster.Options(sbatch={"comment": "it's $(z)"})
    for script in cluster.dry_run(absent(2), workdir, options):
        head = script.partition("# setup")[0]
        asked = [line for line in head.splitlines() if line.startswith("#SBATCH")]
        assert sum("comment" in line for line in asked) == 1
        [comment] = [shlex.split(each, comments=False)[1] for each in asked if "comment" in each]
        assert comment == "--comment=it's $(z)"
        [command] = [line for line in script.splitlines() if line.startswith("srun")]
        words = shlex.split(command)
        [folder] = [word for word in words if word.endswith("/jobs")]
        assert folder.startswith(str(workdir))
        assert "#SBATCH" not in script.partition("# setup")[2]


@pytest.mark.parametrize("ids", [["--me"], ["1", "-u root"], ["1_[2]"], [""]])
def test_ids_that_are_none_reach_no_program_of_slurm(ids, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it was run"))
    handles = [cluster.Handle("g", job, "") for job in ids]
    for ask in (cluster.Slurm().cancel, cluster.Slurm().states):
        with pytest.raises(UserError, match="is no job of SLURM"):
            ask(handles)


def test_a_log_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for log in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert folders.last_line(str(log)) in (f"{log} is no file", "")
    assert folders.last_line("a\0b") == ""
    site = tmp_path / "pipe"
    with pytest.raises(UserError, match="is no file"):
        cluster.read_options(site)


# ----------------------------------------------------------------- a scheduler made of three words


@pytest.fixture
def scheduler(tmp_path, monkeypatch):
    """Programs that answer like SLURM's from files, and note how they were called."""
    pytest.importorskip("submitit")
    programs = tmp_path / "bin"
    programs.mkdir()
    answers = {
        "sbatch": 'n=$(ls "$HERE"/script.* 2>/dev/null | wc -l); cp "$1" "$HERE/script.$n"\n'
        'if [ -f "$HERE/refuse" ] && grep -q -e "$(cat "$HERE/refused" 2>/dev/null)" "$1"; then\n'
        'cat "$HERE/refuse" >&2; exit 1; fi\n'
        'echo "Submitted batch job $((41 + n))"',
        "squeue": 'cat "$HERE/queue" 2>/dev/null',
        "scancel": 'echo "$@" >>"$HERE/cancelled"',
        "sinfo": "echo main; echo urgent",
        "sacct": "exit 1",
        "srun": "exit 1",
    }
    for name, body in answers.items():
        program = programs / name
        program.write_text(f"#!/bin/sh\nHERE={tmp_path}\n{body}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def test_one_job_makes_the_data_and_an_array_waits_for_it(scheduler):
    told = []
    folder = cluster.launch(absent(3), scheduler / "runs", tell=told.append)
    scripts = [(scheduler / f"script.{k}").read_text() for k in range(2)]
    assert "--array" not in scripts[0]
    assert "--array=0-2%3" in scripts[1]
    assert "--dependency=afterok:41" in scripts[1]
    noted = json.loads((folder / "jobs.json").read_text())
    assert [each["job"] for each in noted["jobs"]] == ["41", "42_0", "42_1", "42_2"]
    assert [each["group"] for each in noted["jobs"]] == [DATA, *folders.groups(folder)]
    assert any("sacct does not answer" in line for line in told)
    # What a job trains lies in the folder.
    for name, ids in folders.groups(folder).items():
        assert [member.id for member in plan.held(folder, name).trials] == ids


def test_a_started_group_is_not_started_again_and_an_ended_one_is(scheduler):
    folder = cluster.launch(absent(3), scheduler / "runs")
    queue = scheduler / "queue"
    queue.write_text(
        "41|COMPLETED|None\n42_0|RUNNING|None\n42_1|PENDING|Resources\n42_2|NODE_FAIL|NodeDown\n"
    )
    cluster.launch(absent(3), scheduler / "runs")
    noted = {each.group: each.job for each in folders.read_jobs(folder)[1]}
    assert list(noted.values()) == ["43", "42_0", "42_1", "44"]
    assert "--array" not in (scheduler / "script.3").read_text()
    with pytest.raises(UserError, match="has jobs that run"):
        cluster.launch(absent(3), scheduler / "runs", retry="failed")


def test_status_tells_states_reasons_and_logs(scheduler):
    folder = cluster.launch(absent(4), scheduler / "runs")
    log = Path(folders.read_jobs(folder)[1][2].log)
    log.write_text("group 1\nvidrec.errors.UserError: no such data\nsrun: error: task 0: Exited\n")
    (scheduler / "queue").write_text(
        "41|RUNNING|None\n42_0|PENDING|Dependency\n42_1|FAILED|NonZeroExitCode\n"
        "42_2|FAILED|NonZeroExitCode\n"
    )
    shown = cluster.status(folder)
    assert shown["data"]["state"] == "running"
    states = [(each["job"], each["state"]) for each in shown["groups"]]
    assert states == [
        ("42_0", "pending (Dependency)".lower()),
        ("42_1", "failed"),
        ("42_2", "failed"),
        ("42_3", "lost"),
    ]
    assert shown["groups"][1]["why"] == "vidrec.errors.UserError: no such data"
    assert "file system that all nodes share" in shown["groups"][2]["why"]
    assert (shown["finished"], shown["trials"], shown["report"]) == (0, 4, None)
    moved = Path(shutil.move(folder, scheduler / "moved"))
    assert cluster.status(moved)["groups"][1]["why"] == shown["groups"][1]["why"]
    assert cluster.status(moved)["groups"][1]["log"] == str(moved / log.relative_to(folder))


def test_a_group_that_a_command_trains_here_is_running(scheduler):
    folder = plan.plan_table(absent(2), scheduler / "runs").folder
    first, second = folders.groups(folder)
    (folder / "groups" / first).mkdir(parents=True)
    with loop.claim(folder / "groups" / first):
        states = {each["group"]: each["state"] for each in cluster.status(folder)["groups"]}
    assert states == {first: "running", second: "not started"}
    assert {each["state"] for each in cluster.status(folder)["groups"]} == {"not started"}


def test_a_group_that_was_stopped_is_not_called_not_started(scheduler, monkeypatch):
    folder = plan.plan_table(absent(2), scheduler / "runs").folder
    first, second = folders.groups(folder)
    records = {first: [{"epoch": 3, "status": "running"}]}
    monkeypatch.setattr(folders, "_records", lambda group: records.get(group.name, []))
    states = {each["group"]: each["state"] for each in cluster.status(folder)["groups"]}
    assert states == {first: "stopped", second: "not started"}


def test_another_engine_waits_for_the_first_and_forgets_its_jobs(scheduler):
    folder = cluster.launch(absent(2), scheduler / "runs")
    options = cluster.Options(engine="pool", devices=("0",))
    (scheduler / "queue").write_text("41|RUNNING|None\n42_0|RUNNING|None\n42_1|RUNNING|None\n")
    with pytest.raises(UserError, match="has jobs of slurm that run"):
        cluster.launch(absent(2), scheduler / "runs", options)
    folders.write_jobs(folder, "pool", [folders.Handle("g", "7@host@1", "")])
    assert [each.job for each in folders.read_jobs(folder)[1]] == ["7@host@1"]
    assert cluster.status(folder)["trials"] == 2


def test_status_shows_the_job_of_the_data(scheduler, capsys):
    folder = cluster.launch(absent(2), scheduler / "runs")
    Path(folders.read_jobs(folder)[1][0].log).write_text("UserError: /nowhere is no folder\n")
    (scheduler / "queue").write_text("41|FAILED|NonZeroExitCode\n42_0|CANCELLED|\n")
    with pytest.raises(SystemExit):
        main.main(["status", str(folder)])
    told = "".join(capsys.readouterr().out.split())
    assert "data" in told
    assert "/nowhere" in told.replace("│", "")


def test_a_group_in_parts_is_as_far_as_its_furthest(tmp_path):
    lines = {
        "g-1": [(1, "running", 0.5), (2, "done", 0.6)],
        "g-2": [(1, "running", 0.7)],
    }
    for name, records in lines.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            "".join(
                json.dumps({"epoch": epoch, "status": status, "val/accuracy": score}) + "\n"
                for epoch, status, score in records
            )
            + '{"epoch": 3'  # being written
        )
    shown = folders._progress(tmp_path / "g")
    assert shown == {"epoch": 2, "epochs": None, "alive": 1, "best": 0.7}


def test_cancel_ends_the_jobs_that_live_and_no_others(scheduler):
    folder = cluster.launch(absent(3), scheduler / "runs")
    (scheduler / "queue").write_text(
        "41|COMPLETED|None\n42_0|RUNNING|None\n42_1|COMPLETED|None\n42_2|PENDING|Priority\n7|RUNNING|\n"
    )
    assert cluster.cancel(folder) == ["42_0", "42_2"]
    assert (scheduler / "cancelled").read_text() == "42_0 42_2\n"


def test_a_queue_that_does_not_answer_starts_nothing_twice(scheduler):
    folder = cluster.launch(absent(2), scheduler / "runs")
    (scheduler / "bin" / "squeue").write_text("#!/bin/sh\necho 'no controller' >&2; exit 1\n")
    assert cluster.status(folder)["note"] == "squeue does not answer: no controller"
    with pytest.raises(UserError, match="squeue does not answer: no controller"):
        cluster.launch(absent(2), scheduler / "runs")
    assert not (scheduler / "script.2").exists()


def test_a_refused_partition_names_those_there_are(scheduler):
    said = "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job failed\n"
    (scheduler / "refuse").write_text(said)
    with pytest.raises(UserError) as error:
        cluster.launch(absent(2), scheduler / "runs", cluster.Options(partition="gpuu"))
    line = "--partition gpuu: invalid partition specified: gpuu; there are main urgent"
    assert str(error.value) == line


def test_no_job_is_left_behind_when_the_array_is_refused(scheduler):
    (scheduler / "refuse").write_text("sbatch: error: QOSMaxSubmitJobPerUserLimit\n")
    (scheduler / "refused").write_text("--array=")
    with pytest.raises(UserError, match="sbatch refused the job: QOSMaxSubmitJobPerUserLimit"):
        cluster.launch(absent(2), scheduler / "runs")
    assert (scheduler / "cancelled").read_text() == "41\n"


def test_without_slurm_one_line_says_where_to_go(monkeypatch, tmp_path):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs sbatch, which is not on this machine's PATH"):
        cluster.launch(absent(2), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_without_submitit_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -e '.*\[cluster\]'"):
        cluster.Slurm().check(cluster.Options())


def test_a_log_speaks_for_its_job_not_for_the_scheduler(tmp_path):
    log = tmp_path / "log"
    tail = "submitit INFO (x) - Exiting\nINFO:submitit:Exiting\nsrun: error: task 0: Exited\n\n"
    log.write_text("one\n" * 10_000 + f"{folders.DONE}\n{tail}")
    assert folders.last_line(str(log)) == folders.DONE
    log.write_text(tail)
    assert folders.last_line(str(log)).endswith("Exiting")
    log.write_text("")
    assert folders.last_line(str(log)) == "its log is empty"


def test_a_folder_without_a_table_is_one_line(tmp_path):
    for command in (cluster.status, cluster.cancel):
        with pytest.raises(UserError, match=r"holds no table: .*ablation\.json is missing"):
            command(tmp_path)


def test_a_node_that_does_not_see_the_folder_says_so(tmp_path):
    with pytest.raises(UserError, match=r"does not see .*file system that all nodes share"):
        job.Job(str(tmp_path / "elsewhere"), "g")()


# ------------------------------------------------------------------------- signals inside of a job

COUNTER = '''
import json, sys, time
from pathlib import Path
from vidrec.training import loop
from vidrec.sweeps.cluster import job

class Counter(job.Job):
    """Counts to 30 in a file instead of training, and stops as `fit` does."""
    def work(self):
        file = Path(self.folder) / "count"
        number = int(file.read_text()) if file.exists() else 0
        with (Path(self.folder) / "starts").open("a") as starts:
            starts.write(f"{number}\\n")
        while number < 30:
            if self._log.stop.is_set():
                raise loop.Interrupted(f"stopped at {number}")
            time.sleep(0.1)
            number += 1
            self._log.advanced = self.group != "fruitless"
            file.write_text(str(number))
    def checkpoint(self):
        again = super().checkpoint()
        if again:
            again.function = Counter(self.folder, self.group, again.function.fruitless)
        return again

if __name__ == "__main__":
    Counter(*sys.argv[1:])()
'''


@pytest.fixture
def counter(tmp_path, monkeypatch):
    """A module with a job that counts, for processes that this one starts."""
    (tmp_path / "counter.py").write_text(COUNTER)
    (tmp_path / "ablation.json").write_text("{}")
    path = f"{tmp_path}:{Path(cluster.__file__).parents[3]}"
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def wait_for(what, seconds: float = 120.0):
    """The first true value of `what()`; fails when time is up."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
    return found


def task_of(controller: int) -> int:
    """The process of the task that submitit's local controller started."""
    children = Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
    return int(children[0])


@pytest.mark.slow
def test_a_preempted_job_saves_is_requeued_and_goes_on(counter):
    submitit = pytest.importorskip("submitit")
    import importlib

    executor = submitit.LocalExecutor(counter / "logs")
    executor.update_parameters(timeout_min=60)
    started = executor.submit(importlib.import_module("counter").Counter(str(counter), "g"))
    count = counter / "count"
    wait_for(lambda: count.exists() and count.read_text() not in ("", "0"))
    os.kill(task_of(int(started.job_id)), signal.SIGUSR2)
    starts = counter / "starts"
    wait_for(lambda: len(starts.read_text().split()) == 2)
    wait_for(started.done)
    assert started.exception() is None
    assert count.read_text() == "30"
    first, second = map(int, starts.read_text().split())
    assert first == 0
    assert second > 0  # it went on, and did not begin anew
    assert folders.DONE in started.stdout().splitlines()


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(counter):
    submitit = pytest.importorskip("submitit")
    import importlib

    last = importlib.import_module("counter").Counter(str(counter), "fruitless", job.FRUITLESS)
    executor = submitit.LocalExecutor(counter / "logs")
    executor.update_parameters(timeout_min=60)
    started = executor.submit(last)
    wait_for(lambda: (counter / "starts").exists())
    os.kill(task_of(int(started.job_id)), signal.SIGUSR2)
    wait_for(started.done)
    assert "--minutes is too short" in started.stdout()
    assert len((counter / "starts").read_text().split()) == 1


@pytest.mark.parametrize(
    ("code", "told"), [(-signal.SIGTERM, "Requeued job"), (1, "error: not requeued")]
)
def test_a_requeue_that_ends_its_own_messenger_is_one(code, told, monkeypatch, capsys):
    # SLURM kills the step that asked, and scontrol in it, at times before that has answered.
    def requeue(number, frame):
        raise subprocess.CalledProcessError(code, "scontrol")

    monkeypatch.setattr(job.os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as left:
        job._leave([signal.SIGUSR2], requeue)
    assert left.value.code == 1
    assert capsys.readouterr().out.startswith(told)


def test_term_outside_of_a_scheduler_saves_and_leaves(counter):
    process = subprocess.Popen([sys.executable, counter / "counter.py", counter, "g"])
    wait_for(lambda: (counter / "count").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == job.STOPPED


# ---------------------------------------------------------------------------------- a local pool

STUB = """
import json, os, sys, time
folder, group = sys.argv[1:]
began = time.time()
time.sleep(0.3)
line = [group, os.environ["CUDA_VISIBLE_DEVICES"], began, time.time()]
open(f"{folder}/ran", "a").write(json.dumps(line) + "\\n")
if group == "bad":
    sys.exit("error: out of memory")
"""


@pytest.fixture
def pool(tmp_path):
    """A pool whose jobs note device and time."""
    (tmp_path / "stub.py").write_text(STUB)
    made = Pool()
    made.command = (sys.executable, str(tmp_path / "stub.py"))
    return made


def ran(folder: Path) -> list[list]:
    return [json.loads(line) for line in (folder / "ran").read_text().splitlines()]


def test_a_pool_gives_each_job_a_device_of_its_own(pool, tmp_path):
    noted = []
    groups = [f"g{k}" for k in range(5)]
    options = cluster.Options(engine="pool", devices=("3", "7"))
    pool.submit(tmp_path, groups, options, noted.extend)
    lines = ran(tmp_path)
    assert lines[0][0] == DATA
    site = tmp_path / "site.toml"
    site.write_text("devices = [3, 7]\n")
    assert cluster.read_options(site).devices == ("3", "7")
    assert sorted(line[0] for line in lines[1:]) == groups
    assert {line[1] for line in lines[1:]} == {"3", "7"}
    assert min(line[2] for line in lines[1:]) >= lines[0][3]  # the data was there before
    for device in ("3", "7"):
        times = sorted((begin, end) for _, own, begin, end in lines if own == device)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(times))
    assert [handle.group for handle in noted] == [DATA, *groups]
    assert pool.states(noted) == {}


def test_a_pool_goes_on_when_a_job_fails_and_says_which(pool, tmp_path):
    options = cluster.Options(engine="pool", devices=("0",))
    with pytest.raises(UserError, match="1 of 3 jobs failed; the first, bad: error: out of memory"):
        pool.submit(tmp_path, ["a", "bad", "c"], options, lambda handles: None)
    assert [line[0] for line in ran(tmp_path)] == [DATA, "a", "bad", "c"]


def test_a_pool_asked_to_stop_starts_nothing_more(pool, tmp_path):
    def interrupt(handles):
        if handles[0].group == "a":
            os.kill(os.getpid(), signal.SIGTERM)

    options = cluster.Options(engine="pool", devices=("0",))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Interrupted):
        pool.submit(tmp_path, ["a", "b"], options, interrupt)
    assert [line[0] for line in ran(tmp_path)] == [DATA]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_job_counts_as_running_while_the_system_does_not_tell(monkeypatch):
    job = f"{os.getpid()}@{platform.node()}@{pool_room._start_ticks(os.getpid())}"
    gone = f"{os.getpid()}@{platform.node()}@1"
    assert pool_room._is_running(job)
    assert not pool_room._is_running(gone)

    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(pool_room.Path, "read_text", refuse)
    assert pool_room._is_running(job)


@pytest.mark.parametrize("devices", [(), ("0", "0")])
def test_a_pool_needs_different_devices(devices):
    with pytest.raises(UserError, match="should name each device once"):
        Pool().check(cluster.Options(engine="pool", devices=devices))


# ------------------------------------------------------------------------------- tables, in the end


@pytest.mark.slow
def test_jobs_fill_the_table_that_one_process_fills(cache, tmp_path):
    table = tiny(2)
    alone = runner.ablate(table, tmp_path / "alone")
    folder = cluster.launch(table, tmp_path / "jobs", cluster.Options(engine="debug"))
    assert rows(folder) == rows(alone.folder)
    assert folder.name == alone.folder.name
    shown = cluster.status(folder)
    assert (shown["finished"], shown["trials"]) == (4, 4)
    assert [each["state"] for each in shown["groups"]] == ["done", "done"]
    assert [each["epoch"] for each in shown["groups"]] == [2, 2]
    assert Path(shown["report"]).exists()
    about = [json.loads((each / "ablation.json").read_text()) for each in (folder, alone.folder)]
    assert about[0]["data"] == about[1]["data"]
    # A finished table starts no job, and a report that is gone is written again.
    Path(shown["report"]).unlink()
    (folder / "jobs.json").unlink()
    cluster.launch(table, tmp_path / "jobs", cluster.Options(engine="debug"))
    assert not (folder / "jobs.json").exists()
    assert (folder / "report.html").exists()


def free_ports() -> int:
    """The first of two neighbouring ports that nobody listens on."""
    for port in range(17000 + os.getpid() % 1000 * 10, 32000, 2):
        with contextlib.suppress(OSError), socket.socket() as one, socket.socket() as two:
            one.bind(("", port))
            two.bind(("", port + 1))
            return port
    raise OSError("no free ports")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of this host, ended when the tests have."""
    pytest.importorskip("submitit")
    lab = tmp_path_factory.mktemp("lab")
    # Other workers of the same run have labs of their own.
    environment = os.environ | {"SLURM_LAB": str(lab), "SLURM_LAB_PORT": str(free_ports())}
    up = subprocess.run([LAB, "up"], env=environment, capture_output=True, text=True)
    if up.returncode:
        pytest.skip(f"no SLURM can be started here: {up.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(lab / "slurm.conf"))
        yield lab
    subprocess.run([LAB, "down"], env=environment, check=True)


def by_group(folder: Path) -> dict[str, dict]:
    return {each["group"]: each for each in cluster.status(folder)["groups"]}


def ended(folder: Path):
    """The status of a table none of whose jobs waits or runs."""
    shown = cluster.status(folder)
    lines = [shown["data"], *shown["groups"]]
    return None if any(folders.is_alive(line["state"]) for line in lines) else shown


def starts(folder: Path, line: dict) -> int:
    """How often a group's job was started."""
    return Path(line["log"]).read_text().count(f"{line['group']} of {folder}")


@pytest.mark.slow(minutes=7)
def test_a_real_cluster_fills_the_same_table_although_jobs_are_preempted(slurm, cache, tmp_path):
    # Long enough to be at it still when the scheduler, half a minute later, has taken two away.
    table = tiny(4, **{"train.epochs": 5000})
    options = cluster.Options(partition="main", minutes=60, cpus=1)
    folder = cluster.launch(table, tmp_path / "slurm", options)

    def restarted():
        return [line for line in by_group(folder).values() if starts(folder, line) > 1]

    wait_for(lambda: all(line["epoch"] > 5 for line in by_group(folder).values()), 600)
    # The four jobs fill the node, so an urgent one takes the place of one of them, which hears
    # USR2 and asks to be requeued; another is requeued by hand and hears TERM alone.
    subprocess.run(["sbatch", "-p", "urgent", "-o", "/dev/null", "--wrap", "sleep 1"], check=True)
    [preempted] = wait_for(restarted, 300)
    running = [each for each in by_group(folder).values() if each["state"] == "running"]
    victim = next(each for each in running if each["group"] != preempted["group"])
    subprocess.run(["scontrol", "requeue", victim["job"]], check=True)
    shown = wait_for(lambda: ended(folder), 900)
    assert [each["state"] for each in shown["groups"]] == ["done"] * 4, shown
    assert "Requeued job" in Path(preempted["log"]).read_text()
    assert "Requeued job" not in Path(victim["log"]).read_text()
    names = [preempted["group"], victim["group"]]
    assert {line["group"] for line in restarted()} == set(names)
    for trial in [trial for name in names for trial in folders.groups(folder)[name]]:
        result = json.loads((folder / "trials" / trial / "result.json").read_text())
        assert 0 < result["resumed_epoch"] < result["epochs"]
    wait_for(lambda: cluster.status(folder)["report"])
    alone = runner.ablate(table, tmp_path / "alone")
    assert rows(folder) == rows(alone.folder)


@pytest.mark.slow
def test_a_cancelled_table_goes_on_with_the_same_command(slurm, cache, tmp_path):
    table = tiny(2, **{"train.epochs": 2000})
    options = cluster.Options(partition="main", minutes=60, cpus=1)
    folder = cluster.launch(table, tmp_path / "slurm", options)
    wait_for(lambda: all(line["epoch"] > 5 for line in by_group(folder).values()), 600)
    ids = cluster.cancel(folder)
    assert sorted(ids) == sorted(line["job"] for line in by_group(folder).values())
    shown = wait_for(lambda: ended(folder), 120)
    assert [each["state"] for each in shown["groups"]] == ["cancelled"] * 2
    cluster.launch(table, tmp_path / "slurm", options)
    shown = wait_for(lambda: ended(folder), 900)
    assert [each["state"] for each in shown["groups"]] == ["done"] * 2, shown
    results = [json.loads(file.read_text()) for file in (folder / "trials").glob("*/result.json")]
    assert all(each["resumed_epoch"] > 0 for each in results)


@pytest.mark.slow
def test_an_array_whose_data_cannot_be_made_does_not_wait_for_ever(slurm, tmp_path):
    folder = cluster.launch(absent(2), tmp_path / "slurm", cluster.Options(minutes=5))
    shown = wait_for(lambda: ended(folder), 180)
    assert shown["data"]["state"] == "failed"
    assert "/nowhere/at/all" in shown["data"]["why"]
    assert {each["state"] for each in shown["groups"]} <= {"cancelled", "failed", "lost"}
