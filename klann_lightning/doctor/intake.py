"""The intake of one file: read it once from end to end, in blocks, and say what is wrong with it."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.audio import AudioFile, channel_blocks, open_audio
from klann_lightning.doctor.faults import EQUAL_DB, faults
from klann_lightning.doctor.findings import Finding, of_error
from klann_lightning.doctor.samples import decibels
from klann_lightning.doctor.track import Channel, Side, Track, window
from klann_lightning.errors import PairError

BLOCK = 1 << 16  # samples of a channel in memory at once
MOST_IN_BLOCK = 1 << 22  # samples of all channels
SAMPLED_BLOCKS = 64  # examined for the spectrum and for the number of values


class _Apart(NamedTuple):
    """How the channels differ: energies of every channel minus the first, and plus the first."""

    minus: NDArray[np.float64]
    plus: NDArray[np.float64]


def inspect(path: Path, side: Side) -> tuple[Track | None, list[Finding]]:
    """What the file holds, and what is wrong with it; no exception, whatever it is.

    There is no track where the file could not be read to its end; then the one finding says why. Where there
    is one, a finding may still block training.
    """
    try:
        with open_audio(path, mono=False) as file:
            track = _measure(file, path)
    except PairError as error:
        return None, [of_error(error)]
    return track, faults(track, side)


def _measure(file: AudioFile, path: Path) -> Track:
    channels = [Channel(file.samplerate) for _ in range(file.channels)]
    apart = _Apart(np.zeros(file.channels), np.zeros(file.channels))
    unit = window(file.samplerate)
    size = max(min(BLOCK, MOST_IN_BLOCK // file.channels) // unit, 1) * unit
    blocks = math.ceil(file.frames / size)
    sampled = set(np.linspace(0, blocks - 1, min(blocks, SAMPLED_BLOCKS)).round().astype(int).tolist())
    for index, block in enumerate(channel_blocks(file, size)):
        planes = np.ascontiguousarray(block.T)
        for samples, channel in zip(planes, channels, strict=True):
            channel.feed(samples, index in sampled)
        if file.channels > 1:
            _compare(planes, apart)
    for channel in channels:
        channel.finish()
    return _track(file, path, channels, apart)


def _compare(planes: NDArray[np.float32], apart: _Apart) -> None:
    if not np.isfinite(planes).all():
        planes = np.where(np.isfinite(planes), planes, np.float32(0))
    exact = planes.astype(np.float64)
    for energies, other in zip(apart, (exact - exact[0], exact + exact[0]), strict=True):
        energies += np.einsum("ij,ij->i", other, other)


def _carrier(channels: list[Channel], difference: NDArray[np.float64]) -> int:
    """The loudest channel without NaN and infinity; the first where it is as good as equal to that."""
    loudest = max(range(len(channels)), key=lambda c: (not channels[c].not_finite, channels[c].energy, -c))
    if channels[0].not_finite or channels[0].energy == 0:
        return loudest
    return 0 if decibels(difference[loudest] / channels[0].rms) < EQUAL_DB else loudest


def _track(file: AudioFile, path: Path, channels: list[Channel], apart: _Apart) -> Track:
    minus, plus = (np.sqrt(energies / file.frames) for energies in apart)
    carrier = _carrier(channels, minus)
    channel = channels[carrier]
    high, low = tops = channel.tops()
    values, step = channel.few_values()
    zeros = channel.zeros
    return Track(
        path=path,
        sample_rate=file.samplerate,
        frames=file.frames,
        channels=file.channels,
        subtype=file.subtype,
        channel=carrier,
        peak=max(high.value, -low.value),
        rms=channel.rms,
        mean=channel.sum / file.frames,
        lowest=low.value,
        highest=high.value,
        not_finite=channel.not_finite,
        first_not_finite=channel.first_not_finite,
        effective_bits=channel.resolution.bits,
        half_float=channel.resolution.half_float,
        values=values,
        value_step=step,
        tops=tops,
        leading_zeros=zeros.leading,
        trailing_zeros=zeros.trailing,
        gaps=channel.lost(),
        level_db=channel.level_db(),
        active_share=channel.active_share(),
        range_db=channel.range_db(),
        cliff=channel.spectrum.cliff(),
        channel_rms=tuple(each.rms for each in channels),
        difference=tuple(minus.tolist()),
        sum=tuple(plus.tolist()),
    )
