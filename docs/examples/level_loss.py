"""A loss term: how far the level is off. As a program it is klann_lightning with that term."""

from torch import Tensor

from klann_lightning.cli import run
from klann_lightning.losses import ESR_FLOOR, TERMS
from klann_lightning.metrics import FileScores
from klann_lightning.training import module


def level(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Squared difference of the rows' levels in dB, [B, T], [B, T], [] -> [B].

    Floored as `esr` is, for output and target alike: silence is no reason for an infinite loss.
    """
    floor = ESR_FLOOR * power
    energies = [x.square().mean(-1) + floor for x in (output, target)]
    return (10 * (energies[0] / energies[1]).log10()).square()


class Scores(FileScores):
    """Whole files have the term too: `val/loss`, which chooses the weights, is made of these."""

    def compute(self) -> dict[str, Tensor]:
        scores = super().compute()
        return {**scores, "level_db": (10 * scores["level"].log10()).square()}


TERMS["level_db"] = level
module.FileScores = Scores

if __name__ == "__main__":
    run()
