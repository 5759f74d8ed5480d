"""Keeps what a training needs to go on: when it is killed, told to stop, or out of disk."""

import io
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities import rank_zero_info

from klann_lightning.errors import CheckpointError, ConfigError, HaltedError
from klann_lightning.files import replacing
from klann_lightning.handshake import LAST
from klann_lightning.training.checkpoints import read_checkpoint
from klann_lightning.training.logs import RunLog

HEARTBEAT_SECONDS = 1.0  # between two looks of all ranks at each other
MOST_STEPS = 64  # between them
REQUEUE = signal.SIGUSR1  # as `sbatch --signal=USR1@120` asks for it
MUST = "must"  # storage option of a checkpoint that is written elsewhere rather than not at all


class CheckpointFiles(CheckpointIO):
    """Checkpoints as files that are there as a whole or not at all, read without running code from them.

    What could not be written is in `failure`, not raised: on several ranks one alone writes, and the others
    would wait for it.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self.elsewhere: Path | None = None  # where the last one is instead

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        self.failure, self.elsewhere = _write_error(Path(path), content.getbuffer()), None
        if self.failure and storage_options == MUST:
            name = f"{Path(path).parent.name}-{Path(path).name}"
            for folder in (Path(tempfile.gettempdir()), Path.home()):
                if _write_error(folder / name, content.getbuffer()) is None:
                    self.elsewhere = folder / name
                    return

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


class Keeper(Checkpoint):
    """Writes `last.ckpt`, and ends a training that is told to stop where it can be gone on with.

    It is written at the end of every epoch with a validation, and where the last one is `minutes` old between
    two steps; all checkpoints together take at most `share` of a training's time, but for those at its end
    and at a stage's. All that the training goes on with is in it, so that a training which was killed ends
    as if it had not been, to the bit on a CPU.

    SIGTERM and Ctrl-C end the training after the step, or the validation, that is under way; a second
    Ctrl-C at once. Under SLURM its requeue signal (SIGUSR1) also puts the job back into the queue. On several
    ranks it is enough that one of them is told.
    """

    def __init__(self, minutes: float = 5.0, share: float = 0.02) -> None:
        self.minutes = minutes
        self.share = share
        self.max_steps = -1  # after which the training ends; Lightning's own skips an epoch when it goes on
        self._told = 0  # number of the signal that has come
        self._validated = False  # in this epoch
        self._begun = self._saved = 0.0  # when the training and the last checkpoint began, time.monotonic()
        self._spent = 0.0  # seconds of writing
        self._failed: set[str] = set()  # names that could not be written when they were last tried
        self._next_beat, self._last_beat = 0, (0, 0.0)  # step; step and time

    def write(self, trainer: pl.Trainer, name: str, must: bool = False) -> bool:
        """The checkpoint `name`.ckpt of the training as it stands; False where there was no time or place."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        now = time.monotonic()
        wanted = must or self._spent <= self.share * (now - self._begun)
        if not _any(trainer, wanted and trainer.is_global_zero):
            return False
        path = Path(trainer.default_root_dir) / f"{name}.ckpt"
        trainer.save_checkpoint(path, weights_only=False, storage_options=MUST if must else None)
        self._spent += time.monotonic() - now
        return not _any(trainer, not self._report(trainer, path, must))

    def on_load_checkpoint(self, trainer: pl.Trainer, _: Any, checkpoint: dict[str, Any]) -> None:
        """The former training's log goes on, from the step that is the next one."""
        for logger in trainer.loggers:
            if isinstance(logger, RunLog):
                logger.go_on(checkpoint["global_step"])

    def on_fit_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Every rank goes on, or none."""
        goes_on = bool(trainer.ckpt_path)
        if trainer.strategy.broadcast(goes_on) != goes_on:
            raise ConfigError(
                f"rank {trainer.global_rank} does not see what rank 0 goes on from: the folder of all runs "
                "must be one that all machines share. Name it by --runs."
            )

    def on_sanity_check_start(self, *_: Any) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._listen()
        trainer.should_stop |= 0 < self.max_steps <= trainer.global_step
        self._begun = self._saved = time.monotonic()
        self._next_beat, self._last_beat = 0, (trainer.global_step, self._begun)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if 0 < self.max_steps <= trainer.global_step:
            trainer.should_stop = True
        if batch_idx + 1 == trainer.num_training_batches or trainer.should_stop:
            return  # the epoch's end is where to go on from
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients are not kept
        told, due = self._beat(trainer)
        if told or due:
            self._write_last(trainer, must=bool(told))
        if told:
            self._halt(trainer, told)

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        for logger in trainer.loggers:
            logger.save()  # so that the log is never behind a checkpoint
        told, due = self._beat(trainer, now=True)
        last_epoch = 0 < (trainer.max_epochs or -1) <= trainer.current_epoch + 1
        ends = bool(told) or trainer.should_stop or last_epoch
        if self._validated or due or ends:
            self._write_last(trainer, must=ends)
        self._validated = False
        if told:
            self._halt(trainer, told)

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._told:  # after the last step, with nobody to hear it
            self._halt(trainer, self._told)

    def on_exception(self, trainer: pl.Trainer, _: Any, exception: BaseException) -> None:
        kept = Path(trainer.default_root_dir) / LAST
        if not isinstance(exception, HaltedError) and kept.is_file():
            rank_zero_info(f"The training broke off. {_how_to_go_on(kept)}")

    def _write_last(self, trainer: pl.Trainer, must: bool) -> None:
        if self.write(trainer, Path(LAST).stem, must):
            self._saved = time.monotonic()

    def _report(self, trainer: pl.Trainer, path: Path, must: bool) -> bool:
        """Say what could not be written, once; False on the rank that could not write it."""
        files = _files(trainer)
        if files.failure is None:
            self._failed.discard(path.name)
            return True
        reason = files.failure.strerror or str(files.failure)
        if must and files.elsewhere is None and path.name == LAST:
            raise CheckpointError(
                f"{path} cannot be written: {reason}, nor another folder. The former checkpoint is whole."
            ) from files.failure
        if files.elsewhere is not None:
            rank_zero_info(f"{path} cannot be written: {reason}. It is in {files.elsewhere} instead.")
        elif path.name not in self._failed:
            rank_zero_info(
                f"{path} cannot be written: {reason}. The former one is whole, and the training goes on. "
                "Free some space, or mend the folder's permissions."
            )
        self._failed.add(path.name)
        return False

    def _beat(self, trainer: pl.Trainer, now: bool = False) -> tuple[int, bool]:
        """The signal that a rank was told, and whether `last.ckpt` is due: the same on every rank.

        Several ranks look at each other about once a second, at the same step, and where it must be `now`.
        """
        time_now = time.monotonic()
        due = time_now - self._saved >= 60 * self.minutes
        if trainer.world_size == 1:
            return self._told, due
        step = trainer.global_step
        if step < self._next_beat and not now:
            return 0, False
        steps, seconds = step - self._last_beat[0], time_now - self._last_beat[1]
        apart = round(HEARTBEAT_SECONDS * steps / max(seconds, 1e-3))
        asked = [self._told, int(due and trainer.is_global_zero), max(1, min(apart, MOST_STEPS))]
        answer = torch.tensor(asked, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
        told, due_there, apart = answer.tolist()
        self._next_beat, self._last_beat = step + apart, (step, time_now)
        return told, bool(due_there)

    def _listen(self) -> None:
        """Instead of Lightning's handlers, which it takes back itself at the training's end."""
        self._told = 0
        kinds = [signal.SIGTERM, signal.SIGINT]
        if SLURMEnvironment.detect():
            kinds.append(REQUEUE)
        if threading.current_thread() is threading.main_thread():
            for kind in kinds:
                signal.signal(kind, self._hear)

    def _hear(self, number: int, _: FrameType | None) -> None:
        again, self._told = self._told == number == signal.SIGINT, number
        if again:
            raise HaltedError("stopped at once: the last checkpoint is where to go on from", number)

    def _halt(self, trainer: pl.Trainer, number: int) -> None:
        kept = Path(trainer.default_root_dir) / LAST
        said = f"stopped by {signal.Signals(number).name} in epoch {trainer.current_epoch}. "
        if number == REQUEUE and trainer.is_global_zero:
            said += f"{_requeue()} "
        raise HaltedError(said + _how_to_go_on(_files(trainer).elsewhere or kept), number)


def _files(trainer: pl.Trainer) -> CheckpointFiles:
    files: CheckpointFiles = trainer.strategy.checkpoint_io  # type: ignore[assignment]
    return files


def _write_error(path: Path, content: memoryview) -> OSError | None:
    """Write the file; why not, where it could not be."""
    try:
        with replacing(path) as aside:
            aside.write_bytes(content)
    except OSError as error:
        return error
    return None


def _any(trainer: pl.Trainer, decision: bool) -> bool:
    """Whether a rank has decided so, the same on every rank."""
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _how_to_go_on(kept: Path) -> str:
    return f"All that was learned is in {kept}: run the same command with --resume to go on."


def _requeue() -> str:
    """Put this job back into SLURM's queue; what came of it."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}") for part in ("JOB_ID", "TASK_ID"))
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        return f"Job {job} could not be put back into the queue: {reason.strip()}."
    return f"Job {job} is in the queue again."
