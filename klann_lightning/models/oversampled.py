"""A model at two or four times its sample rate, so that less of what it makes above Nyquist folds back."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State

FACTORS = (1, 2, 4)
REACH = 32  # samples before and after that an interpolated one depends on
BETA = 9.0  # of the Kaiser window: stops by 90 dB, from 1.09 Nyquist on, and passes up to 0.91 of it


class Oversampled(AudioModel):
    """`factor` copies of a trained model, each of which plays one phase of the oversampled signal.

    Up by an interpolating FIR filter, the layers at `factor` times the rate, down by the same filter. With
    z^factor for z, a filter passes up to Nyquist exactly what it was trained to (above, its mirror image):
    it sees one phase only. So the copies know nothing of each other, and the first of them plays the
    recording's own samples. The output is late by `delay`. Derivation: docs/mathematics.md, "Oversampling".
    """

    taps: Tensor

    def __init__(self, model: AudioModel, factor: int) -> None:
        """`model` keeps its sample rate and levels; `factor` is 2 or 4, see `oversampled`."""
        super().__init__(model.sample_rate)
        self.model, self.factor, self.block = model, factor, model.block
        self.delay = 2 * REACH
        self.register_buffer("taps", torch.from_numpy(phase_taps(factor)))

    def init_state(self, batch: int) -> State:
        """The last inputs [B, delay] and outputs [B, factor, delay], and the copies' own [B, factor, ...]."""
        inner = self.model.init_state(batch * self.factor)
        heard = self.model.input_level.new_zeros(batch, self.delay)
        made = heard.new_zeros(batch, self.factor, self.delay)
        return heard, made, *(one.unflatten(0, (batch, self.factor)) for one in inner)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As AudioModel: x [B, T] -> (y [B, T], late by `delay` samples, and the state after)."""
        heard, made, *inner = state
        line, taps = torch.cat([heard, x], -1), self.taps.to(x.dtype)
        between = functional.conv1d(line[:, None, 1:], taps.flip(-1)[:, None])
        phases = torch.cat([line[:, None, REACH:-REACH], between], 1)
        y, states = self.model.step(phases.flatten(0, 1), tuple(one.flatten(0, 1) for one in inner))
        lines = torch.cat([made, y.unflatten(0, phases.shape[:2])], -1)
        passed = functional.conv1d(lines[:, 1:, :-1], taps[None])[:, 0]
        out = (lines[:, 0, REACH:-REACH] + passed) / self.factor
        kept = tuple(one.unflatten(0, phases.shape[:2]) for one in states)
        return out, (line[:, -self.delay :], lines[..., -self.delay :], *kept)

    def multiply_adds(self) -> int:
        """Of all copies, and of the filters up and down."""
        return self.factor * self.model.multiply_adds() + 2 * self.taps.numel()


def oversampled(model: AudioModel, factor: int) -> AudioModel:
    """The model itself for 1; ConfigError for a factor that is none of 1, 2 and 4."""
    if factor not in FACTORS:
        raise ConfigError(f"oversampling is by {', '.join(map(str, FACTORS))}, not by {factor}")
    return model if factor == 1 else Oversampled(model, factor)


def phase_taps(factor: int) -> NDArray[np.float64]:
    """[factor - 1, 2 * REACH]: what a sample p/factor after another takes of those from REACH after it on.

    A sinc in a Kaiser window, each phase of which sums to 1: the first phase, which is left out, is a delay,
    and a constant stays one.
    """
    place = np.arange(-REACH, REACH) + np.arange(1, factor)[:, None] / factor
    taps = np.sinc(place) * np.i0(BETA * np.sqrt(1 - (place / REACH) ** 2))
    return np.asarray(taps / taps.sum(-1, keepdims=True), dtype=np.float64)
