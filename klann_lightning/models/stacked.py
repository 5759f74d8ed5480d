"""Banks of filters in a row, as layers are: what each bank heard, the next one can act on."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Literal, cast

import torch
from torch import Tensor, nn

from klann_lightning.errors import ConfigError
from klann_lightning.models.klann import Klann, Run
from klann_lightning.models.parts import Pointwise
from klann_lightning.native.planes import Operations


class StackedKlann(Klann):
    """z_k = bank_k(u_k); u_(k+1) = m_k(z_k, u_k); the way down reads all z_k of all banks.

    Each bank has D filters side by side; m_k is Linear(2 D, 2 mid_width) - GLU - Linear(mid_width, D).
    The parallel-series system's idea (Huhtala, Juvela, Schlecht 2024) for whole banks instead of
    single filters: a short row of maps that mix all channels, where the other has a long row of maps that
    mix two. An envelope that one bank has smoothed can so be weighed against the others and smoothed again.
    """

    stacks = True

    def __init__(
        self,
        hidden: Sequence[int],
        lift_dim: int,
        banks: int,
        mid_width: int,
        sections: int = 1,
        start: Literal["paper", "log"] = "log",
        low_hz: float = 0.5,
        high_hz: float = 16000.0,
        initial: Literal["silence", "zero"] = "silence",
        sample_rate: int = 44100,
    ) -> None:
        """As Klann, with `banks` in a row and `mid_width` the width of the maps between them."""
        if min(banks, mid_width) < 1:
            raise ConfigError(f"banks {banks} and mid_width {mid_width} must be at least 1")
        super().__init__(hidden, lift_dim, sections, start, low_hz, high_hz, initial, sample_rate, banks)
        self.maps = nn.ModuleList(Pointwise([2 * lift_dim, mid_width, lift_dim]) for _ in range(banks - 1))

    def linear(self, u: Tensor, run: Run) -> Tensor:
        """Bank after bank: [B, D, T] -> [B, banks D, T]."""
        width = u.shape[1]
        outputs = [run(u, slice(0, width))]
        for bank, mixed in enumerate(self.maps, start=1):
            u = mixed(torch.cat([outputs[-1], u], 1))
            outputs.append(run(u, slice(bank * width, (bank + 1) * width)))
        return torch.cat(outputs, 1)

    def channel_names(self) -> list[str]:
        """Bank and channel, counted from 1."""
        banks, width = len(self.maps) + 1, self.lift.last.out_features
        return [f"bank {k}, channel {i}" for k in range(1, banks + 1) for i in range(1, width + 1)]

    def write_linear(self, program: Operations, planes: Sequence[int]) -> list[int]:
        outputs = [self.bank.write_side_by_side(program, planes)]
        for bank, mixed in enumerate(cast("Iterable[Pointwise]", self.maps), start=1):
            planes = mixed.write(program, [*outputs[-1], *planes])
            outputs.append(self.bank.write_side_by_side(program, planes, bank * len(planes)))
        return list(chain.from_iterable(outputs))
