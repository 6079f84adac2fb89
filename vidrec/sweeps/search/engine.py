"""Choose what to try next: Optuna proposes settings from all results so far.

The study in memory is made again from the search's own records before each round, and its sampler
is seeded by the search and the round. So a search that was killed and continued proposes the same
settings.
"""

import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vidrec.config import canonical, digest
from vidrec.errors import UserError
from vidrec.io.machine import how_to_install
from vidrec.sweeps.search.records import Trial
from vidrec.sweeps.search.space import Axis, Choices, Space

STARTUP = 10  # trials that are drawn at random before Optuna models the results


def load() -> Any:
    """Import and return Optuna, set to print only warnings.

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            f"a search needs Optuna, which is not installed: {how_to_install('search')}"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Engine:
    """An Optuna study of what a search has found so far.

    Args:
        name: the name of the study.
        space: the searched settings.
        trials: the trials so far, all finished.
        seed: a text that seeds the next proposals.
    """

    def __init__(self, name: str, space: Space, trials: Iterable[Trial], seed: str = ""):
        self._optuna = optuna = load()
        self.name, self.space = name, space
        self._distributions = {n: _distribution(optuna, axis) for n, axis in space.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # options that Optuna calls experimental
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=STARTUP,
                multivariate=True,
                constant_liar=True,
                seed=int(digest(seed), 16),
            )
        self.study = optuna.create_study(study_name=name, direction="maximize", sampler=sampler)
        self.study.add_trials([self._frozen(trial) for trial in trials])

    def ask(self, count: int, first: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the settings of the next trials.

        Trials without a result count as bad ones, so that a round's trials are not all alike.

        Args:
            count: the number of trials.
            first: settings that are proposed before all others in an empty study.
        """
        if first is not None and not self.study.trials:
            self.study.enqueue_trial(
                {name: _to_optuna(self.space[name], value) for name, value in first.items()}
            )
        asked = [self.study.ask(self._distributions).params for _ in range(count)]
        return [
            {name: _from_optuna(self.space[name], value) for name, value in params.items()}
            for params in asked
        ]

    def importance(self, rung: int | None) -> dict[str, float]:
        """Return each setting's share of the importance; empty if it cannot be computed.

        Args:
            rung: index of the rung at which trials are compared, without those that did not reach
                it; None: they are compared at their ends.
        """
        optuna, told = self._optuna, []
        for trial in self.study.get_trials(deepcopy=False):
            steps = sorted(trial.intermediate_values)
            value = trial.value
            if rung is not None:
                value = trial.intermediate_values[steps[rung]] if len(steps) > rung else None
            if value is not None:
                told.append(
                    optuna.trial.create_trial(
                        value=value, params=trial.params, distributions=trial.distributions
                    )
                )
        study = optuna.create_study(direction="maximize")
        study.add_trials(told)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # too few trials, or all of them alike
            return {}
        return {name: float(share) for name, share in found.items() if share == share}

    def journal(self) -> bytes:
        """Return the study as the content of an Optuna journal file."""
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with tempfile.TemporaryDirectory(prefix="vidrec-") as folder:
            file = Path(folder, "study.log")
            storage = JournalStorage(JournalFileBackend(str(file)))
            stored = self._optuna.create_study(
                study_name=self.name, direction="maximize", storage=storage
            )
            stored.add_trials(self.study.get_trials(deepcopy=False))
            return file.read_bytes()

    def _frozen(self, trial: Trial) -> Any:
        state = self._optuna.trial.TrialState
        states = {"done": state.COMPLETE, "failed": state.FAIL}  # all others are pruned
        params = {n: _to_optuna(self.space[n], value) for n, value in trial.params.items()}
        done = trial.state == "done" and trial.end is not None
        return self._optuna.trial.create_trial(
            state=states.get(trial.state, state.PRUNED),
            value=trial.end.accuracy if done and trial.end else None,
            params=params,
            distributions=self._distributions,
            intermediate_values={rung.epoch: rung.accuracy for rung in trial.rungs},
            user_attrs={
                "id": trial.id,
                "round": trial.round,
                "epochs": trial.epochs,
                "state": trial.state,
                "why": trial.why,
            },
        )


def _distribution(optuna: Any, axis: Axis) -> Any:
    kinds = optuna.distributions
    if isinstance(axis, Choices):
        values = [_to_optuna(axis, value) for value in axis.values]
        return kinds.CategoricalDistribution(values)
    if axis.whole:
        return kinds.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return kinds.FloatDistribution(axis.low, axis.high, log=axis.log)


def _to_optuna(axis: Axis, value: Any) -> Any:
    """Return a value as Optuna stores it: a choice such as a list becomes a text."""
    if isinstance(axis, Choices) and not isinstance(value, str | int | float | None):
        return canonical(value)
    return value


def _from_optuna(axis: Axis, value: Any) -> Any:
    if isinstance(axis, Choices):
        return next(each for each in axis.values if _to_optuna(axis, each) == value)
    return value
