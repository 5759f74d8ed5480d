"""Kill trainings at random moments, go on with them, and compare with one that was never killed.

python tests/soak_resume.py [--rounds 30] [--ranks 1] [--seed 0]

Prints a line a round: when it was killed, how often it went on, whether weights and log came out the same.
The exit code is 1 if a round did not. test_resume.py runs a few rounds of it.
"""

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from conftest import write_root

from klann_lightning import files
from klann_lightning.cli import main

# Two random starts, all data at once by L-BFGS, a loss relative to the one before: every kind of state.
STAGES = """[
{name: time, weights: {esr: 1.0}, epochs: 14, lr: 0.02, warmup_steps: 5, schedule: cosine, starts: 2,
 start_epochs: 3},
{name: polish, weights: {mse: 1.0}, epochs: 6, lr: 1.0,
 optimizer: {class_path: torch.optim.LBFGS, init_args: {max_iter: 3, line_search_fn: strong_wolfe}},
 feed: {class_path: klann_lightning.data.feeds.FullBatch, init_args: {rows: 2, warmup: 512, rounds: 3}}},
{name: spectral, weights: {esr: 1.0, mr_stft: 2.0}, epochs: 8, lr: 0.003, schedule: plateau, relative: true}
]"""
PLACES = ("half", "unsynced", "renamed")  # within the writing of a checkpoint


class Cut(NamedTuple):
    """The process kills itself within its write number `write`, from 1, at one of PLACES."""

    write: int
    place: str


def words(root: Path, runs: Path, ranks: int) -> list[str]:
    """The same training for all; it writes a checkpoint after every step."""
    return [
        *("fit", "--data.device=tiny", f"--data.root={root}", f"--runs={runs}", "--resume"),
        *("--data.train=klann_lightning.data.feeds.Readers", "--data.train.readers=4"),
        *("--data.train.length=2048", "--data.train.batches_per_epoch=5"),
        *("--model.model=klann_lightning.models.klann.ParallelSeriesKlann", "--model.model.hidden=[3]"),
        *("--model.model.lift_dim=2", "--model.model.mid_width=2", f"--model.stages={STAGES}"),
        *("--trainer.accelerator=cpu", f"--trainer.devices={ranks}", "--trainer.check_val_every_n_epoch=2"),
        *("--trainer.enable_progress_bar=false", "--trainer.gradient_clip_val=1", "--media=false"),
        *("--trainer.logger=klann_lightning.training.logs.RunLog", "--keep_minutes=0", "--keep_share=1"),
        *(("--trainer.strategy=ddp",) if ranks > 1 else ()),
    ]


def train(options: list[str], cut: Cut | None, log: Path) -> None:
    """The target of a process: the program with this command line, killed within a write if so wished."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if cut:
        cut_short(cut)
    torch.set_num_threads(1)
    main(options)


def cut_short(cut: Cut) -> None:
    """Have this process end itself in the midst of writing a checkpoint."""
    count, write_bytes, sync = 0, Path.write_bytes, files._sync

    def kill(here: str) -> None:
        if (count, here) == cut:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(path: Path, content: memoryview) -> int:
        nonlocal count
        count += 1
        write_bytes(path, content[: len(content) // 2])
        kill("half")
        return write_bytes(path, content)

    def synced(path: Path) -> None:
        kill("renamed" if path.is_dir() else "unsynced")
        sync(path)

    Path.write_bytes, files._sync = write, synced


class Soak:
    """Rounds of one training, in a folder of its own."""

    def __init__(self, folder: Path, ranks: int = 1, seed: int = 0) -> None:
        self.folder, self.ranks = folder, ranks
        self.chance = random.Random(seed)
        self.root = write_root(folder / "data", lambda x: np.tanh(2 * x))
        # a process that has imported everything and done nothing, to fork from
        self.forks = multiprocessing.get_context("forkserver")
        self.forks.set_forkserver_preload(["soak_resume", "klann_lightning.experiment"])
        with self.training("warm-up", None) as process:
            wait(process)
        begun = time.monotonic()
        with self.training("whole", None) as process:
            assert wait(process) == 0, (self.folder / "whole.log").read_text()
        self.seconds = time.monotonic() - begun
        self.whole = outcome(self.folder / "whole")

    def round(self, name: str, kills: int) -> str:
        """Killed so often, then gone on with to the end: what was done, and "equal" or what was not."""
        done = []
        for _ in range(kills):
            cut = None
            if self.chance.random() < 0.5:
                cut = Cut(self.chance.randint(1, 100 if self.ranks == 1 else 15), self.chance.choice(PLACES))
            after = self.chance.uniform(0.3 if self.ranks == 1 else 0.65, 1) * self.seconds / kills
            with self.training(name, cut) as process:
                if cut is None:
                    time.sleep(after)
                    self.kill(process)
                wait(process)
            done.append(f"write {cut.write} {cut.place}" if cut else f"{after:.1f} s")
        with self.training(name, None) as process:
            code = wait(process)
        log = (self.folder / f"{name}.log").read_text()
        found = outcome(self.folder / name) if code == 0 else {"exit code": code}
        wrong = [part for part in self.whole if not same(found.get(part), self.whole[part])]
        said = f"DIFFERENT: {', '.join(wrong)}" if wrong else "equal"
        return f"{', '.join(done):<50} went on {log.count('goes on with')} x  {said}"

    @contextmanager
    def training(self, name: str, cut: Cut | None) -> Iterator[object]:
        """A running process; it is gone at the end."""
        options, log = words(self.root, self.folder / name, self.ranks), self.folder / f"{name}.log"
        if self.ranks == 1:
            process = self.forks.Process(target=train, args=(options, cut, log))
            process.start()
        else:  # ranks start each other by the command line
            own = [sys.executable, __file__, f"--cut={cut.write} {cut.place}" if cut else "--cut="]
            process = subprocess.Popen([*own, f"--log={log}", *options], start_new_session=True)
        try:
            yield process
        finally:
            if self.ranks > 1:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            wait(process)

    def kill(self, process: object) -> None:
        """One of its ranks."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        others = children.read_text().split() if self.ranks > 1 and children.exists() else []
        chosen = self.chance.choice([process.pid, *map(int, others)])
        with suppress(ProcessLookupError):
            os.kill(chosen, signal.SIGKILL)


def wait(process: object) -> int:
    """Its exit code."""
    if isinstance(process, subprocess.Popen):
        return process.wait()
    process.join()
    return process.exitcode


def outcome(runs: Path) -> dict[str, object]:
    """What the newest run has come to: every stage's best weights, and its log."""
    folder = max((runs / "experiment").iterdir())
    found: dict[str, object] = {"metrics.csv": (folder / "metrics.csv").read_text()}
    for path in folder.glob("stage-*.ckpt"):
        found[path.stem] = torch.load(path, weights_only=True)["state_dict"]
    found["last"] = torch.load(folder / "last.ckpt", weights_only=True)["optimizer_states"]
    return found


def same(one: object, other: object) -> bool:
    """To the bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def soak() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = Soak(Path(folder), options.ranks, options.seed)
        print(f"{options.ranks} rank(s), never killed: {rounds.seconds:.1f} s", flush=True)
        results = []
        for number in range(1, options.rounds + 1):
            kills = rounds.chance.randint(1, 3) if options.ranks == 1 else 1
            results.append(rounds.round(str(number), kills))
            print(f"{number:>3}  {results[-1]}", flush=True)
    equal = sum(result.endswith("equal") for result in results)
    print(f"{equal} of {len(results)} rounds equal to the bit")
    sys.exit(equal < len(results))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("--cut="):  # a rank of a training
        chosen = sys.argv[1].removeprefix("--cut=").split()
        log_of_all = Path(sys.argv[2].removeprefix("--log="))
        train(sys.argv[3:], Cut(int(chosen[0]), chosen[1]) if chosen else None, log_of_all)
    else:
        soak()
