"""What all workers of a study work by."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klann_lightning.sweep.records import Record
from klann_lightning.sweep.space import Config, assign
from klann_lightning.sweep.study import Study


@dataclass
class Plan:
    """All that a worker needs to know."""

    study: Study
    name: str  # of the study in its storage
    storage: str
    folder: Path  # runs/<name>
    experiment: Config  # complete, as fit would resolve it
    token: str  # of the study's W&B runs
    budget: int | None = None  # trials
    end: float = math.inf  # time.time() after which no trial is begun
    environment: dict[str, str] = field(default_factory=dict)  # of its trainings: threads, GPU

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def config_of(self, number: int, chosen: Config) -> Config:
        """A trial's complete configuration, on the experiment's own recipe."""
        return {**assign(self.experiment, chosen), "experiment": f"{self.name}-{number:04d}"}

    def record(self, number: int, config: dict[str, Any]) -> Record:
        """The trial's run in W&B."""
        about = {"study": self.name, "trial": number, **config}
        return Record(self.folder, self.name, f"trial-{number}", self.token, "trial", about)
