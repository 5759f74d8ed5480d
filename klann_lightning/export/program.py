"""A model's step as a program of torch.export: blocks of one length and states in, the same out."""

import io
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State
from klann_lightning.models.klann import Klann

BLOCK = 64  # samples that a program takes at a time


class _Step(nn.Module):
    def __init__(self, model: AudioModel) -> None:
        super().__init__()
        self.model = deepcopy(model)
        if isinstance(self.model, Klann):
            self.model.fused = False  # compiled code is no part of a program
            bank = self.model.bank
            unrolled = bank.unrolled()
            bank.unrolled = lambda: unrolled  # type: ignore[method-assign]

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, State]:
        y, after = self.model.step(x, state)
        return y, after


@torch.no_grad()
def export_program(model: AudioModel) -> bytes:
    """x [1, BLOCK] and the states -> y, the states after; ConfigError for what torch cannot export."""
    if BLOCK % model.block:
        raise ConfigError(
            f"a {type(model).__name__} works on {model.block} samples at a time, not on {BLOCK}"
        )
    example = (torch.zeros(1, BLOCK), *(part.clone() for part in model.init_state(1)))
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own ways
            torch.export.save(torch.export.export(_Step(model), example), file)
    except Exception as error:  # of many kinds, by what the model does
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"torch.export cannot take a {type(model).__name__}: {reason}") from error
    return file.getvalue()


def player(path: Path, state: State) -> Callable[[Tensor], Tensor]:
    """Plays whole blocks [T] of what was exported, from `state` on."""
    step = torch.export.load(path).module()

    @torch.no_grad()
    def play(x: Tensor) -> Tensor:
        at, outputs = state, []
        for block in x[: len(x) // BLOCK * BLOCK].split(BLOCK):
            y, at = step(block[None], *at)
            outputs.append(y[0])
        return torch.cat(outputs)

    return play
