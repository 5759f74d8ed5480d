"""What a KLANN is made of: pointwise networks, and a bank of filters (Huhtala, Juvela, Schlecht 2024)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from klann_lightning.dsp.filtering import BlockFilter, unroll
from klann_lightning.dsp.svf import SvfControls, controls_from_raw, raw_from_cutoff_hz
from klann_lightning.errors import ConfigError
from klann_lightning.native.planes import Operations

# A biquad as a two-state machine: bp = d s1 + dg (x - s2), lp = s2 + g bp, hp = x - 2R bp - lp, three gains,
# s1 <- 2 bp - s1, s2 <- 2 lp - s2.
SVF_MULTIPLY_ADDS = 9


class Pointwise(nn.Module):
    """GLU layers applied to every sample alone: [B, widths[0], T] -> [B, widths[-1], T].

    Layer: Linear(in, 2 w), then first half times sigmoid(second half); the last Linear has no gate.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        gated = [nn.Linear(fan_in, 2 * width) for fan_in, width in pairwise(widths[:-1])]
        self.gated = nn.ModuleList(gated)
        self.last = nn.Linear(widths[-2], widths[-1])

    def forward(self, x: Tensor) -> Tensor:
        """[B, widths[0], T] -> [B, widths[-1], T]; of T = 1 as of any other."""
        for layer in self.gated:
            x = functional.glu(_affine(layer, x), dim=1)
        return _affine(self.last, x)

    def multiply_adds(self) -> int:
        """One a weight and one a gate; the biases are what the sums start from."""
        layers = [part for part in self.modules() if isinstance(part, nn.Linear)]
        gates = sum(layer.out_features // 2 for layer in layers if layer is not self.last)
        return gates + sum(layer.weight.numel() for layer in layers)

    def write(self, program: Operations, planes: Sequence[int]) -> list[int]:
        """The same as operations of a program, from these planes on."""
        for layer in self.gated:
            planes = program.layer(planes, layer, gated=True)
        return program.layer(planes, self.last, gated=False)


class FilterBank(nn.Module):
    """The trainable filters: `channels` cascades of `sections` biquads each.

    Starts: `paper` has all alike (cutoff a quarter of the sample rate, R = ln 2); `log` spreads the
    cutoffs over a logarithmic grid from low_hz to high_hz, slowest first, cascades side by side; of
    several `banks` of as many cascades, each has the whole grid.
    """

    def __init__(
        self,
        channels: int,
        sections: int,
        start: Literal["paper", "log"],
        low_hz: float,
        high_hz: float,
        rate: int,
        banks: int = 1,
    ) -> None:
        super().__init__()
        start_cutoff = torch.zeros(channels, sections)
        if start == "log":
            if not 0 < low_hz <= high_hz < rate / 2:
                raise ConfigError(
                    f"the cutoffs' grid from {low_hz} to {high_hz} Hz must lie between 0 Hz and Nyquist, "
                    f"{rate / 2} Hz"
                )
            octaves = torch.linspace(0, 1, channels * sections // banks, dtype=torch.float64)
            grid = (low_hz * (high_hz / low_hz) ** octaves).repeat(banks)
            start_cutoff.copy_(raw_from_cutoff_hz(grid, rate).view(channels, sections))
        self._start_cutoff = start_cutoff
        self.cutoff = nn.Parameter(start_cutoff.clone())
        self.damping = nn.Parameter(torch.zeros(channels, sections))
        self.mix = nn.Parameter(torch.ones(channels, sections, 3))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to the start, which has nothing random."""
        self.cutoff.copy_(self._start_cutoff)
        self.damping.zero_()
        self.mix.fill_(1)

    def controls(self) -> SvfControls:
        """The filters as they stand, shapes [channels, sections]."""
        return controls_from_raw(self.cutoff, self.damping, self.mix)

    def section_controls(self) -> list[SvfControls]:
        """The same, one [channels] bank a section."""
        controls = self.controls()
        return [SvfControls(*(part[:, i] for part in controls)) for i in range(self.cutoff.shape[1])]

    def multiply_adds(self) -> int:
        """Of every biquad."""
        return SVF_MULTIPLY_ADDS * self.cutoff.numel()

    def write(self, program: Operations, plane: int, channel: int) -> int:
        """A channel's cascade as operations of a program, from this plane on."""
        sections = self.cutoff.shape[1]
        for index in range(channel * sections, (channel + 1) * sections):
            plane = program.filter(plane, index)
        return plane

    def write_side_by_side(self, program: Operations, planes: Sequence[int], first: int = 0) -> list[int]:
        """One channel a plane, from channel `first` on."""
        return [self.write(program, plane, channel) for channel, plane in enumerate(planes, start=first)]

    def unrolled(self) -> list[BlockFilter]:
        """All sections prepared for the scan."""
        return [unroll(controls, self.cutoff.dtype) for controls in self.section_controls()]


def _affine(layer: Any, x: Tensor) -> Tensor:
    """nn.Linear along dimension 1: [B, in, T] -> [B, out, T], time contiguous."""
    return torch.baddbmm(layer.bias[:, None], layer.weight.expand(len(x), -1, -1), x)
