"""The folders of the trainings, `<runs>/<experiment>/<time>`, and who trains in them."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from klann_lightning.configs import differences, plain_name
from klann_lightning.errors import ConfigError
from klann_lightning.files import PART, remove_parts
from klann_lightning.handshake import LAST, SCORES_FILE

CONFIG = "config.yaml"
LOCK = ".lock"
PROBE = f"{PART}probe"  # what is written to see whether that can be done
WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
PATIENCE_SECONDS = 5.0  # with a training that has lost its purpose, and is about to end
# Where, how fast and how loudly a training runs: what may change while it stays the same one.
CIRCUMSTANCES = (
    *("config", "ckpt_path", "resume", "weights_only", "runs", "scored", "media"),
    *("keep_minutes", "keep_share", "data.root", "data.num_workers"),
    *(f"trainer.{name}" for name in ("default_root_dir", "logger", "callbacks", "enable_progress_bar")),
    *(f"trainer.{name}" for name in ("accelerator", "strategy", "devices", "num_nodes", "max_time")),
)


def new_folder(runs: Path, experiment: str) -> Path:
    """A name for a run that begins now; no folder is made."""
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (started if attempt == 1 else f"{started}_{attempt}" for attempt in count(1))
    return next(folder for name in names if not (folder := _folder(runs, experiment) / name).exists())


def newest(runs: Path, experiment: str) -> Path:
    """The run of an experiment that was begun last and can be gone on with; or ConfigError."""
    for folder in _resumable(_folder(runs, experiment)):
        return folder
    raise ConfigError(
        f"no run in {runs / experiment} has a {LAST} to go on from. Name the folder of all runs by --runs, "
        "or begin a training without --ckpt_path."
    )


def unfinished(runs: Path, experiment: str, config: dict[str, Any]) -> Path | None:
    """The newest run of this very configuration that has not come to its end, and that nobody trains."""
    for folder in _resumable(_folder(runs, experiment)):
        ended = (folder / SCORES_FILE).is_file()
        if not ended and not changed(folder, config) and not _held(folder):
            return folder
    return None


def changed(folder: Path, config: dict[str, Any]) -> list[str]:
    """Fields in which a run's configuration differs from this one, other than its circumstances."""
    with suppress(OSError, yaml.YAMLError):
        begun = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        return differences(begun, config, CIRCUMSTANCES)
    return [CONFIG]


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other trainings out of a run's folder, until this one or its process ends.

    Something is written there, so a folder that takes nothing is found before the training.

    ConfigError where the folder cannot be written, or another process trains in it.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = _acquired(lock, PATIENCE_SECONDS)
        if free:
            (folder / PROBE).write_text(f"{os.getpid()}\n", encoding="utf-8")
    except OSError as error:
        lock.release()
        raise ConfigError(
            f"cannot write into {folder}: {error.strerror}. Name another folder by --runs, mend this one's "
            "permissions, or free some space."
        ) from error
    if not free:
        raise ConfigError(
            f"another process trains in {folder}. Wait for its end, or begin a run of its own by leaving out "
            "--resume and --ckpt_path."
        )
    try:
        remove_parts(folder)
        yield
    finally:
        lock.release()


def _folder(runs: Path, experiment: str) -> Path:
    """That of all runs of an experiment, which lies in that of all runs whatever it is called."""
    return runs / plain_name(experiment, "experiment")


def _resumable(folder: Path) -> Iterator[Path]:
    """Runs that have something to go on from, the newest first."""
    yield from (path.parent for path in sorted(folder.glob(f"*/{LAST}"), reverse=True))


def _held(folder: Path) -> bool:
    """Whether somebody trains there, or we cannot."""
    if not (folder / LOCK).is_file():
        return False
    lock = FileLock(folder / LOCK)
    try:
        return not _acquired(lock, 0)
    except OSError:  # another's file
        return True
    finally:
        lock.release()


def _acquired(lock: FileLock, patience_seconds: float) -> bool:
    """Whether nobody else has it. Where a file system has no locks, nobody ever has."""
    try:
        lock.acquire(timeout=patience_seconds)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True
