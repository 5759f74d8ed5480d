"""What the callbacks that lead a training share."""

from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint


class KeptCallback(Checkpoint):
    """A callback of which these attributes are in every checkpoint; Lightning calls it after all others."""

    KEPT: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        vars(self).update({name: state_dict[name] for name in self.KEPT if name in state_dict})


def trains(trainer: pl.Trainer) -> bool:
    """Whether a validation that has ended belongs to a training."""
    return not trainer.sanity_checking and trainer.state.fn == "fit"
