"""One training as a part of something larger: `fit` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from klann_lightning.files import write_whole
from klann_lightning.handshake import PARENT, PROGRESS, SCORES_FILE

LOG = "fit.log"  # what the process prints, in the folder of its run
STOP_SECONDS = 20.0  # that a process has to end when it is told to
POLL_SECONDS = 0.1  # between two looks at a running training

# What such a fit has besides the experiment: no test recordings, no pictures, nothing that W&B logs twice.
TRIAL_CONFIG: dict[str, Any] = {
    "scored": "val",
    "media": False,
    "trainer.enable_progress_bar": False,
    "trainer.logger": [{"class_path": "klann_lightning.training.logs.RunLog"}],
}
PROGRESS_LOG = "klann_lightning.training.progress.ProgressLog"


def fit_command(config: Path, folder: Path, seed: int, checkpoint: Path | None) -> list[str]:
    """What a shell would have to run for the same training."""
    words = [sys.executable, "-m", "klann_lightning", "fit", f"--config={config}"]
    words += [f"--seed_everything={seed}", f"--trainer.default_root_dir={folder}"]
    words += [f"--trainer.callbacks+={PROGRESS_LOG}"]
    return words + ([f"--ckpt_path={checkpoint}"] if checkpoint else [])


def run_fit(words: list[str], folder: Path) -> tuple["Fit", bool]:
    """A fit that has come to its end; True beside it if this process was told to stop, and has stopped it."""
    with told_to_stop() as told:
        fit = Fit(words, folder, {})
        while fit.running() and not told:
            time.sleep(POLL_SECONDS)
        fit.stop()
    return fit, bool(told)


def write_config(path: Path, config: dict[str, Any]) -> None:
    """As YAML, for `fit --config`."""
    write_whole(path, yaml.safe_dump(config, sort_keys=False))


def read_scores(folder: Path) -> dict[str, float]:
    """What the last stage's best weights score on the val recordings."""
    last = json.loads((folder / SCORES_FILE).read_text(encoding="utf-8"))[-1]
    return {"val/esr_db": last["esr_db"], "val/mr_stft": last["mr_stft"]}


class Fit:
    """A running fit: its progress line by line, and why it ended."""

    def __init__(self, words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._read = 0  # bytes of the progress that were handed out
        self.before = len(self.progress())  # lines of a training that was stopped and goes on
        self._read = 0
        # A cluster's variables describe the worker's own job; a trial is one process of it. In a session
        # of its own, so that a Ctrl-C reaches the search alone, which then ends its trainings in order.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        with (folder / LOG).open("ab") as log:
            log.write((" ".join(words) + "\n").encode())
            log.flush()
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited, **environment, PARENT: str(os.getpid())},
                start_new_session=True,
            )

    def running(self) -> bool:
        return self.process.poll() is None

    def progress(self) -> list[dict[str, Any]]:
        """The validations since the last call, whole lines only."""
        path = self.folder / PROGRESS
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]

    def stop(self) -> None:
        """End it and what it has started, gently if they listen."""
        for number, patience in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, None)):
            if self.running():
                os.killpg(self.process.pid, number)
                try:
                    self.process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue

    def failure(self) -> str | None:
        """Why it has not come to its end, in one line, or None."""
        code = self.process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            memory = ", as where memory runs out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{memory}"
        if code == 0 and (self.folder / SCORES_FILE).is_file():
            return None
        text = (self.folder / LOG).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if code else "it ended without scores"


@contextmanager
def told_to_stop() -> Iterator[list[int]]:
    """A list that holds the signal once Ctrl-C or SIGTERM has come."""
    told: list[int] = []
    kinds = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(kind, lambda number, _: told.append(number)) for kind in kinds]
    try:
        yield told
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
