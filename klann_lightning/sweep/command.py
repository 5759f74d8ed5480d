"""`sweep`: checks a study before anything runs, leads its workers, and writes what came out."""

import json
import multiprocessing
import os
import secrets
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning

from klann_lightning.data.pairs import find_pairs
from klann_lightning.errors import ConfigError
from klann_lightning.experiment import resolve
from klann_lightning.sweep import fitting
from klann_lightning.sweep.ledger import START, Ledger, Watch, counted
from klann_lightning.sweep.outcome import best_of, leaderboard, table, write_files
from klann_lightning.sweep.page import write_front, write_page
from klann_lightning.sweep.records import Record
from klann_lightning.sweep.space import Config, assign, extract, samples
from klann_lightning.sweep.storage import open_storage, redacted
from klann_lightning.sweep.study import SCORES, Study, read_study
from klann_lightning.sweep.worker import Plan, work

PREPARED = "prepared"  # study attribute: its creator has asked for the trials to start from
DEFINITION = "definition"  # study attribute: what a process that joins must agree with
TOKEN = "wandb"  # study attribute: what its W&B runs' names begin with
PREPARING_SECONDS = 30.0  # that one who joins leaves to the creator
# What may differ between the processes of one study: where things lie, and what they run on.
PLACES = ("runs", "data.root", "trainer.accelerator", "trainer.devices", "trainer.logger", "data.num_workers")

Start = tuple[str, dict[str, Any]]  # name of a configuration, and its parameters


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
    experiment = resolve(words)
    for key in ("config", "ckpt_path", "weights_only"):
        experiment.pop(key, None)
    experiment["trainer"]["enable_progress_bar"] = False
    starts = _checked(study, study_file, experiment, words)
    title = name or f"{experiment['experiment']}-{study.name}"
    folder = Path(experiment["runs"]) / title
    url = storage or f"sqlite:///{folder / 'study.db'}"
    plan = Plan(study, title, url, folder, experiment, "", study.trials)
    plan.token = _prepare(plan, starts)
    plan.end = time.time() + 60 * study.minutes if study.minutes is not None else plan.end
    print(_promise(plan, workers), flush=True)
    interrupted = _lead(plan, workers)
    ledger, opened = _opened(plan)
    if not interrupted:
        ledger.close_surplus(plan.budget)
    _report(plan, opened)
    if interrupted:
        print("stopped; the same command goes on with the study")
        sys.exit(130)
    if best:
        _refit(plan, opened, best)


def _checked(study: Study, path: Path, experiment: Config, words: Sequence[str]) -> list[Start]:
    """The configurations to start from, after everything was tried that a trial might stumble over."""
    data = experiment["data"]
    for split in ("train", "val"):
        find_pairs(Path(data["root"]), split, [data["device"]] if isinstance(data["device"], str) else data["device"])
    try:
        for chosen in samples(study.space):
            _resolved(assign(assign(experiment, chosen), study.trial))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    starts = []
    for start in study.start:
        if not start.is_file():
            raise ConfigError(f"{path}: no such file to start from: {start}")
        wanted = resolve([*words, f"--config={start}"])
        try:
            chosen, parameters = extract(wanted, study.space)
        except ConfigError as error:
            raise ConfigError(
                f"{path}: {start} lies outside the space: {error}. Widen the range, or leave the file out."
            ) from error
        reached = _resolved(assign(experiment, chosen))
        if other := _differences(reached, wanted):
            raise ConfigError(f"{path}: {start} differs from the experiment where nothing is searched: {other[0]}")
        starts.append((start.stem, parameters))
    return starts


def _resolved(config: Config) -> Config:
    """As fit would resolve it, with what it would say against it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.yaml"
        fitting.write_config(path, config)
        return resolve([f"--config={path}"])


def _differences(one: Any, other: Any, key: str = "") -> list[str]:
    """The keys under which two configurations differ; where things lie does not count."""
    if key in (*PLACES, "config", "experiment") or one == other:
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        return [
            place
            for name in keys
            for place in _differences(one.get(name), other.get(name), f"{key}.{name}".lstrip("."))
        ]
    return [key]


def _prepare(plan: Plan, starts: list[Start]) -> str:
    """Make the study with the trials it starts from, or join it; its W&B token."""
    definition = json.loads(json.dumps({"experiment": plan.experiment, **_definition(plan.study)}))
    token = secrets.token_hex(4)
    try:
        study = optuna.create_study(
            study_name=plan.name,
            storage=open_storage(plan.storage),
            directions=["minimize"] * len(plan.study.objectives),
        )
    except DuplicatedStudyError:
        study = _join(plan, definition)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(plan.study.objectives)
        study.set_user_attr(TOKEN, token)
        study.set_user_attr(DEFINITION, definition)
    ledger, _ = _opened(plan)
    asked = {trial.user_attrs.get(START) for trial in ledger.trials()}
    for name, parameters in starts:
        if name not in asked:
            ledger.ask(parameters, **{START: name})
    if plan.budget is not None:
        ledger.top_up(plan.budget)
    study.set_user_attr(PREPARED, True)
    return str(study.user_attrs.get(TOKEN, token))


def _join(plan: Plan, definition: dict[str, Any]) -> optuna.Study:
    """An existing study, once its creator has prepared it; ConfigError if it searches something else."""
    study = optuna.load_study(study_name=plan.name, storage=open_storage(plan.storage))
    end = time.monotonic() + PREPARING_SECONDS
    while not study.user_attrs.get(PREPARED) and time.monotonic() < end:
        time.sleep(0.2)
    if other := _differences(study.user_attrs.get(DEFINITION, definition), definition):
        before = study.user_attrs[DEFINITION]
        raise ConfigError(
            f"study {plan.name} was begun with another {', '.join(other[:3])}; "
            f"go on with the former configuration, or give this one another name by --name "
            f"(begun for {before['experiment']['experiment']})"
        )
    return study


def _definition(study: Study) -> dict[str, Any]:
    """What makes the study's trials comparable and repeatable."""
    whole = asdict(study)
    names = ("objectives", "space", "sampler", "pruner", "seed", "seeds", "trial", "constraints")
    return {f"study {name}": whole[name] for name in names}


def _opened(plan: Plan) -> tuple[Ledger, optuna.Study]:
    storage = open_storage(plan.storage)
    study = optuna.load_study(study_name=plan.name, storage=storage)
    return Ledger(study, storage, plan.study.retries, Watch(plan.study.grace_seconds)), study


def _promise(plan: Plan, workers: int) -> str:
    study, kind = plan.study, plan.storage.partition("://")[0]
    ends = [f"{study.trials} trials"] if study.trials is not None else []
    ends += [f"{study.minutes:g} minutes"] if study.minutes is not None else []
    lines = [
        f"study {plan.name}: {' or '.join(ends)}, {workers} worker{'s' * (workers > 1)}, "
        f"storage {redacted(plan.storage)}",
        f"a trial whose worker gives no sign of life for {study.grace_seconds:g} s is tried again by another one, "
        f"at most {study.retries} times, from its last checkpoint where {plan.folder}/ is on its disk too",
    ]
    if len(study.objectives) > 1:
        lines.append("no trial is pruned: with several objectives Optuna cannot say which is worse under way")
    if kind in ("sqlite", "journal"):
        place = plan.storage if kind == "sqlite" else plan.storage.removeprefix("journal://")
        lines.append(f"to watch it: optuna-dashboard {place}")
    return "\n".join(lines)


def _lead(plan: Plan, workers: int) -> bool:
    """Run the workers to the study's end; True: somebody has told the search to stop."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads half
    crew = [
        context.Process(target=work, args=(replace(plan, environment=place),), name=f"worker {index}")
        for index, place in enumerate(_places(workers), 1)
    ]
    spares = plan.study.retries * workers
    with _told_to_stop() as told:
        for process in crew:
            process.start()
        while any(process.is_alive() for process in crew) and not told:
            time.sleep(0.2)
            for place, process in enumerate(crew):
                if process.exitcode is not None and process.exitcode < 0 and spares and not told:
                    name = signal.Signals(-process.exitcode).name
                    print(f"{process.name} was ended by {name}; another takes its place", flush=True)
                    spares -= 1
                    environment = _places(workers)[place]
                    crew[place] = context.Process(
                        target=work, args=(replace(plan, environment=environment),), name=process.name
                    )
                    crew[place].start()
        for process in crew:
            if told and process.is_alive():
                process.terminate()
        for process in crew:
            process.join()
    return bool(told)


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """A list that holds the signal when Ctrl-C or SIGTERM has come. Children ignore Ctrl-C from the start."""
    told: list[int] = []
    terminate = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    interrupt = signal.signal(signal.SIGINT, lambda number, _: told.append(number))
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGINT, interrupt)


def _places(workers: int) -> list[dict[str, str]]:
    """Each worker's environment: its share of the processor's threads, and its own GPU where there are any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // workers)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    gpus = [gpu for gpu in visible.split(",") if gpu]
    places = []
    for index in range(workers):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
        places.append({"OMP_NUM_THREADS": threads, **gpu})
    return places


def _report(plan: Plan, study: optuna.Study) -> None:
    names, folder = plan.study.objectives, plan.folder
    written = write_files(study, names, folder)
    write_page(study, names, folder / "report.html")
    written.append(folder / "report.html")
    pictures = [folder / "front.png"] if write_front(study, names, folder / "front.png") else []
    rows = leaderboard(study)
    record = Record(folder, plan.name, "study", plan.token, "study", _definition(plan.study))
    columns = ["trial", "state", "front", "start", *SCORES, "cost", "parameters"]
    lines = [[row[name] for name in columns] for row in rows]
    record.add_table("leaderboard", columns, lines)
    record.add_table("front", columns, [line for line in lines if line[2]])
    record.add_images(pictures)
    done = [trial.state.name for trial in counted(study.get_trials(deepcopy=False))]
    record.close({state.lower(): done.count(state) for state in dict.fromkeys(done)})
    print(f"\n{plan.name}\n{table(study)}\n")
    print("written:", ", ".join(str(path) for path in [*written, *pictures]))


def _refit(plan: Plan, study: optuna.Study, count: int) -> None:
    """Train the best on the experiment's full recipe, and score them once on the test recordings."""
    lines = [f"\n{'full recipe':<16}{'parameters':>12}{'cost':>8}{'test ESR dB':>13}{'test MR-STFT':>14}"]
    for trial in best_of(study, count):
        folder = plan.folder / "best" / f"trial-{trial.number:04d}"
        config = plan.trial_folder(trial.number) / "experiment.yaml"
        if not (folder / fitting.SCORES).is_file():
            print(f"training trial {trial.number} on the full recipe: {folder}", flush=True)
            experiment_seed = int(plan.experiment.get("seed_everything") or 0)
            checkpoint = folder / "last.ckpt" if (folder / "last.ckpt").is_file() else None
            words = fitting.command(config, folder, experiment_seed, checkpoint)
            fit = fitting.Fit(words, folder, {})
            try:
                fit.process.wait()
            finally:
                fit.stop()
            if failure := fit.failure():
                raise ConfigError(f"trial {trial.number} on the full recipe: {failure}")
        scores = json.loads((folder / fitting.SCORES).read_text(encoding="utf-8"))[-1]
        attributes = trial.user_attrs
        lines.append(
            f"trial {trial.number:<10}{attributes['parameters']:>12}{attributes['cost']:>8}"
            f"{scores['esr_db']:>13.2f}{scores['mr_stft']:>14.3f}"
        )
    print("\n".join(lines))
