"""A worker of a study: claims trial after trial, trains it, and tells the study what came out."""

import hashlib
import math
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from klann_lightning.errors import KlannError
from klann_lightning.sweep import fitting
from klann_lightning.sweep.ledger import REASON, START, UNCOUNTED, Ledger, Watch, attempts, counted
from klann_lightning.sweep.pruning import RUNGS, STAGES, should_prune
from klann_lightning.sweep.records import Record
from klann_lightning.sweep.sizing import model_size
from klann_lightning.sweep.space import Config, assign, suggest
from klann_lightning.sweep.storage import is_outage, open_storage
from klann_lightning.sweep.study import Study

POLL_SECONDS = 0.1  # between two looks at a running training
IDLE_SECONDS = 0.5  # between two looks for a trial
OUTAGE_SECONDS = 600.0  # that the storage may be away
MOST_UNCOUNTED = 1000  # trials outside the constraints, after which the space is given up

Result = TypeVar("Result")


@dataclass
class Plan:
    """All that a worker needs to know."""

    study: Study
    name: str  # of the study in its storage
    storage: str
    folder: Path  # runs/<name>
    experiment: Config  # complete, as fit would resolve it
    token: str  # of the study's W&B runs
    budget: int | None = None  # trials
    end: float = math.inf  # time.time() after which no trial is begun
    environment: dict[str, str] = field(default_factory=dict)  # of its trainings: threads, GPU

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"


class Stopped(Exception):
    """The worker was told to stop."""


class Lost(Exception):
    """The trial was given to somebody else."""


class Pruned(Exception):
    """The pruner ends the trial."""


class Failed(Exception):
    """The trial cannot be scored, for this reason."""


class StorageGoneError(KlannError):
    """The storage has been away for too long."""


def work(plan: Plan) -> None:
    """Claim and train until the study is done, the time is up, or SIGTERM says stop."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    worker = Worker(plan)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the search's own process hears it, and says SIGTERM
    signal.signal(signal.SIGTERM, worker.on_sigterm)
    try:
        worker.run()
    except Stopped:
        pass


class Worker:
    """See `work`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stopping = False
        self.parent = os.getppid()
        self.storage = open_storage(plan.storage)
        self.study = optuna.load_study(
            study_name=plan.name, storage=self.storage, sampler=plan.study.make_sampler(0)
        )
        self.watch = Watch(plan.study.grace_seconds)
        self.ledger = Ledger(self.study, self.storage, plan.study.retries, self.watch)
        self._signed = 0.0  # when the last sign of life was given

    def on_sigterm(self, *_: Any) -> None:
        self.stopping = True

    def run(self) -> None:
        while time.time() < self.plan.end:
            for trial in self.patiently(self.ledger.replace_lost):
                self._say(trial.number, f"lost: {trial.user_attrs.get('host', 'its worker')} is silent")
                self._record(trial.number, trial.params).close({"state": "FAIL"}, failed=True)
            number = self.patiently(lambda: self.ledger.claim(self.plan.budget))
            if number is not None:
                self.attempt(number)
            elif any(trial.state == TrialState.RUNNING for trial in self.patiently(self.ledger.trials)):
                self.rest(IDLE_SECONDS)  # it may be lost yet
            else:
                return

    def attempt(self, number: int) -> None:
        """Train a claimed trial and tell the study."""
        started = time.monotonic()
        self._signed = 0.0
        trial = self.patiently(lambda: self._open(number))
        summary: dict[str, Any] = {}
        record: Record | None = None
        try:
            self.sign(number)
            chosen = self.patiently(lambda: suggest(trial, self.plan.study.space))
            experiment = self._experiment(number, chosen)
            size = self._size(experiment)
            self.note(number, {**size, "host": platform.node()})
            self._hold_constraints(trial, size)
            record = self._record(number, {**trial.params, **size})
            scores = self._train(number, experiment, record)
            self.note(number, scores)
            values = [{**scores, **size}[name] for name in self.plan.study.objectives]
            self._tell(number, TrialState.COMPLETE, values)
            summary = {"state": "COMPLETE", **scores}
            said = ", ".join(f"{name} {value:.4g}" for name, value in {**scores, **size}.items())
        except Stopped:
            if record:
                record.close({"state": "WAITING"}, failed=True)
            self._put_back(number)
            raise
        except StorageGoneError:
            raise
        except Lost:
            summary = {"state": "FAIL", REASON: "given to another worker"}
            said = "was given to another worker, since this one had been silent"
        except Exception as error:  # whatever it is, it ends this trial and not the study
            pruned = isinstance(error, Pruned)
            kind = "" if isinstance(error, Pruned | Failed) else f"{type(error).__name__}: "
            reason, state = f"{kind}{error}", TrialState.PRUNED if pruned else TrialState.FAIL
            self._tell(number, state, None, reason)
            summary = {"state": state.name, REASON: reason}
            said = f"{'pruned' if pruned else 'failed'}: {reason}"
        if record:
            record.close(summary, failed=summary["state"] == "FAIL")
        self._say(number, f"{said} ({time.monotonic() - started:.0f} s)")

    def _open(self, number: int) -> optuna.Trial:
        """The trial with a sampler that depends on the study's seed and the trial's number alone.

        So a study that was stopped and goes on samples what it would have sampled without the stop.
        """
        text = f"{self.plan.study.seed} {number}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        sampler = self.plan.study.make_sampler(seed)
        study = optuna.load_study(study_name=self.plan.name, storage=self.storage, sampler=sampler)
        return optuna.trial.Trial(study, self.ledger.id_of(number))

    def _experiment(self, number: int, chosen: Config) -> Config:
        """The trial's complete configuration; also as a file, ready for `fit --config`."""
        try:
            experiment = assign(self.plan.experiment, chosen)
            experiment["experiment"] = f"{self.plan.name}-{number:04d}"
            fitting.write_config(self.plan.trial_folder(number) / "experiment.yaml", experiment)
            return experiment
        except (KlannError, OSError) as error:
            raise Failed(str(error)) from error

    def _size(self, experiment: Config) -> dict[str, int]:
        try:
            return model_size(experiment)._asdict()
        except KlannError as error:
            raise Failed(str(error)) from error

    def _hold_constraints(self, trial: optuna.Trial, size: dict[str, int]) -> None:
        """A trial outside the constraints is not trained, and another one asked for in its place."""
        over = {name: size[name] - most for name, most in self.plan.study.constraints.items()}
        for name, excess in over.items():
            self.patiently(lambda name=name, excess=excess: trial.set_constraint(name, excess))  # type: ignore[misc]
        broken = [f"{name} {size[name]} is above {size[name] - by:g}" for name, by in over.items() if by > 0]
        if not broken:
            return
        trials = self.patiently(self.ledger.trials)
        if START not in trials[trial.number].user_attrs and self.plan.budget is not None:
            if sum(UNCOUNTED in other.user_attrs for other in trials) >= MOST_UNCOUNTED:
                raise Failed(f"{MOST_UNCOUNTED} trials were outside the constraints: {broken[0]}")
            self.patiently(self.ledger.ask)
            self.note(trial.number, {UNCOUNTED: broken[0]})
        raise Pruned(f"not trained, {', '.join(broken)}")

    def _train(self, number: int, experiment: Config, record: Record) -> dict[str, float]:
        """One fit for every seed; of each score the median."""
        config = assign(experiment, {**fitting.TRIAL_CONFIG, **self.plan.study.trial})
        callbacks = config["trainer"].get("callbacks") or []
        config["trainer"]["callbacks"] = [*callbacks, fitting.PROGRESS_LOG]
        path = self.plan.trial_folder(number) / "trial.yaml"
        fitting.write_config(path, config)
        first = int(experiment.get("seed_everything") or 0)
        trainings = []
        for repeat in range(self.plan.study.seeds):
            trainings.append(self._fit(number, path, first + repeat, record, reported=repeat == 0))
        scores = {name: statistics.median(each[name] for each in trainings) for name in trainings[0]}
        if not all(map(math.isfinite, scores.values())):
            raise Failed(f"its scores are {scores}")
        return scores

    def _fit(self, number: int, config: Path, seed: int, record: Record, reported: bool) -> dict[str, float]:
        """The scores of one training, by this attempt or by one before it, from whose checkpoint it goes on."""
        numbers = attempts(self.patiently(self.ledger.trials), number)
        folders = [self.plan.trial_folder(former) / f"seed-{seed}" for former in numbers]
        if done := next((folder for folder in folders if (folder / fitting.SCORES).is_file()), None):
            return fitting.read_scores(done)
        checkpoints = [folder / "last.ckpt" for folder in folders if (folder / "last.ckpt").is_file()]
        words = fitting.command(config, folders[0], seed, next(iter(checkpoints), None))
        fit = fitting.Fit(words, folders[0], self.plan.environment)
        try:
            ended = False
            while not ended:
                ended = not fit.running()  # before the last look at its progress
                for line in fit.progress():
                    record.add({name: value for name, value in line.items() if name.startswith("val/")})
                    if reported:
                        self._report(number, line)
                self.sign(number)
                if not ended:
                    self.rest(POLL_SECONDS)
        finally:
            fit.stop()
        if failure := fit.failure():
            raise Failed(failure)
        return fitting.read_scores(folders[0])

    def _report(self, number: int, line: dict[str, Any]) -> None:
        """An intermediate value, if there is one objective, and the pruner's verdict on it."""
        name = self.plan.study.objectives[0]
        if len(self.plan.study.objectives) > 1 or name not in line:
            return
        trial = self.patiently(lambda: self.ledger.trials()[number])
        if line["epoch"] in trial.intermediate_values:
            return
        stages = trial.user_attrs.get(STAGES, [])
        if line["stage"] > len(stages):
            self.note(number, {STAGES: [*stages, line["since"]]})
        self.patiently(
            lambda: self.storage.set_trial_intermediate_value(
                self.ledger.id_of(number), line["epoch"], line[name]
            )
        )
        pruner = self.plan.study.make_pruner()
        if pruner is None:
            return
        pruned, rungs = self.patiently(lambda: should_prune(pruner, self.study, number))
        self.note(number, {RUNGS: rungs})
        if pruned:
            raise Pruned(f"{name} {line[name]:.4g} after epoch {line['epoch']}")

    def _put_back(self, number: int) -> None:
        try:
            self.ledger.put_back(number)
            self._say(number, "stopped; it goes on when the study does")
        except Exception as error:
            if not is_outage(error):
                raise
            print(f"trial {number} stopped; the storage does not answer, so it will count as lost", flush=True)

    def _tell(
        self, number: int, state: TrialState, values: list[float] | None, reason: str | None = None
    ) -> None:
        if reason is not None:
            self.note(number, {REASON: reason})
        try:
            self.patiently(
                lambda: self.storage.set_trial_state_values(self.ledger.id_of(number), state, values)
            )
        except UpdateFinishedTrialError as error:
            raise Lost from error

    def note(self, number: int, values: dict[str, Any]) -> None:
        """Keep values with the trial."""
        trial_id = self.patiently(lambda: self.ledger.id_of(number))
        try:
            for name, value in values.items():
                self.patiently(
                    lambda name=name, value=value: self.storage.set_trial_user_attr(trial_id, name, value)  # type: ignore[misc]
                )
        except UpdateFinishedTrialError as error:
            raise Lost from error

    def sign(self, number: int) -> None:
        """A sign of life now and then; meanwhile a look at those of the others."""
        now = time.monotonic()
        if now - self._signed < self.plan.study.grace_seconds / 6 and self._signed:
            return
        sign = f"{platform.node()} {os.getpid()} {time.time():.1f}"
        if not self.patiently(lambda: self.ledger.sign(number, sign)):
            raise Lost
        self._signed = now
        self.watch.lost(self.patiently(self.ledger.trials))

    def rest(self, seconds: float) -> None:
        """Wait, unless it is time to stop."""
        if self.stopping or os.getppid() != self.parent:
            raise Stopped
        time.sleep(seconds)

    def patiently(self, action: Callable[[], Result]) -> Result:
        """What the storage answers, however long it is away, within reason."""
        away_since: float | None = None
        while True:
            try:
                result = action()
            except Exception as error:
                if not is_outage(error):
                    raise
                if away_since is None:
                    away_since = time.monotonic()
                    print("the storage does not answer; waiting for it", flush=True)
                if time.monotonic() - away_since > OUTAGE_SECONDS:
                    raise StorageGoneError(f"the storage is away for {OUTAGE_SECONDS:g} s: {error}") from error
                self.watch.forget()
                self.rest(1.0)
            else:
                return result

    def _record(self, number: int, config: dict[str, Any]) -> Record:
        plan = self.plan
        config = {"trial": number, "study": plan.name, **config}
        return Record(plan.folder, plan.name, f"trial-{number}", plan.token, "trial", config)

    def _say(self, number: int, text: str) -> None:
        done = sum(trial.state.is_finished() for trial in counted(self.patiently(self.ledger.trials)))
        of = "" if self.plan.budget is None else f"/{self.plan.budget}"
        print(f"[{done}{of}] trial {number} {text}", flush=True)
