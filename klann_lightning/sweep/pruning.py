"""Pruning that never compares one stage of a training with another."""

from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from klann_lightning.sweep.ledger import LOST, RUNGS, STAGES

_RUNG = "completed_rung_"  # how successive halving calls it


def should_prune(pruner: BasePruner, study: optuna.Study, number: int) -> tuple[bool, dict[str, Any]]:
    """Whether the pruner would end the trial now, and the trial's new RUNGS.

    The pruner sees the stage that the trial is in as a study of its own: of every trial the values of
    that stage alone, at steps counted from the stage's beginning.
    """
    trials = study.get_trials(deepcopy=False)
    stage = len(trials[number].user_attrs.get(STAGES, [0])) - 1
    storage = InMemoryStorage()
    view = optuna.create_study(
        study_name=f"{study.study_name}, stage {stage + 1}", storage=storage, direction=study.direction
    )
    for trial in trials:  # with the same numbers, by which Hyperband deals out its brackets
        view.add_trial(_within_stage(trial, stage))
    verdict = pruner.prune(view, view.trials[number])
    noted = view.trials[number].system_attrs
    rungs = {name: value for name, value in noted.items() if name.startswith(_RUNG)}
    return verdict, {**trials[number].user_attrs.get(RUNGS, {}), str(stage): rungs}


def _within_stage(trial: FrozenTrial, stage: int) -> FrozenTrial:
    stages = trial.user_attrs.get(STAGES, [0])
    first = stages[stage] if stage < len(stages) else float("inf")
    behind = stages[stage + 1] if stage + 1 < len(stages) else float("inf")
    values = {
        int(step - first): value
        for step, value in trial.intermediate_values.items()
        if first < step <= behind
    }
    # A trial that has gone on to a later stage has passed this one. A lost one counts by its copy.
    passed = stage + 1 < len(stages) and not trial.user_attrs.get(LOST)
    state = TrialState.COMPLETE if passed else trial.state
    return create_trial(
        state=state,
        value=next(reversed(values.values()), 0.0) if state == TrialState.COMPLETE else None,
        intermediate_values=values,
        system_attrs=trial.user_attrs.get(RUNGS, {}).get(str(stage), {}),
    )
