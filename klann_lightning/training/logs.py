"""What a training tells while it runs: logs that outlive its end, and whose trouble never ends it."""

import csv
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from klann_lightning.errors import HaltedError
from klann_lightning.files import replacing, write_whole

METRICS = "metrics.csv"
INIT_SECONDS = 30.0  # that W&B has to answer
RUN_ID = "run-id"  # in the folder that W&B keeps in the run's, so that a resumed run stays one


class RunLog(Logger):
    """`metrics.csv` in the run's folder, a line whenever something is logged.

    A training that is gone on with adds to it. What cannot be written waits for the next time.
    """

    def __init__(self, save_dir: str = "") -> None:
        """`save_dir` is the run's folder, which fit fills in."""
        super().__init__()
        self._path = Path(save_dir) / METRICS
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = []  # of the file as it was written last
        self._written = 0  # rows of it
        self._trouble = Trouble(str(self._path))

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._path.parent)

    def log_hyperparams(self, *_: Any) -> None:
        """They stand in the run's config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Values of one step; what is logged for it before the next `save` stands in one line."""
        row = {**metrics, "step": step}
        if len(self._rows) > self._written and self._rows[-1]["step"] == step:
            self._rows[-1].update(row)
        else:
            self._rows.append(row)

    @rank_zero_only
    def save(self) -> None:
        if len(self._rows) > self._written:
            with self._trouble.borne(OSError):
                self._write()

    def finalize(self, status: str) -> None:
        self.save()

    @rank_zero_only
    def go_on(self, step: int) -> None:
        """Keep of a former training's lines those before this step, which is the next one."""
        if self._path.is_file():
            with self._path.open(encoding="utf-8", newline="") as file:
                rows = [{key: text for key, text in row.items() if text} for row in csv.DictReader(file)]
            self._rows = [row for row in rows if int(row.get("step", step)) < step]

    def _write(self) -> None:
        columns = sorted({column for row in self._rows for column in row})
        grown, self._columns = columns == self._columns, []  # a half line must not be added to
        if grown:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, columns).writerows(self._rows[self._written :])
        else:
            with (
                replacing(self._path) as aside,
                aside.open("w", encoding="utf-8", newline="") as file,
            ):
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(self._rows)
        self._columns, self._written = columns, len(self._rows)


class WandbLog(WandbLogger):
    """W&B, without which a training goes on where it does not answer: offline, and then not at all.

    A run that is gone on with in its folder is the same run there.
    """

    def __init__(
        self,
        project: str = "klann_lightning",
        name: str | None = None,
        group: str | None = None,
        entity: str | None = None,
        tags: list[str] | None = None,
        save_dir: str = "",
    ) -> None:
        """As wandb.init has them; `save_dir` is the run's folder, which fit fills in."""
        super().__init__(name=name, save_dir=save_dir, project=project, group=group, entity=entity, tags=tags)
        del self._wandb_init["anonymous"]  # which has no effect any more, but a warning
        self._trouble = Trouble("W&B")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        for mode, instead in ((None, "It logs offline"), ("offline", "The training goes on without")):
            if self._experiment is None:
                try:
                    self._begin(mode)  # None: as WANDB_MODE has it
                except Exception as error:  # wandb raises its own, the system's and the network's
                    reason = " ".join(str(error).split()).rstrip(".")
                    rank_zero_info(f"W&B cannot log {mode or 'as asked'}: {reason}. {instead}.")
        if self._experiment is None:
            self._begin("disabled")
        return super().experiment

    def log_metrics(self, *args: Any, **named: Any) -> None:
        with self._trouble.borne(Exception):
            super().log_metrics(*args, **named)

    def log_hyperparams(self, *args: Any, **named: Any) -> None:
        with self._trouble.borne(Exception):
            super().log_hyperparams(*args, **named)

    def log_image(self, *args: Any, **named: Any) -> None:
        with self._trouble.borne(Exception):
            super().log_image(*args, **named)

    def log_audio(self, *args: Any, **named: Any) -> None:
        with self._trouble.borne(Exception):
            super().log_audio(*args, **named)

    def log_chart(self, name: str, figure: Any) -> None:
        """A Plotly figure."""
        self.log_metrics({name: figure})

    def finalize(self, status: str) -> None:
        with self._trouble.borne(Exception):
            super().finalize(status)

    def _begin(self, mode: str | None) -> None:
        import wandb

        if mode != "disabled":
            known = Path(self._save_dir or ".") / "wandb" / RUN_ID
            if mode or not known.is_file():  # the one that was refused stays in use
                write_whole(known, uuid.uuid4().hex[:8])
            self._wandb_init["id"] = known.read_text(encoding="utf-8")
        seconds = float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS))
        settings = wandb.Settings(init_timeout=seconds, silent=True)
        self._wandb_init |= {"mode": mode, "settings": settings}
        _ = super().experiment


class Trouble:
    """With one log; said when it begins, and not again until it was over."""

    def __init__(self, log: str) -> None:
        self._log = log
        self._said = False

    @contextmanager
    def borne(self, kind: type[Exception]) -> Iterator[None]:
        """Go on after an error of that kind."""
        try:
            yield
            self._said = False
        except HaltedError:
            raise
        except kind as error:
            if not self._said:
                reason = " ".join(str(error).split()) or type(error).__name__
                rank_zero_info(f"{self._log} cannot be written: {reason}. The training goes on.")
            self._said = True
