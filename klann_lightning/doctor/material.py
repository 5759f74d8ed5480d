"""Whether what was played exercises a device: for how long, how loud and how quiet, how far up."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from klann_lightning.doctor.blocks import Samples
from klann_lightning.doctor.findings import Finding
from klann_lightning.doctor.track import Track

FRAME, HOP = 2048, 4096
REACHED = 1e-8  # of the strongest bin's power, -80 dB: the spectrum ends where it stays below

LITTLE_SECONDS, HARDLY_SECONDS = 20.0, 1.0
NARROW_DB, STEADY_DB = 12.0, 5.0
NARROW_HZ = 5000.0


class Material(NamedTuple):
    """What the input holds."""

    seconds: float
    sounding_seconds: float  # within 60 dB of the loudest 10 ms
    level_range_db: float  # between the quiet (10 %) and the loud (95 %) of 10 ms that sound
    bandwidth_hz: float  # of the excerpt: above, every bin lies 80 dB or more below the strongest


def material_of(track: Track, excerpt: Samples) -> Material:
    """Of an input, and of a busy part of it, [T], which is looked at in detail."""
    return Material(
        track.seconds,
        track.active_share * track.seconds,
        track.range_db,
        _bandwidth(excerpt, track.sample_rate),
    )


def material_findings(material: Material) -> list[Finding]:
    """What is missing in the input."""
    found = []
    if material.sounding_seconds < LITTLE_SECONDS:
        found.append(
            Finding(
                "little_material",
                "harms" if material.sounding_seconds < HARDLY_SECONDS else "note",
                f"The input sounds for {material.sounding_seconds:.1f} s.",
                "A model that is to play anything needs some minutes; from seconds it learns those seconds.",
            )
        )
    if 0 < material.level_range_db < NARROW_DB:
        found.append(
            Finding(
                "narrow_level_range",
                "harms" if material.level_range_db < STEADY_DB else "note",
                f"The input's level stays within {material.level_range_db:.1f} dB (10 ms RMS, the 10 % "
                "quietest and the 5 % loudest left out).",
                "Play softly and loudly too: what a device does at other levels is not in this recording.",
            )
        )
    if 0 < material.bandwidth_hz < NARROW_HZ:
        found.append(
            Finding(
                "narrow_band",
                "note",
                f"The input holds nothing above {material.bandwidth_hz:.0f} Hz (80 dB below its strongest "
                "frequency).",
                "Add brighter sounds, or noise: a model may do anything where it was shown nothing.",
            )
        )
    return found


def _bandwidth(x: Samples, sample_rate: int) -> float:
    """Hz up to which some frame's spectrum comes within 80 dB of the strongest bin of all."""
    if x.size < FRAME:
        x = np.pad(x, (0, FRAME - x.size))
    frames = sliding_window_view(x, FRAME)[::HOP]
    peaks = np.zeros(FRAME // 2 + 1)
    for frame in frames:
        np.maximum(peaks, np.square(np.abs(np.fft.rfft(frame * np.blackman(FRAME)))), out=peaks)
    if not peaks.any():
        return 0.0
    reached = np.flatnonzero(peaks > REACHED * peaks.max())
    return float(reached[-1]) * sample_rate / FRAME
