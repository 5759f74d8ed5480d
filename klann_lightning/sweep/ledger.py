"""Which trials a study has asked for, who works on which, and what becomes of those whose worker is lost.

Optuna's queue is the ledger: a trial that is asked for waits in it, and a worker claims it by setting it
from WAITING to RUNNING, which one process alone can do in any storage. A running trial's worker gives a
sign of life; one whose sign stands still for the study's grace is failed, and a copy waits in its place.
Optuna's own heartbeat would do that for relational storages only, and within `study.optimize` only, whose
workers cannot agree on an exact number of trials.

All that is decided here follows from the list of trials, so nobody can lose count by being killed.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

Slot = list[FrozenTrial]  # one trial that was asked for: its attempts, the last one is current

# User attributes of trials.
START = "start"  # name of the configuration that the trial was given
RETRY_OF = "retry_of"  # number of the attempt before
UNCOUNTED = "uncounted"  # why the trial does not count as one that was asked for
REASON = "reason"  # why it failed or was pruned
ALIVE = "alive"  # its worker's sign of life
LOST = "lost"  # its worker was lost, and it is tried again
HOST = "host"  # the machine that works on it
STAGES = "stages"  # epochs ended before each of its stages began
RUNGS = "rungs"  # per stage, what successive halving has noted on it

RUNNING = TrialState.RUNNING


def slots(trials: Sequence[FrozenTrial]) -> list[Slot]:
    """The trials that count, in the order in which they were asked for, each with its attempts.

    Two that were asked for twice by processes that did not know of each other count once.
    """
    found: list[Slot] = []
    starts: set[str] = set()
    for trial in trials:
        attributes = trial.user_attrs
        if UNCOUNTED in attributes:
            continue
        if RETRY_OF in attributes:
            for slot in found:
                if slot[-1].number == attributes[RETRY_OF]:
                    slot.append(trial)
        elif attributes.get(START) not in starts:
            found.append([trial])
            if START in attributes:
                starts.add(attributes[START])
    return found


def outcome(slot: Slot) -> FrozenTrial:
    """The attempt that counts: the one that was completed or pruned, else the last."""
    decided = (TrialState.COMPLETE, TrialState.PRUNED)
    return next((trial for trial in slot if trial.state in decided), slot[-1])


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The outcome of every trial that was asked for."""
    return [outcome(slot) for slot in slots(trials)]


def claimable(trials: Sequence[FrozenTrial], budget: int | None) -> list[FrozenTrial]:
    """Waiting trials within the budget, first asked for first."""
    waiting = []
    for slot in slots(trials)[:budget]:
        former = slot[-2].state if len(slot) > 1 else TrialState.FAIL
        if slot[-1].state == TrialState.WAITING and former == TrialState.FAIL:
            waiting.append(slot[-1])
    return waiting


class Watch:
    """Notices, by this process's own clock, what has stood still for too long."""

    def __init__(self, grace_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.grace_seconds, self.clock = grace_seconds, clock
        self._seen: dict[int, tuple[Any, float]] = {}  # a trial's sign, and since when it stands still

    def look(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Running trials whose worker gives no sign of life, and lost ones that nobody asks for again."""
        signs = {trial.number: trial.user_attrs.get(ALIVE) for trial in trials if trial.state == RUNNING}
        signs |= {slot[-1].number: LOST for slot in slots(trials) if slot[-1].user_attrs.get(LOST)}
        now = self.clock()
        before = self._seen
        self._seen = {
            number: before[number] if number in before and before[number][0] == sign else (sign, now)
            for number, sign in signs.items()
        }
        still = [number for number, (_, since) in self._seen.items() if now - since > self.grace_seconds]
        return [trials[number] for number in sorted(still)]

    def forget(self) -> None:
        """While the storage was away, nobody could give a sign."""
        self._seen = {}


class Ledger:
    """A study's trials in its storage."""

    def __init__(self, study: optuna.Study, storage: BaseStorage, retries: int, watch: Watch) -> None:
        self.study, self.storage, self.retries, self.watch = study, storage, retries, watch
        self.study_id = storage.get_study_id_from_name(study.study_name)

    def trials(self) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self.study_id, deepcopy=False)

    def id_of(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def ask(self, parameters: dict[str, Any] | None = None, **attributes: Any) -> None:
        """Let a trial wait, with these parameters or with some that its worker's sampler chooses."""
        self.study.enqueue_trial(parameters or {}, user_attrs=attributes)

    def top_up(self, budget: int) -> None:
        """Ask for as many trials as the budget lacks."""
        for _ in range(budget - len(slots(self.trials()))):
            self.ask()

    def claim(self, budget: int | None) -> int | None:
        """The number of a trial that is now this process's own, or None where none waits."""
        trials = self.trials()
        if budget is None and not claimable(trials, None):
            self.ask()
            trials = self.trials()
        for trial in claimable(trials, budget):
            try:
                if self.storage.set_trial_state_values(self.id_of(trial.number), RUNNING):
                    return trial.number
            except UpdateFinishedTrialError:
                continue
        return None

    def put_back(self, number: int) -> None:
        """Let an own trial wait again, for whoever goes on with the study."""
        self.storage.set_trial_state_values(self.id_of(number), TrialState.WAITING)

    def replace_lost(self) -> list[FrozenTrial]:
        """Fail the trials whose workers are lost and let copies of them wait; those that it failed.

        Only the process that has failed a trial asks for its copy. If it is killed in between, the next
        one notices after the grace that nobody did.
        """
        failed = []
        for trial in self.watch.look(self.trials()):
            slot = next((slot for slot in slots(self.trials()) if trial.number in numbers(slot)), [trial])
            again = slot[-1].number == trial.number and len(slot) <= self.retries
            if trial.state == RUNNING:
                reason = f"no sign of life of its worker for {self.watch.grace_seconds:g} s"
                reason += "" if again else f", as {len(slot) - 1} times before; not tried again"
                if not self._fail(trial.number, {REASON: reason, LOST: again}):
                    continue
                failed.append(trial)
            if again:
                self.study.add_trial(_again(trial))
        return failed

    def _fail(self, number: int, attributes: dict[str, Any]) -> bool:
        """Whether it was this process that has failed the trial."""
        trial_id = self.id_of(number)
        try:
            for name, value in attributes.items():
                self.storage.set_trial_user_attr(trial_id, name, value)
            return self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False

    def close_surplus(self) -> None:
        """Fail what waits in vain: asked for twice, or in place of a trial that was not lost after all."""
        trials = self.trials()
        wanted = [slot[-1].number for slot in slots(trials) if outcome(slot) is slot[-1]]
        for trial in trials:
            if trial.state == TrialState.WAITING and trial.number not in wanted:
                self._fail(trial.number, {UNCOUNTED: "asked for twice"})


def numbers(trials: Sequence[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def attempts(trials: Sequence[FrozenTrial], number: int) -> list[int]:
    """The numbers of a trial and of the attempts before it, latest first."""
    slot = next((numbers(slot) for slot in slots(trials) if number in numbers(slot)), [number])
    return slot[slot.index(number) :: -1]


def _again(trial: FrozenTrial) -> FrozenTrial:
    """A waiting copy: same parameters, and what it has reported so far.

    A constraint is not copied: Optuna would ignore the one that the copy sets.
    """
    kept = {name: value for name, value in trial.user_attrs.items() if name in (START, STAGES, RUNGS)}
    fixed = {name: value for name, value in trial.system_attrs.items() if name == "fixed_params"}
    distributions: dict[str, BaseDistribution] = trial.distributions
    return create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=distributions,
        user_attrs={**kept, RETRY_OF: trial.number},
        system_attrs=fixed,
        intermediate_values=trial.intermediate_values,
    )
