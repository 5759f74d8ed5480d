"""W&B: one run a trial, grouped by study, and one for the study itself. Offline unless the user asks."""

import logging
import os
from pathlib import Path
from typing import Any

PROJECT = "klann_lightning"
log = logging.getLogger(__name__)


class Record:
    """A W&B run, open from its making to `close`; what W&B cannot do is said once and left."""

    def __init__(
        self, folder: Path, study: str, name: str, token: str, kind: str, config: dict[str, Any]
    ) -> None:
        """A run `name` in the group `study`; the same token and name go on with the same run."""
        self._run: Any = None
        if os.environ.get("WANDB_MODE") == "disabled":
            return
        import wandb

        self._errors = (wandb.errors.Error, OSError)
        try:
            self._run = wandb.init(
                project=PROJECT,
                group=study,
                name=name,
                id=f"{token}-{name}",
                job_type=kind,
                dir=str(folder),
                config=config,
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(silent=True, init_timeout=15),
            )
        except self._errors as error:
            log.warning("W&B does not record %s: %s", name, " ".join(str(error).split()))

    def add(self, values: dict[str, Any]) -> None:
        """One more line of intermediate values."""
        self._safely(lambda: self._run.log(values))

    def add_table(self, name: str, columns: list[str | int], rows: list[list[Any]]) -> None:
        """A table of plain values."""
        if self._run is not None:
            import wandb

            self.add({name: wandb.Table(columns=columns, data=rows)})

    def add_images(self, paths: list[Path]) -> None:
        """Pictures from PNG files."""
        if self._run is not None:
            import wandb

            self.add({path.stem: wandb.Image(str(path)) for path in paths})

    def close(self, summary: dict[str, Any], failed: bool = False) -> None:
        """End the run, with its state and its scores."""
        self._safely(lambda: self._run.summary.update(summary))
        self._safely(lambda: self._run.finish(exit_code=int(failed)))
        self._run = None

    def _safely(self, action: Any) -> None:
        if self._run is None:
            return
        try:
            action()
        except self._errors as error:
            log.warning("W&B stops recording a run: %s", " ".join(str(error).split()))
            self._run = None
