"""A worker of a study: attempts trial after trial until the study is done."""

import errno
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.manners import tell
from klann_lightning.sweep.attempt import (
    Attempt,
    FailedError,
    LostError,
    PrunedError,
    Result,
    StoppedError,
)
from klann_lightning.sweep.ledger import HOST, REASON, Ledger, Watch, counted
from klann_lightning.sweep.plan import Plan
from klann_lightning.sweep.storage import StorageGoneError, is_outage, open_storage, patiently

IDLE_SECONDS = 0.5  # between two looks for a trial


def work(plan: Plan) -> None:
    """Attempt trials until the study is done, the time is up, or SIGTERM says stop."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the search's own process hears it, and says SIGTERM
    try:
        worker = Worker(plan)
        signal.signal(signal.SIGTERM, worker.on_sigterm)
        worker.run()
    except StoppedError:
        return
    except KlannError as error:
        print(f"a worker ends: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


class Worker:
    """See `work`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stopping = False
        self.parent = os.getppid()
        self.storage = open_storage(plan.storage)
        study = optuna.load_study(study_name=plan.name, storage=self.storage)
        self.ledger = Ledger(study, self.storage, plan.study.retries, Watch(plan.study.grace_seconds))

    def on_sigterm(self, *_: Any) -> None:
        self.stopping = True

    def run(self) -> None:
        while time.time() < self.plan.end:
            self.rest(0)
            for lost in self.patiently(self.ledger.replace_lost):
                host = lost.user_attrs.get(HOST, "its host")
                self.say(lost.number, f"lost: no sign of life from {host}")
                self.plan.record(lost.number, lost.params).close({"state": "FAIL"}, failed=True)
            number = self.patiently(lambda: self.ledger.claim(self.plan.budget))
            if number is not None:
                self.attempt(number)
            elif any(trial.state == TrialState.RUNNING for trial in self.patiently(self.ledger.trials)):
                self.rest(IDLE_SECONDS)  # it may be lost yet
            else:
                return

    def attempt(self, number: int) -> None:
        """One trial, whatever becomes of it."""
        started = time.monotonic()
        try:
            trial = self.patiently(lambda: self._open(number))
        except UpdateFinishedTrialError:  # lost already, for example while this machine slept
            return
        attempt = Attempt(self.plan, self.ledger, trial, self.patiently, self.rest)
        try:
            try:
                said = attempt.run()
            except PrunedError as error:
                attempt.end(TrialState.PRUNED, str(error))
                said = f"pruned: {error}"
            except (FailedError, ConfigError) as error:
                attempt.end(TrialState.FAIL, str(error))
                said = f"failed: {error}"
            except (StoppedError, StorageGoneError, LostError):
                raise
            except Exception as error:  # whatever it is, it ends this trial and not the study
                if end := self._end_of_all(error):
                    attempt.close(TrialState.WAITING, {})
                    self._put_back(number)
                    raise end from error
                attempt.end(TrialState.FAIL, f"{type(error).__name__}: {error}")
                said = f"failed: {type(error).__name__}: {error}"
        except LostError:
            attempt.close(TrialState.FAIL, {REASON: "given to another worker"})
            said = "was given to another worker, since this one had been silent"
        except StoppedError:
            attempt.close(TrialState.WAITING, {})
            self._put_back(number)
            raise
        self.say(number, f"{said} ({time.monotonic() - started:.0f} s)")

    def rest(self, seconds: float) -> None:
        """Wait, unless it is time to stop."""
        if self.stopping or os.getppid() != self.parent:
            raise StoppedError
        time.sleep(seconds)

    def patiently(self, action: Callable[[], Result]) -> Result:
        """What the storage answers, however long it is away."""

        def rest(seconds: float) -> None:
            self.ledger.watch.forget()  # nobody can give a sign meanwhile
            self.rest(seconds)

        return patiently(action, rest)

    def say(self, number: int, text: str) -> None:
        """A line about a trial, and how far the study is."""
        done = sum(trial.state.is_finished() for trial in counted(self.patiently(self.ledger.trials)))
        of = "" if self.plan.budget is None else f"/{self.plan.budget}"
        tell(f"[{done}{of}] trial {number} {text}")

    def _open(self, number: int) -> optuna.Trial:
        """The trial with a sampler that depends on the study's seed and the trial's number alone.

        So a study that was stopped and goes on samples what it would have sampled without the stop.
        """
        text = f"{self.plan.study.seed} {number}".encode()
        seed = int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
        sampler = self.plan.study.make_sampler(seed)
        study = optuna.load_study(study_name=self.plan.name, storage=self.storage, sampler=sampler)
        return optuna.trial.Trial(study, self.ledger.id_of(number))

    @staticmethod
    def _end_of_all(error: Exception) -> KlannError | None:
        """What every other trial would stumble over as well."""
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return ConfigError("the disk is full. Make room; the same command goes on with the study.")
        if isinstance(error, ImportError):
            return ConfigError(f"the study's sampler or pruner needs {error.name}: pip install {error.name}")
        return None

    def _put_back(self, number: int) -> None:
        try:
            self.ledger.put_back(number)
            self.say(number, "stopped; it goes on when the study does")
        except Exception as error:
            if not is_outage(error):
                raise
            tell(f"trial {number} stopped; without the storage it will count as lost")
