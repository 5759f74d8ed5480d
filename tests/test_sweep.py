"""Whole searches: what they leave, that they go on where they were stopped, and what they survive."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import write_root
from optuna.trial import TrialState
from servers import wait_until
from test_ledger import disconnect
from test_stages import SPECTRAL, TIME

from klann_lightning.cli import main
from klann_lightning.errors import ConfigError
from klann_lightning.handshake import SCORES_FILE
from klann_lightning.sweep.crew import worker_environments
from klann_lightning.sweep.ledger import ALIVE, REASON, RETRY_OF, counted, slots
from klann_lightning.sweep.storage import open_storage

SEARCHES = sorted((Path(__file__).parents[1] / "sweeps" / "search").glob("*.yaml"))
LIFT = {"model.model.init_args.lift_dim": {"type": "int", "low": 1, "high": 6}}
SMALL_STEPS = {"model.stages.0.lr": {"type": "float", "low": 1e-3, "high": 3e-2, "log": True}}
RATE = {"model.stages.0.lr": {"type": "float", "low": 1e-9, "high": 1e30, "log": True}}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_root(tmp_path_factory.mktemp("recordings"), lambda x: 0.8 * x - 0.3 * x**2)


class Search:
    """A study file over a tiny experiment, and the command that searches it."""

    def __init__(self, folder: Path, root: Path, epochs: int = 2, **study) -> None:
        self.runs = folder / "runs"
        file = folder / "mine.yaml"
        fields = {"objectives": ["val/esr_db"], "space": LIFT, "grace_seconds": 20.0, **study}
        file.write_text(yaml.safe_dump(fields))
        stages = TIME.replace('"epochs": 3', f'"epochs": {epochs}')
        self.words = [
            *("sweep", f"--study={file}", f"--runs={self.runs}", "--experiment=tiny", "--data.device=tiny"),
            *(f"--data.root={root}", "--data.train=klann_lightning.data.feeds.Readers"),
            *("--data.train.readers=2", "--data.train.length=2048", "--data.train.batches_per_epoch=4"),
            *("--model.model=klann_lightning.models.klann.ParallelKlann", "--model.model.hidden=[3]"),
            *("--model.model.lift_dim=2", f"--model.stages=[{stages}, {SPECTRAL}]"),
        ]
        self.folder = self.runs / "tiny-mine"
        self.url = f"sqlite:///{self.folder / 'study.db'}"

    def start(self, *more: str, wandb: str = "disabled") -> subprocess.Popen[str]:
        """As a shell would, in a group of its own, so that signals reach it alone."""
        command = [sys.executable, "-m", "klann_lightning", *self.words, *more]
        environment = {**os.environ, "WANDB_MODE": wandb}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *more: str, code: int = 0, wandb: str = "disabled") -> str:
        process = self.start(*more, wandb=wandb)
        printed, said = process.communicate(timeout=300)
        assert process.returncode == code, printed + said
        return printed + said

    def trials(self, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
        storage = open_storage(url or self.url)
        try:
            return optuna.load_study(study_name="tiny-mine", storage=storage).get_trials()
        finally:
            disconnect(storage)

    def under_way(self, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
        """Trials whose training has come to its first checkpoint, and not to its end."""
        try:
            running = [trial for trial in self.trials(url) if trial.state == TrialState.RUNNING]
        except (KeyError, ConfigError):  # there is no study yet
            return []
        folders = {trial.number: self.training(trial.number) for trial in running}
        ended = {number for number, folder in folders.items() if (folder / SCORES_FILE).exists()}
        begun = {number for number, folder in folders.items() if (folder / "last.ckpt").exists()}
        return [trial for trial in running if trial.number in begun - ended]

    def training(self, number: int, seed: int = 0) -> Path:
        return self.folder / "trials" / f"{number:04d}" / f"seed-{seed}"


def worker_of(trial: optuna.trial.FrozenTrial) -> int:
    return int(trial.user_attrs[ALIVE].split()[1])


def found(trials: list[optuna.trial.FrozenTrial]) -> list[tuple]:
    return [(trial.number, trial.params, trial.values, trial.intermediate_values) for trial in trials]


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgres"])
def test_killed_workers_lose_no_trial(kind, root, tmp_path, request):
    """Three workers, two of them killed in mid-trial: each trial ends once, those two by a second attempt."""
    search = Search(tmp_path, root, epochs=150, space={**LIFT, **SMALL_STEPS})
    urls = {"sqlite": search.url, "journal": f"journal://{tmp_path / 'study.log'}"}
    url = urls.get(kind) or request.getfixturevalue("postgres").url
    process = search.start("--trials=4", "--workers=3", f"--storage={url}")
    workers: list[int] = []

    def two_are_killed() -> bool:
        assert process.poll() is None, process.communicate()
        for trial in search.under_way(url):
            if len(workers) < 2 and worker_of(trial) not in workers:
                workers.append(worker_of(trial))
                os.kill(workers[-1], signal.SIGKILL)
        return len(workers) == 2

    wait_until(two_are_killed, 120, every=0.2)
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, printed + said
    trials = search.trials(url)
    killed = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    assert {worker_of(trials[number]) for number in killed} == set(workers)
    assert len(trials) == 6
    assert [trial.state for trial in counted(trials)] == [TrialState.COMPLETE] * 4
    for slot in slots(trials):
        first, *again = slot
        assert (first.number in killed) == bool(again)
        if again:
            assert first.state == TrialState.FAIL
            assert first.user_attrs[REASON] == "no sign of life of its worker for 20 s"
            assert again[0].user_attrs[RETRY_OF] == first.number
            assert again[0].params == first.params
            former = search.training(first.number) / "last.ckpt"
            assert f"--ckpt_path={former}" in (search.training(again[0].number) / "fit.log").read_text()
            assert "is gone" in (search.training(first.number) / "fit.log").read_text()
    assert printed.count("was ended by SIGKILL; another takes its place") == 2
    assert "4 complete" in printed


def test_a_study_that_was_stopped_goes_on_as_if_it_had_not_been(root, tmp_path):
    """Once between trials and once in the middle of one, by Ctrl-C."""
    sampler = {"class_path": "optuna.samplers.TPESampler", "init_args": {"n_startup_trials": 1}}
    searches = [
        Search(tmp_path / name, root, epochs=150, sampler=sampler, space={**LIFT, **SMALL_STEPS}, seed=3)
        for name in made(tmp_path, "whole", "parts")
    ]
    whole, parts = searches
    uninterrupted = whole.start("--trials=3")
    parts.run("--trials=1")
    (first,) = parts.trials()
    process = parts.start("--trials=3")
    wait_until(parts.under_way, 120)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130, printed + said
    assert "the same command goes on" in printed
    states = [trial.state for trial in parts.trials()]
    assert states == [TrialState.COMPLETE, *[TrialState.WAITING] * 2]
    parts.run("--trials=3")
    uninterrupted.communicate(timeout=300)
    assert "--ckpt_path=" in (parts.training(1) / "fit.log").read_text()
    assert found(parts.trials())[0] == found([first])[0]
    assert found(parts.trials()) == found(whole.trials())
    before = (parts.folder / "leaderboard.csv").read_text()
    assert "3 complete" in parts.run("--trials=3"), "it is done, and says so again"
    assert (parts.folder / "leaderboard.csv").read_text() == before


def made(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).mkdir()
    return list(names)


def test_what_fails_or_is_pruned_says_why_and_the_study_goes_on(root, tmp_path):
    """A good trial, a useless one, one that diverges, one that cannot be made; and W&B's runs of all."""
    starts = {
        "good": {"stages": [{"lr": 0.01}, {"lr": 0.002}]},
        "useless": {"stages": [{"lr": 1e-9}, {"lr": 0.002}]},
        "diverging": {"stages": [{"lr": 1e30}, {"lr": 0.002}]},
        "impossible": {"model": {"init_args": {"low_hz": 30000.0}}},
    }
    for name, config in starts.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"model": config}))
    search = Search(
        tmp_path,
        root,
        epochs=20,
        space={**RATE, "model.model.init_args.low_hz": {"type": "float", "low": 0.1, "high": 30000}},
        start=[f"{name}.yaml" for name in starts],
        trial={"data.train.init_args.batches_per_epoch": 16},  # it diverges before it can be pruned
        pruner={"class_path": "PercentilePruner", "init_args": {"percentile": 50.0, "n_startup_trials": 1}},
        sampler={"class_path": "optuna.samplers.RandomSampler"},
    )
    printed = search.run("--trials=4", wandb="offline")
    good, useless, diverging, impossible = search.trials()
    assert good.state == TrialState.COMPLETE
    assert sorted(good.intermediate_values) == list(range(1, 23))
    assert good.user_attrs["stages"] == [0, 20]
    assert useless.state == TrialState.PRUNED
    assert re.fullmatch(r"val/esr_db -?\d.* after epoch 1", useless.user_attrs[REASON])
    assert not (search.training(1) / "scores.json").exists()
    assert diverging.state == impossible.state == TrialState.FAIL
    assert "diverged: train/loss is" in diverging.user_attrs[REASON]
    assert "cutoffs' grid from 30000" in impossible.user_attrs[REASON]
    assert "1 complete, 1 pruned, 2 fail" in printed

    rows = list(csv.DictReader((search.folder / "leaderboard.csv").read_text().splitlines()))
    assert [row["start"] for row in rows] == list(starts)
    assert rows[0]["front"] == "True"
    assert float(rows[0]["val/esr_db"]) == pytest.approx(good.value)
    assert "diverged" in rows[2]["reason"]
    page = (search.folder / "report.html").read_text()
    assert "plotly.js v" in page
    assert "diverged" in page
    assert not re.search(r"<script[^>]*src=|<link", page), "it must open without a network"
    assert (
        yaml.safe_load((search.folder / "front" / "trial-0000.yaml").read_text())["model"]["stages"][0]["lr"]
        == 0.01
    )

    runs = {path.name.rpartition("-trial-")[2] for path in search.folder.glob("wandb/offline-run-*-trial-*")}
    assert runs == {"0", "1", "2", "3"}
    for number, state in enumerate(("COMPLETE", "PRUNED", "FAIL", "FAIL")):
        (run,) = search.folder.glob(f"wandb/offline-run-*-trial-{number}")
        records = recorded(run)
        assert f'"{state}"' in records, "its state"
        assert '"exit"' in records, "it is closed"
        assert "tiny-mine" in records, "its group"
        assert ("val/esr_db" in records) == (number < 2), "its intermediate values"
    (summary,) = search.folder.glob("wandb/offline-run-*-study")
    assert "leaderboard" in recorded(summary)


def recorded(run: Path) -> str:
    """A W&B run's records as text."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_best_are_trained_anew_and_scored_on_test(root, tmp_path):
    """Two seeds a trial, of which the median counts; the study's shorter course is not the final one."""
    search = Search(
        tmp_path,
        root,
        objectives=["val/esr_db", "cost"],
        seeds=2,
        trial={"trainer.max_epochs": 2},
        constraints={"parameters": 60},
        seed=1,
    )
    printed = search.run("--trials=2", "--best=1")
    trials = counted(search.trials())
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for trial in trials:
        scores = [
            json.loads((search.training(trial.number, seed) / "scores.json").read_text()) for seed in (0, 1)
        ]
        median = sum(each[-1]["esr_db"] for each in scores) / 2
        assert trial.values == [pytest.approx(median), trial.user_attrs["cost"]]
        assert trial.user_attrs["parameters"] <= 60
        assert "test" not in (search.training(trial.number) / "metrics.csv").read_text()
    (best,) = (search.folder / "best").glob("trial-*[0-9]")
    scores = json.loads((best / "scores.json").read_text())
    assert [row["name"] for row in scores][-2:] == ["stage-1-time", "stage-2-spectral"]
    assert "test/esr_db" in (best / "metrics.csv").read_text()
    assert f"{scores[-1]['esr_db']:.2f}" in printed
    assert (search.folder / "front.png").stat().st_size > 10_000
    config = yaml.safe_load(next((search.folder / "front").iterdir()).read_text())
    assert config["trainer"]["max_epochs"] == -1


def test_a_server_that_goes_away_for_a_while_does_not_end_the_study(root, tmp_path, postgres):
    search = Search(tmp_path, root, epochs=150, grace_seconds=8.0, space={**LIFT, **SMALL_STEPS})
    process = search.start("--trials=2", "--workers=2", "--name=outage", f"--storage={postgres.url}")
    search.folder = search.runs / "outage"
    training = search.training(0)
    wait_until((training / "last.ckpt").exists, 120)
    postgres.stop("immediate")
    try:
        wait_until((training / "scores.json").exists, 120)
        time.sleep(2)  # in which the worker tells the storage
    finally:
        postgres.start()
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, printed + said
    assert "the storage does not answer; waiting for it" in printed
    assert "2 complete" in printed
    assert "lost" not in printed


@pytest.mark.parametrize(
    ("study", "more", "words"),
    [
        (
            {"space": {"model.lr": {"type": "float", "low": 0, "high": 1}}},
            (),
            "mine.yaml: .*does not accept option 'lr'",
        ),
        ({"space": {"model.stages.5.lr": {"type": "float", "low": 0, "high": 1}}}, (), "no 5 there"),
        (
            {
                "space": {
                    "model.model.class_path": {"type": "categorical", "choices": ["klann_lightning.None"]}
                }
            },
            (),
            r"there is no class klann_lightning\.None",
        ),
        ({"trial": {"trainer.epochs": 3}}, (), "does not accept option 'epochs'"),
        ({"start": ["none.yaml"]}, (), r"no such file to start from: .*none\.yaml"),
        ({}, ("--data.root=nowhere",), "nowhere"),
        ({}, ("--data.roof=x",), "roof"),
        ({}, ("--workers=0",), "--workers must be at least 1"),
        ({"trials": None}, (), "never ends"),
    ],
)
def test_a_mistake_is_named_before_any_trial(study, more, words, root, tmp_path):
    search = Search(tmp_path, root, **{"trials": 3, **study})
    with pytest.raises(ConfigError if "nowhere" not in words else Exception, match=words):
        main([*search.words, *more])
    assert not search.folder.exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        (
            "large",
            "{lift_dim: 7}",
            r"large\.yaml lies outside the space: .*lift_dim is 7, outside 1 to 6",
        ),
        (
            "wide",
            "{hidden: [7]}",
            r"wide\.yaml differs from the experiment in model\.model\.init_args\.hidden",
        ),
    ],
)
def test_a_start_that_the_space_cannot_express_is_named(name, arguments, words, root, tmp_path):
    (tmp_path / f"{name}.yaml").write_text(f"model: {{model: {{init_args: {arguments}}}}}")
    search = Search(tmp_path, root, trials=3, start=[f"{name}.yaml"])
    with pytest.raises(ConfigError, match=words):
        main(search.words)


def test_another_study_of_the_same_name_is_refused(root, tmp_path):
    search = Search(tmp_path, root, trials=0)
    search.run()
    other = Search(tmp_path, root, trials=0, seeds=3)
    assert "was begun with another seeds" in other.run(code=2)
    assert "0 trials" in other.run("--name=second")
    search = Search(tmp_path, root, trials=0)
    rate = search.run("--model.optimizer=torch.optim.SGD", code=2)
    assert "was begun with another model.optimizer" in rate
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(root)
    assert "0 trials" in search.run(f"--data.root={elsewhere}"), "where the recordings lie may differ"


def test_a_new_study_does_not_take_an_older_ones_trainings_for_its_own(root, tmp_path):
    search = Search(tmp_path, root, trials=1)
    search.run()
    (first,) = search.trials()
    (search.folder / "study.db").unlink()
    other = Search(tmp_path, root, trials=1, seed=1, epochs=4)
    assert "was of another study" in other.run()
    (second,) = other.trials()
    assert second.params != first.params
    assert second.values != first.values
    assert len(list(search.folder.glob("trials-until-*"))) == 1


def test_no_test_recordings_are_needed(root, tmp_path):
    """A search does not look at them; the best are scored on them, so then they must be there."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for split in ("train", "val"):
        (recordings / split).symlink_to(root / split)
    search = Search(tmp_path, recordings, trials=1)
    assert "1 complete" in search.run()
    assert "test" in search.run("--best=1", code=2)


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert worker_environments(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert worker_environments(20) == [{"OMP_NUM_THREADS": "1"}] * 20


def test_each_worker_has_its_own_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    places = worker_environments(3)
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["2", "5", "2"]


def test_a_sampler_of_a_grid_goes_through_it(root, tmp_path):
    """Optuna's own stop the study with its last trial, which is an error outside of Optuna's loop."""
    grid = {"seed_everything": {"type": "int", "low": 0, "high": 2}}
    search = Search(
        tmp_path, root, space=grid, sampler={"class_path": "optuna.samplers.BruteForceSampler"}, trials=3
    )
    assert "given to another worker" not in search.run()
    assert sorted(trial.params["seed_everything"] for trial in search.trials()) == [0, 1, 2]
    assert all(trial.state == TrialState.COMPLETE for trial in search.trials())
    assert "seed-2" in {path.name for path in search.folder.glob("trials/*/seed-*")}


@pytest.mark.parametrize("search", SEARCHES, ids=lambda path: path.stem)
@pytest.mark.parametrize("device", ["la2a", "facebender"])
def test_every_shipped_study_fits_every_experiment(search, device, root, tmp_path):
    """All but the training: the whole space parses, and what it starts from lies in it."""
    sweeps = search.parents[1]
    main(
        [
            *("sweep", f"--config={sweeps / f'{device}.yaml'}", f"--study={search}", f"--runs={tmp_path}"),
            *("--data.device=tiny", f"--data.root={root}", "--data.context_seconds=0.1", "--trials=0"),
        ]
    )
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{device}-{search.stem}"
