"""The commands that use a trained model, `predict`, `evaluate` and `export`; and `encoders`."""

import contextlib
import io
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from vidrec import config
from vidrec.cli.command import Command, Flag, Folder, Settings, importing, run_until_stopped
from vidrec.cli.output import check_parent, print_json, short_path, warn
from vidrec.config import Config
from vidrec.config.schema import NonNegative
from vidrec.errors import STOPPED, UserError
from vidrec.io import files

if TYPE_CHECKING:
    from vidrec.evaluation.predict import Classifier

# What `evaluate` says of clips whose recordings were, or may have been, trained on.
SHARED = "Some of these clips are of recordings that were trained on: the figure is too high."
PERHAPS_SHARED = (
    "It is not known whether clips of the same recordings were trained on: the figure may be too "
    "high."
)


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Command):
    """Base class of the commands that use a trained model."""

    folder: Folder  # folder of a run or an ablation, or its name
    trust_code: Flag = False  # run the code files that the run keeps, if there are any

    def load_classifier(self) -> "Classifier":
        """Start JAX, load the model, and print what its user should know about it."""
        with importing():
            from vidrec.evaluation import predict
            from vidrec.training import runtime

        runtime.configure()
        runtime.use_cores()
        model = predict.Classifier.load(self.folder, trust_code=self.trust_code)
        for note in model.notes:
            warn(note)
        if model.chosen:
            self.console().tell(model.chosen)
        return model


@dataclass(frozen=True, kw_only=True)
class Predict(ModelCommand):
    """Classify videos or folders of videos with a trained model.

    FOLDER is the folder of a run, or of an ablation, whose best row on validation clips is then
    used. The folder's name is enough, and so is the run's name if only one run in WORKDIR has it.

    Example: vidrec predict runs/my_videos-1a2b3c4d new.mp4 --overlay seen.mp4
    """

    videos: Annotated[tuple[str, ...], Positional, arg(metavar="VIDEO ...")]  # files or folders
    stream: Flag = False  # classify frame by frame, keeping the recurrent state
    windows: Flag = False  # for several files: also show each file's windows, and in the csv
    every: NonNegative = 0.0  # seconds between windows; 0: half a window
    overlay: Path | None = None  # write a copy of the video with the answer drawn on it
    # write a table with a row for each file; for a folder, predictions.csv is the default
    csv: Path | None = None

    def run(self, settings: dict[str, Any]) -> int:
        """Print a line for each file; with one file, or with --json, print its windows first.

        The exit status is 1 if a file could not be read. See `Command.run`.
        """
        table = self._checked_table()
        model, console = self.load_classifier(), self.console()
        from vidrec.evaluation import predict

        task, answered, unreadable = model.network.task, [], False
        windows = self.windows or self.stream or not self._several()
        for line in self._lines(model):
            if self.json:
                print_json(line)
            elif windows or "start" not in line:
                console.tell(predict.as_text(line, task))
            unreadable |= line["class"] is None
            if table:
                answered.append(line)
        if table:
            text = io.StringIO()
            predict.write_csv(answered, text, task, windows=self.windows)
            files.write_whole(table, text.getvalue())
            console.tell(self.csv or table.absolute())
        if self.overlay and not unreadable:
            console.tell(self.overlay)
        return int(unreadable)

    def _several(self) -> bool:
        """Return whether more than one file is asked for."""
        return len(self.videos) > 1 or any(Path(path).is_dir() for path in self.videos)

    def _lines(self, model: Any) -> Iterable[dict[str, Any]]:
        from vidrec.evaluation import predict

        if not self.overlay:
            if not self._several():
                return predict.lines(model, self.videos, stream=self.stream, every=self.every)
            from vidrec.cli.progress import with_pace

            found = predict.listed(self.videos, model)
            lines = predict.lines(model, found, stream=self.stream, every=self.every)
            return with_pace(lines, len(found))
        [video] = self.videos
        return [predict.overlay(model, video, self.overlay, stream=self.stream, every=self.every)]

    def _checked_table(self) -> Path | None:
        """Return the csv file to write, if any; refuse wrong targets before the work starts.

        Raises:
            UserError: No video is named, or a target cannot be written or is one of the videos.
        """
        if not self.videos:
            raise UserError("predict needs a video or a folder after the run's folder")
        if "" in self.videos:  # from an empty variable; as a path it would be the current folder
            raise UserError("the name of a video should not be empty")
        table = self.csv
        if table is None and (self.windows or any(Path(path).is_dir() for path in self.videos)):
            table = Path("predictions.csv")
        if self.overlay:
            if len(self.videos) != 1:
                raise UserError("--overlay draws on one video: name one")
            from vidrec.evaluation.predict.drawing import check_name

            check_name(self.overlay)
        check_parent("--csv", self.csv)
        check_parent("--overlay", self.overlay)
        for target in filter(None, (table, self.overlay)):
            files.check_writable(target)
            for video in map(Path, self.videos):
                if target.exists() and video.exists() and target.samefile(video):
                    raise UserError(f"{target} would replace the video itself: name another file")
        if table and self.overlay and table.resolve() == self.overlay.resolve():
            raise UserError(f"--csv and --overlay both name {table}: name two files")
        return table


@dataclass(frozen=True, kw_only=True)
class Demo(ModelCommand):
    """Open a page in the browser to try a trained model with a video or the camera.

    It shows the label over time, the most likely classes and the video with the answer drawn on it;
    a causal model labels the camera live, from the state that it keeps. Only this machine can open
    the page, nothing is sent elsewhere, and a video is removed once it is classified. Ctrl-C ends
    it.

    Example: vidrec demo runs/my_videos-1a2b3c4d
    """

    port: Annotated[int, config.Range(0, 65535)] = 8008  # port on 127.0.0.1; 0: any free one
    limit: Annotated[float, config.Range(0.001, 1e6)] = 500.0  # largest video in megabytes

    def run(self, settings: dict[str, Any]) -> int:
        """Serve the page until asked to end; with --json the first line is the address.

        Raises:
            UserError: The model cannot be used by the page, or a library is missing.
        """
        from vidrec.evaluation import demo

        demo.check_installed()
        model, console = self.load_classifier(), self.console()

        def tell(address: str) -> None:
            self.answer({"address": address})
            console.tell(f"{address} (Ctrl-C ends it)")

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            demo.serve(model, self.folder.name, port=self.port, limit=self.limit, tell=tell)
        return 0


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Score a trained run on another split or data set; the run itself is not changed.

    Only settings of data and eval can be given; the others belong to the model.

    Example: vidrec evaluate runs/motion-1a2b3c4d --data.split_seed 1 --force
    """

    part: Literal["test", "val", "train", "all"] = "test"  # part of the split to score
    force: Flag = False  # score clips that the model was trained on too
    settings: Settings = field(default_factory=Config)

    def run(self, settings: dict[str, Any]) -> int:
        """Score the part of the split; see `Command.run`."""
        with importing():
            from vidrec.evaluation import tasks
            from vidrec.evaluation.predict import score
            from vidrec.training import runtime

        runtime.configure()
        runtime.use_cores()

        def work(progress: Any) -> dict[str, Any]:
            return score(
                self.folder,
                settings,
                part=self.part,
                force=self.force,
                trust_code=self.trust_code,
                tell=progress.say,
                progress=progress.extracting,
            )

        result = run_until_stopped(self, work)
        if result is None:
            return STOPPED
        self.answer(result)
        figures, counts = result["metrics"][self.part], result["counts"][self.part]
        console, task = self.console(), tasks.named(result.get("task", "clip"))
        console.tell(task.line(figures, counts))
        split = result["split"]
        if split["leaked"] is True:
            console.tell(SHARED)
        elif split["leaked"] or not split.get("recordings_known", True):
            console.tell(PERHAPS_SHARED)
        console.tell(short_path(result["dir"]))
        return 0


@dataclass(frozen=True, kw_only=True)
class Export(ModelCommand):
    """Write a trained model as StableHLO with a loader that needs only JAX, NumPy and flatbuffers.

    Example: vidrec export runs/my_videos-1a2b3c4d exported
    """

    out: Annotated[Path, Positional, arg(metavar="OUT")]  # a new folder

    def run(self, settings: dict[str, Any]) -> int:
        """Write the export; see `Command.run`."""
        from vidrec.evaluation.export import export

        check_parent("OUT", self.out)
        self.answer(export(self.folder, self.out, trust_code=self.trust_code))
        self.console().tell(self.out)
        return 0


@dataclass(frozen=True, kw_only=True)
class Encoders(Command):
    """List all encoders, and how to get the weights that are missing.

    Example: vidrec encoders --json
    """

    def run(self, settings: dict[str, Any]) -> int:
        """Print the table of encoders; see `Command.run`."""
        from vidrec.models.encoders import catalogue

        entries = list(catalogue.entries())
        self.answer([entry._asdict() for entry in entries])
        if self.json:
            return 0
        from vidrec.report.terminal import Columns

        heads = ("encoder.kind", "parameters", "features", "size", "normalize", "weights")
        lines = [
            (each.kind, f"{each.params:,}", each.features, each.size, each.normalize, each.source)
            for each in entries
        ]
        less = [["features"], ["parameters"], ["size"], ["normalize"]]
        console = self.console()
        console.print(Columns(heads, lines, "encoder.kind", less))
        missing = [each for each in entries if not each.weights]
        if missing:
            console.tell("how to get the missing weights:")
        for each in missing:
            console.tell(f"{each.kind}: {each.get}")
        for line in catalogue.of_others():
            console.tell(line)
        return 0
