"""A system: filters, a curve, filters (Wiener-Hammerstein), trained by `fit` like the others."""

import torch
from torch import Tensor

from klann_lightning.dsp.filtering import BlockFilter, filter_scan
from klann_lightning.models.base import AudioModel, State
from klann_lightning.models.parts import FilterBank, Pointwise


class WienerHammerstein(AudioModel):
    """y = after(curve(before(x))), [B, T] -> [B, T]: two cascades of biquads around a pointwise net."""

    def __init__(self, sections: int = 2, width: int = 8, sample_rate: int = 44100) -> None:
        super().__init__(sample_rate)
        self.bank = FilterBank(2, sections, "log", 20.0, 16000.0, sample_rate, banks=2)
        self.curve = Pointwise([1, width, 1])

    def init_state(self, batch: int) -> State:
        """Of both cascades, [B, 2, sections, 2]."""
        return (self.bank.cutoff.new_zeros(batch, *self.bank.cutoff.shape, 2),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        unrolled = self.bank.unrolled()
        x, before = _cascade(x[:, None] / self.input_level, unrolled, state[0][:, :1], slice(0, 1))
        x, after = _cascade(self.curve(x), unrolled, state[0][:, 1:], slice(1, 2))
        return x[:, 0] * self.output_level, (torch.cat([before, after], 1),)

    def multiply_adds(self) -> int:
        return self.curve.multiply_adds() + self.bank.multiply_adds()


def _cascade(x: Tensor, sections: list[BlockFilter], state: Tensor, which: slice) -> tuple[Tensor, Tensor]:
    states = []
    for index, section in enumerate(sections):
        x, last = filter_scan(x, section.select(which), state[:, :, index])
        states.append(last)
    return x, torch.stack(states, 2)
