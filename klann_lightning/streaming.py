"""A trained model as an audio device runs it: blocks of any size in, as many samples out."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from klann_lightning.models.base import AudioModel, State

Samples = NDArray[np.float32]


class StreamingRunner:
    """Plays one channel block by block.

    Any cut into blocks gives the same sound, to the rounding of float32. A model that works on several
    samples at a time (`AudioModel.block`) is late by one fewer than these, an oversampled one by its filters;
    KLANN is not late at all.
    """

    def __init__(self, model: AudioModel) -> None:
        self._model = model.eval()
        self.latency = model.block - 1 + model.delay  # samples
        self.reset()

    def reset(self) -> None:
        """As before the first sample, and with no time spent."""
        self._state: State = self._model.init_state(1)
        self._waiting = torch.zeros(1, 0)  # fewer than a block of the model's
        self._ready = torch.zeros(1, self._model.block - 1)
        self._samples, self._seconds = 0, 0.0

    @torch.inference_mode()
    def process(self, x: Samples) -> Samples:
        """The next samples [N] of the input -> [N] of the output."""
        began = time.perf_counter()
        waiting = torch.cat([self._waiting, torch.from_numpy(x)[None]], -1)
        whole = waiting.shape[-1] // self._model.block * self._model.block
        self._waiting = waiting[:, whole:]
        if whole:
            y, self._state = self._model.step(waiting[:, :whole], self._state)
            self._ready = torch.cat([self._ready, y], -1)
        out, self._ready = self._ready[:, : len(x)], self._ready[:, len(x) :]
        self._seconds += time.perf_counter() - began
        self._samples += len(x)
        return out[0].numpy()

    @torch.inference_mode()
    def finish(self) -> Samples:
        """The last `latency` samples [latency], of what is given no longer."""
        rest = torch.cat([self._waiting, torch.zeros(1, self._model.delay)], -1)
        if rest.shape[-1]:
            y, self._state = self._model.step(rest, self._state)
            self._ready, self._waiting = torch.cat([self._ready, y], -1), rest[:, :0]
        out, self._ready = self._ready[0], self._ready[:, :0]
        return out.numpy()

    @property
    def played_seconds(self) -> float:
        """Of sound, so far."""
        return self._samples / self._model.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Seconds of sound that were played in a second, so far."""
        return self.played_seconds / max(self._seconds, 1e-9)
