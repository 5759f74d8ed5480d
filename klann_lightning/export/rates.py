"""How far a model at another sample rate, its filters made for it, is from what it was trained to be."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klann_lightning.data.resampling import resampled
from klann_lightning.export.document import model_from

SECONDS, SETTLED = 4, 1  # of pink noise; those that are not compared
LOWEST_HZ = 20
HIGHEST = 0.5 - 1e-6  # of a sample rate: the runtime puts a cutoff beyond it there
COMMON = (48000, 44100)  # rates of hosts, in Hz


def other_rate(sample_rate: int) -> int:
    """The rate that a host is most likely to have, if not the model's.

    >>> other_rate(44100), other_rate(48000), other_rate(96000)
    (48000, 44100, 48000)
    """
    return next(rate for rate in COMMON if rate != sample_rate)


@torch.no_grad()
def rate_error_db(content: Mapping[str, Any], rate: int) -> float:
    """Energy of the difference over that of the output at the model's own rate, in dB.

    For pink noise, whose spectrum falls as music's does, as loud as the training input; resampled to `rate`
    (Hz), played there, and resampled back. White noise, with far more near Nyquist, comes out far worse.
    """
    own = content["sample_rate"]
    x = _pink(SECONDS * own, own, content["input_level"])
    wanted = _played(content, x)
    filters = [{**one, "cutoff_hz": min(one["cutoff_hz"], HIGHEST * rate)} for one in content["filters"]]
    there = _played({**content, "sample_rate": rate, "filters": filters}, _at(x, own, rate))
    back = _at(there, rate, own)
    kept = slice(SETTLED * own, min(len(back), len(wanted)) - own // 10)
    return float(10 * np.log10(np.sum((back[kept] - wanted[kept]) ** 2) / np.sum(wanted[kept] ** 2) + 1e-30))


def _played(content: Mapping[str, Any], x: NDArray[np.float32]) -> NDArray[np.float32]:
    played = model_from(content).double().play_whole(torch.from_numpy(x).double())
    return played.numpy().astype(np.float32)


def _at(x: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    return np.concatenate(list(resampled([x], len(x), rate, new_rate)))


def _pink(samples: int, sample_rate: int, level: float) -> NDArray[np.float32]:
    """Noise of 1/f in power from 20 Hz on, of RMS `level`."""
    frequencies = np.fft.rfftfreq(samples, 1 / sample_rate)
    white = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    white[frequencies < LOWEST_HZ] = 0
    noise = np.fft.irfft(white / np.sqrt(np.maximum(frequencies, LOWEST_HZ)), samples)
    return (level / np.sqrt(np.mean(noise**2)) * noise).astype(np.float32)
