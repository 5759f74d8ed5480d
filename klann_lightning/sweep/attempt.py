"""One attempt at a trial: choose its values, train it, tell the study what came out."""

import errno
import math
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from klann_lightning.fitting import (
    POLL_SECONDS,
    TRIAL_CONFIG,
    Fit,
    fit_command,
    read_scores,
    write_config,
)
from klann_lightning.handshake import LAST, SCORES_FILE
from klann_lightning.sizing import model_size
from klann_lightning.sweep.ledger import (
    ALIVE,
    HOST,
    REASON,
    RUNGS,
    STAGES,
    START,
    UNCOUNTED,
    Ledger,
    attempts,
)
from klann_lightning.sweep.plan import Plan
from klann_lightning.sweep.pruning import should_prune
from klann_lightning.sweep.records import Record
from klann_lightning.sweep.space import Config, assign, suggest
from klann_lightning.sweep.study import SCORES

FULL_DISK = os.strerror(errno.ENOSPC)
SIGNS = 6  # of life in the time after which a worker counts as lost
MOST_UNCOUNTED = 1000  # trials that needed no training, after which the space is given up

Result = TypeVar("Result")
Patiently = Callable[[Callable[[], Any]], Any]


class StoppedError(Exception):
    """The worker was told to stop."""


class LostError(Exception):
    """The trial was given to somebody else."""


class PrunedError(Exception):
    """The trial is not worth its training, for this reason."""


class FailedError(Exception):
    """The trial cannot be scored, for this reason."""


class Attempt:
    """At one trial, which is this process's own."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        trial: optuna.Trial,
        patiently: Patiently,
        rest: Callable[[float], None],
    ) -> None:
        """`patiently` asks the storage; `rest` waits some seconds, or raises StoppedError."""
        self.plan, self.ledger, self.trial = plan, ledger, trial
        self.number = trial.number
        self.record: Record | None = None
        self._patiently, self._rest = patiently, rest
        self._signed = -math.inf  # when the last sign of life was given
        self._stages: list[int] = list(trial.user_attrs.get(STAGES, []))
        self._reported: set[int] = set()  # steps, by the attempts before

    def run(self) -> str:
        """Train and tell; what there is to say about it in one line."""
        self._sign()
        chosen = self._patiently(lambda: suggest(self.trial, self.plan.study.space))
        experiment = self.plan.config_of(self.number, chosen)
        write_config(self.plan.trial_folder(self.number) / "experiment.yaml", experiment)  # ready for fit
        size = model_size(experiment)._asdict()
        self._note({**size, HOST: platform.node()})
        self._hold_constraints(size)
        if twin := self._twin():
            self._note({name: twin.user_attrs[name] for name in SCORES})
            if START not in self.trial.user_attrs:
                self._do_not_count(f"same as trial {twin.number}")
            self.tell(TrialState.COMPLETE, twin.values)
            return f"is the same as trial {twin.number}"
        self.record = self.plan.record(self.number, {**self.trial.params, **size})
        scores = self._train(experiment)
        self._note(scores)
        found = {**scores, **size}
        self.tell(TrialState.COMPLETE, [found[name] for name in self.plan.study.objectives])
        self.close(TrialState.COMPLETE, scores)
        return ", ".join(f"{name} {value:.4g}" for name, value in found.items())

    def end(self, state: TrialState, reason: str) -> None:
        """Tell that there is no score, and why."""
        self._note({REASON: reason})
        self.tell(state, None)
        if self.record is None and UNCOUNTED not in self.trial.user_attrs:
            self.record = self.plan.record(self.number, self.trial.params)
        self.close(state, {REASON: reason})

    def tell(self, state: TrialState, values: list[float] | None) -> None:
        """The study hears the trial's end; LostError if it was ended by somebody else."""

        def tell() -> None:
            now = self.ledger.trials()[self.number].state
            if now.is_finished() and now != state:
                raise LostError
            if now.is_finished():  # it was told before, and the storage's answer was lost
                return
            try:
                self.trial.study.tell(self.number, values, state)
            except RuntimeError:  # a sampler that has gone through its grid stops Optuna's loop; ours counts
                if not self.ledger.trials()[self.number].state.is_finished():
                    raise

        self._patiently(tell)

    def close(self, state: TrialState, summary: dict[str, Any]) -> None:
        """W&B hears it too."""
        if self.record:
            self.record.close({"state": state.name, **summary}, failed=state != TrialState.COMPLETE)

    def _hold_constraints(self, size: dict[str, int]) -> None:
        """A trial outside the constraints is not trained, and another one asked for in its place."""
        limits = self.plan.study.constraints
        for name, most in limits.items():
            self._patiently(partial(self._constrain, name, size[name] - most))
        broken = [
            f"{name} {size[name]} is above {most:g}" for name, most in limits.items() if size[name] > most
        ]
        if not broken:
            return
        if START not in self.trial.user_attrs:
            self._do_not_count(broken[0])
        raise PrunedError(f"not trained, {', '.join(broken)}")

    def _twin(self) -> FrozenTrial | None:
        """An earlier trial of the same parameters: the same seeds would lead to the same scores."""
        trials = self._patiently(self.ledger.trials)
        same = (trial for trial in trials if trial.params == self.trial.params)
        return next((trial for trial in same if trial.state == TrialState.COMPLETE), None)

    def _do_not_count(self, reason: str) -> None:
        """This trial needs no training: ask for another one in its place."""
        trials = self._patiently(self.ledger.trials)
        if sum(UNCOUNTED in trial.user_attrs for trial in trials) >= MOST_UNCOUNTED:
            raise FailedError(f"{MOST_UNCOUNTED} trials needed no training, this one: {reason}")
        if self.plan.budget is not None:
            self._patiently(self.ledger.ask)
        self._note({UNCOUNTED: reason})

    def _constrain(self, name: str, excess: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a trial that was stopped has set it before
            self.trial.set_constraint(name, excess)

    def _train(self, experiment: Config) -> dict[str, float]:
        """One fit for every seed; of each score the median."""
        config = assign(experiment, {**TRIAL_CONFIG, **self.plan.study.trial})
        path = self.plan.trial_folder(self.number) / "trial.yaml"
        write_config(path, config)
        first = int(experiment.get("seed_everything") or 0)
        fits = [self._fit(path, first + place, reported=place == 0) for place in range(self.plan.study.seeds)]
        scores = {name: statistics.median(each[name] for each in fits) for name in fits[0]}
        if not all(map(math.isfinite, scores.values())):
            raise FailedError(f"its scores are {scores}")
        return scores

    def _fit(self, config: Path, seed: int, reported: bool) -> dict[str, float]:
        """The scores of one training: a former attempt's, or one that goes on from its checkpoint."""
        trials = self._patiently(self.ledger.trials)
        self._reported = set(trials[self.number].intermediate_values)
        numbers = attempts(trials, self.number)
        folders = [self.plan.trial_folder(number) / f"seed-{seed}" for number in numbers]
        if done := next((folder for folder in folders if (folder / SCORES_FILE).is_file()), None):
            return read_scores(done)
        checkpoints = (folder / LAST for folder in folders)
        checkpoint = next((path for path in checkpoints if path.is_file()), None)
        words = fit_command(config, folders[0], seed, checkpoint)
        fit = Fit(words, folders[0], self.plan.environment)
        recorded = fit.before  # lines that a former attempt's worker has seen
        try:
            ended = False
            while not ended:
                ended = not fit.running()  # before the last look at its progress
                for line in fit.progress():
                    recorded -= 1
                    self._follow(line, reported, recorded >= 0)
                    self._sign()
                self._sign()
                if not ended:
                    self._rest(POLL_SECONDS)
        finally:
            fit.stop()
        self._rest(0)  # a stop that has reached the training too is not its failure
        if failure := fit.failure():
            if FULL_DISK in failure:
                raise OSError(errno.ENOSPC, FULL_DISK)
            raise FailedError(failure)
        return read_scores(folders[0])

    def _follow(self, line: dict[str, Any], reported: bool, recorded: bool) -> None:
        """A validation, for W&B; with one objective also for the study, and the pruner's verdict on it."""
        if self.record and not recorded:
            self.record.add({name: line[name] for name in line if name.startswith(("val/", "epoch"))})
        name, step = self.plan.study.objectives[0], line["epoch"]
        if not reported or len(self.plan.study.objectives) > 1 or name not in line:
            return
        if step in self._reported:  # by the attempt before, which had gone on after its last checkpoint
            return
        if (new := line["stage"] - len(self._stages)) > 0:
            self._stages += [line["since"]] * new
            self._note({STAGES: self._stages})
        self._patiently(lambda: self.trial.report(line[name], step))
        pruner = self.plan.study.make_pruner()
        if pruner is not None:
            pruned, rungs = self._patiently(lambda: should_prune(pruner, self.trial.study, self.number))
            self._note({RUNGS: rungs})
            if pruned:
                raise PrunedError(f"{name} {line[name]:.4g} after epoch {step}")

    def _note(self, values: dict[str, Any]) -> None:
        """Keep values with the trial."""
        for name, value in values.items():
            try:
                self._patiently(partial(self.trial.set_user_attr, name, value))
            except UpdateFinishedTrialError as error:
                raise LostError from error

    def _sign(self) -> None:
        """A sign of life now and then; meanwhile a look at those of the others."""
        now = time.monotonic()
        if now - self._signed >= self.plan.study.grace_seconds / SIGNS:
            self._note({ALIVE: f"{platform.node()} {os.getpid()} {time.time():.1f}"})
            self._signed = now
            self.ledger.watch.look(self._patiently(self.ledger.trials))
