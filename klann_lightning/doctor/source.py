"""Parts of one channel of a recording, wherever it lies and at whatever rate it was made."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from klann_lightning.data.audio import AudioFile, open_audio, read_channel
from klann_lightning.data.resampling import resampled, resampled_frames

Samples = NDArray[np.float64]
BESIDE = 4096  # samples on either side of a part that its resampling sees


class Source:
    """One channel that lies in memory; `read` gives any part of it."""

    def __init__(self, samples: ArrayLike, sample_rate: int) -> None:
        self._samples = np.asarray(samples)
        self.frames, self.sample_rate = len(self._samples), sample_rate

    @property
    def unchanged(self) -> "Source":
        """The same at the rate at which it was recorded."""
        return self

    def _inside(self, start: int, stop: int) -> NDArray[np.floating]:
        return self._samples[start:stop]

    def read(self, start: int, frames: int) -> Samples:
        """Samples `start` to `start + frames` -> [frames], zeros where there is no recording."""
        first, last = min(max(start, 0), self.frames), min(max(start + frames, 0), self.frames)
        part = self._inside(first, last) if last > first else np.zeros(0)
        before = min(max(first - start, 0), frames)
        whole = np.zeros(frames)
        whole[before : before + len(part)] = part
        return whole

    def recorded(self, start: int, frames: int) -> tuple[int, int]:
        """Of what `read` gives, the first sample that is recorded and the one after the last."""
        return min(max(-start, 0), frames), max(min(self.frames - start, frames), 0)


class _FileSource(Source):
    """A channel of an open file, at `sample_rate`."""

    def __init__(self, file: AudioFile, channel: int, sample_rate: int) -> None:
        self._file, self._channel = file, channel
        self.frames = resampled_frames(file.frames, file.samplerate, sample_rate)
        self.sample_rate = sample_rate

    @property
    def unchanged(self) -> Source:
        return _FileSource(self._file, self._channel, self._file.samplerate)

    def _inside(self, start: int, stop: int) -> NDArray[np.floating]:
        rate, own = self.sample_rate, self._file.samplerate
        if rate == own:
            return read_channel(self._file, self._channel, start, stop - start)
        common = gcd(rate, own)
        step = own // common  # every so many samples both rates meet
        first = max((start * own // rate - BESIDE) // step, 0) * step
        last = min(-(-stop * own // rate) + BESIDE, self._file.frames)
        part = read_channel(self._file, self._channel, first, last - first)
        new = np.concatenate(list(resampled([part], len(part), own, rate)))
        skipped = start - first * rate // own
        return new[skipped : skipped + stop - start]


@contextmanager
def opened(path: Path, channel: int, sample_rate: int) -> Iterator[Source]:
    """One channel of a file, read part by part; PairError where that fails."""
    with open_audio(path, mono=False) as file:
        yield _FileSource(file, channel, sample_rate)
