"""Pruners see one stage at a time."""

import optuna
import pytest
from optuna.pruners import HyperbandPruner, PercentilePruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from klann_lightning.sweep.ledger import LOST, RUNGS, STAGES
from klann_lightning.sweep.pruning import should_prune

optuna.logging.set_verbosity(optuna.logging.WARNING)
MEDIAN = PercentilePruner(50.0, n_startup_trials=1)


@pytest.fixture
def study():
    return optuna.create_study(study_name="pruned")


def reported(study, stages, values, state=None):
    """A trial with values at steps; its number."""
    trial = study.ask()
    trial.set_user_attr(STAGES, stages)
    for step, value in values.items():
        trial.report(value, step)
    if state:
        study.tell(trial, 0.0 if state == TrialState.COMPLETE else None, state)
    return trial.number


def test_a_bad_trial_is_pruned_and_a_good_one_is_not(study):
    for value in (-10.0, -12.0):
        reported(study, [0], {2: value, 4: value - 2}, TrialState.COMPLETE)
    assert should_prune(MEDIAN, study, reported(study, [0], {2: -5.0}))[0]
    assert not should_prune(MEDIAN, study, reported(study, [0], {2: -13.0}))[0]


def test_stages_are_compared_at_their_own_steps(study):
    """The others switched after 10 epochs, this one after 4: its sixth epoch is its second stage's second."""
    for value in (-10.0, -12.0):
        steps = {2: value, 6: value, 10: value, 12: 100 + value}
        reported(study, [0, 10], steps, TrialState.COMPLETE)
    number = reported(study, [0, 4], {2: -11.5, 4: -11.5, 6: 88.5})
    assert not should_prune(MEDIAN, study, number)[0]
    worse = reported(study, [0, 4], {2: -11.5, 4: -11.5, 6: 95.0})
    assert should_prune(MEDIAN, study, worse)[0], "its good first stage must not save it"
    other = reported(study, [0], {6: 88.5})
    assert should_prune(MEDIAN, study, other)[0], "the same value at the same epoch, but of the first stage"


def test_the_first_in_a_stage_is_not_pruned_by_another_stage(study):
    reported(study, [0], {2: -10.0}, TrialState.COMPLETE)
    number = reported(study, [0, 4], {2: -10.0, 6: 50.0})
    assert not should_prune(PercentilePruner(50.0, n_startup_trials=0), study, number)[0]


def test_halving_keeps_its_rungs_by_stage(study):
    pruner = SuccessiveHalvingPruner(min_resource=2, reduction_factor=2)
    verdicts = []
    for first, second in ((-3.0, 70.0), (-4.0, 60.0), (-1.0, None), (-5.0, 90.0)):
        number = reported(study, [0], {2: first})
        pruned, rungs = should_prune(pruner, study, number)
        trial = study.get_trials(deepcopy=False)[number]
        storage, trial_id = study._storage, trial._trial_id
        storage.set_trial_user_attr(trial_id, RUNGS, rungs)
        assert rungs["0"]["completed_rung_0"] == first
        if not pruned:
            storage.set_trial_user_attr(trial_id, STAGES, [0, 4])
            storage.set_trial_intermediate_value(trial_id, 6, second)
            later, rungs = should_prune(pruner, study, number)
            assert set(rungs) == {"0", "1"}
            storage.set_trial_user_attr(trial_id, RUNGS, rungs)
            assert rungs["1"] == {"completed_rung_0": second}
            verdicts.append((pruned, later))
        else:
            verdicts.append((pruned, None))
    assert verdicts == [(False, False), (False, False), (True, None), (False, True)]


def test_within_one_stage_hyperband_decides_as_it_would_alone(study):
    """With the brackets that its trials' numbers deal out; the copy that it sees has the same numbers."""
    alone = optuna.create_study(study_name=f"{study.study_name}, stage 1", pruner=HyperbandPruner(2, 54))
    verdicts = []
    for value in range(24):
        number = reported(study, [0], {2: float(value), 6: float(value)})
        verdict, rungs = should_prune(HyperbandPruner(2, 54), study, number)
        trial = alone.ask()
        for step in (2, 6):
            trial.report(float(value), step)
        expected = trial.should_prune()
        assert verdict == expected
        study._storage.set_trial_user_attr(study.get_trials()[number]._trial_id, RUNGS, rungs)
        state = TrialState.PRUNED if verdict else TrialState.COMPLETE
        for search in (study, alone):
            search.tell(number, None if verdict else 0.0, state)
        verdicts.append(verdict)
    assert set(verdicts) == {True, False}


def test_a_lost_attempt_counts_by_its_copy_alone(study):
    """It has failed in its second stage; in the first one it must not look like a completed trial."""
    reported(study, [0, 4], {2: -20.0, 6: -20.0}, TrialState.FAIL)
    reported(study, [0], {2: -10.0}, TrialState.COMPLETE)
    assert should_prune(MEDIAN, study, reported(study, [0], {2: -14.0}))[0], "it passed its first stage"
    lost = optuna.create_study(study_name="lost")
    trial = lost.ask()
    trial.set_user_attr(STAGES, [0, 4])
    trial.set_user_attr(LOST, True)
    for step in (2, 6):
        trial.report(-20.0, step)
    lost.tell(trial, None, TrialState.FAIL)
    reported(lost, [0], {2: -10.0}, TrialState.COMPLETE)
    assert not should_prune(MEDIAN, lost, reported(lost, [0], {2: -14.0}))[0]
