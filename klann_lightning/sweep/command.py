"""`sweep`: from the study file to the report."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.trial import FrozenTrial

from klann_lightning.configs import plain_name
from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.fitting import fit_command, run_fit, write_config
from klann_lightning.handshake import INTERRUPTED, LAST, SCORES_FILE
from klann_lightning.manners import tell
from klann_lightning.sweep.crew import lead
from klann_lightning.sweep.ledger import Ledger, Watch, counted
from klann_lightning.sweep.outcome import best_of, front_of, leaderboard, table, write_files
from klann_lightning.sweep.page import write_front, write_page
from klann_lightning.sweep.plan import Plan
from klann_lightning.sweep.preflight import check, define, prepare, read_experiment
from klann_lightning.sweep.records import Record
from klann_lightning.sweep.space import Config, suggest
from klann_lightning.sweep.storage import open_storage, redacted
from klann_lightning.sweep.study import SCORES, SIZES, read_study

STOPPED = "stopped; the same command goes on with the study"


class StudyError(KlannError):
    """A study that cannot go on."""


def run(
    study_file: Path,
    words: Sequence[str],
    trials: int | None,
    minutes: float | None,
    workers: int,
    storage: str | None,
    name: str | None,
    best: int,
) -> None:
    """Search, or go on searching; then report, and train the `best` anew. `words` are fit's."""
    if workers < 1 or best < 0 or (trials is not None and trials < 0):
        raise ConfigError("--workers must be at least 1, --best and --trials at least 0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = read_study(study_file)
    study.trials = trials if trials is not None else study.trials
    study.minutes = minutes if minutes is not None else study.minutes
    if study.trials is None and study.minutes is None:
        raise ConfigError(f"{study_file} never ends: give trials or minutes, there or as an option")
    experiment = read_experiment(words)
    starts = check(study, study_file, experiment, words, best > 0)
    title = plain_name(name or f"{experiment['experiment']}-{study.name}", "study")
    folder = Path(experiment["runs"]) / title
    url = storage or f"sqlite:///{folder / 'study.db'}"
    plan = Plan(study, title, url, folder, experiment, "", study.trials)
    plan.token = prepare(plan, starts)
    plan.end = time.time() + 60 * study.minutes if study.minutes is not None else plan.end
    tell(_promise(plan, workers))
    stopped, ended_by_error = lead(plan, workers)
    opened = open_storage(plan.storage)
    search = optuna.load_study(study_name=plan.name, storage=opened)
    if not stopped:
        Ledger(search, opened, study.retries, Watch(study.grace_seconds)).close_surplus()
    try:
        _report(plan, search)
    except OSError as error:
        raise StudyError(f"the report cannot be written: {error}; the same command tries again") from error
    if stopped:
        print(STOPPED)
        sys.exit(INTERRUPTED)
    if ended_by_error == workers:
        raise StudyError("no worker is left; the reasons stand above, and the same command goes on")
    if best:
        _refit(plan, search, best)


def _promise(plan: Plan, workers: int) -> str:
    """What will happen, and what is promised where something breaks: the same with every storage."""
    study, kind = plan.study, plan.storage.partition("://")[0]
    ends = [f"{study.trials} trials"] if study.trials is not None else []
    ends += [f"{study.minutes:g} minutes"] if study.minutes is not None else []
    lines = [
        f"study {plan.name}: {' or '.join(ends)}, {workers} worker{'s' * (workers > 1)}, "
        f"storage {redacted(plan.storage)}",
        f"a trial whose worker is silent for {study.grace_seconds:g} s is given to another, at most "
        f"{study.retries} times; it goes on from its last checkpoint where both see {plan.folder}/",
    ]
    if len(study.objectives) > 1:
        lines.append("no trial is pruned: with several objectives Optuna cannot say which is worse under way")
    if kind in ("sqlite", "journal"):
        place = plan.storage if kind == "sqlite" else plan.storage.removeprefix("journal://")
        lines.append(f"to watch it: optuna-dashboard {place}")
    return "\n".join(lines)


def _report(plan: Plan, study: optuna.Study) -> None:
    """Every file of the study's folder, its own run in W&B, and the table."""
    names, folder = plan.study.objectives, plan.folder
    configs = {trial.number: _config(plan, trial) for trial in front_of(study)}
    written = write_files(study, names, folder, configs)
    write_page(study, names, folder / "report.html")
    written.append(folder / "report.html")
    pictures = [folder / "front.png"] if write_front(study, names, folder / "front.png") else []
    columns = ["trial", "state", "front", "start", *SCORES, *SIZES]
    lines = [[row[name] for name in columns] for row in leaderboard(study)]
    record = Record(folder, plan.name, "study", plan.token, "study", define(plan.study))
    record.add_table("leaderboard", [*columns], lines)
    record.add_table("front", [*columns], [line for line in lines if line[columns.index("front")]])
    record.add_images(pictures)
    states = [trial.state.name.lower() for trial in counted(study.get_trials(deepcopy=False))]
    record.close({state: states.count(state) for state in dict.fromkeys(states)})
    print(
        f"\n{plan.name}\n{table(study)}\n\nwritten: {', '.join(map(str, [*written, *pictures]))}", flush=True
    )


def _refit(plan: Plan, study: optuna.Study, count: int) -> None:
    """Train the best on the experiment's own recipe, and score them once on the test recordings.

    Of several searches that end together one trains, and the others wait for its scores.
    """
    lines = [f"\n{'own recipe':<16}{'parameters':>12}{'cost':>8}{'test ESR dB':>13}{'test MR-STFT':>14}"]
    (plan.folder / "best").mkdir(exist_ok=True)
    for trial in best_of(study, count):
        folder = plan.folder / "best" / f"trial-{trial.number:04d}"
        with FileLock(plan.folder / "best" / "lock"):  # let go of when this process ends, however it ends
            if not (folder / SCORES_FILE).is_file():
                _train_anew(plan, trial, folder)
        scores = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))[-1]
        lines.append(
            f"trial {trial.number:<10}{trial.user_attrs['parameters']:>12}{trial.user_attrs['cost']:>8}"
            f"{scores['esr_db']:>13.2f}{scores['mr_stft']:>14.3f}"
        )
    print("\n".join(lines))


def _train_anew(plan: Plan, trial: FrozenTrial, folder: Path) -> None:
    tell(f"trial {trial.number} on the experiment's own recipe: {folder}")
    config = folder.with_suffix(".yaml")
    write_config(config, _config(plan, trial))
    checkpoint = folder / LAST
    seed = int(plan.experiment.get("seed_everything") or 0)
    words = fit_command(config, folder, seed, checkpoint if checkpoint.is_file() else None)
    fit, told = run_fit(words, folder)
    if told:
        print(STOPPED)
        sys.exit(INTERRUPTED)
    if failure := fit.failure():
        raise StudyError(f"trial {trial.number} on the experiment's own recipe: {failure}")


def _config(plan: Plan, trial: FrozenTrial) -> Config:
    """The configuration that a trial stands for, also where another machine has trained it."""
    chosen = suggest(optuna.trial.FixedTrial(trial.params), plan.study.space)
    return plan.config_of(trial.number, chosen)
