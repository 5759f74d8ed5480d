"""Training, validation and test recordings from one long aligned pair: by time, apart, cut where it is quiet.

Between two parts lies a gap at least as long as the device remembers, so that nothing of what it is tested
with was in its training. The gap belongs to no part.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from klann_lightning.data.audio import AudioFile, AudioWriter, blocks_of, open_audio, span
from klann_lightning.data.pairs import BLOCK, SPLITS
from klann_lightning.doctor.mend import written_together
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.files import shown

LEVEL_SECONDS = 0.02  # of the windows in which the level is measured
LEAST_SECONDS = 2.0  # of a part; the first second of validation and test is not scored
SEARCHED_SHARE = 0.1  # of the shortest part: as far the search for quiet may move each end of a part
SEARCHED_SECONDS = 10.0  # and no farther than this


class Span(NamedTuple):
    """Samples `start` to `stop` of the pair, which become one part."""

    start: int
    stop: int


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, val and test that add up to 1, from any three positive numbers such as "70/15/15".

    Raises ConfigError for anything else.
    """
    try:
        train, val, test = (float(part) for part in text.split("/"))
    except ValueError:
        train = val = test = math.nan
    total = train + val + test
    if not all(0 < share < math.inf for share in (train, val, test, total)):
        raise ConfigError(
            f"cannot split a pair into {text!r}. Give three positive numbers for train, val and test, such "
            "as 70/15/15."
        )
    return train / total, val / total, test / total


def level_window(sample_rate: int) -> int:
    """Samples of a window of the levels."""
    return max(round(LEVEL_SECONDS * sample_rate), 1)


def input_levels(path: Path) -> NDArray[np.float64]:
    """RMS of a mono file in windows that follow each other -> [windows]; the last may be shorter."""
    with open_audio(path) as file:
        window = level_window(file.samplerate)
        levels = []
        for block in blocks_of(file, BLOCK // window * window or window):
            edges = np.arange(0, len(block), window)
            sums = np.add.reduceat(np.square(block, dtype=np.float64), edges)
            levels.append(np.sqrt(sums / np.diff(edges, append=len(block))))
    return np.concatenate(levels)


def plan_splits(
    levels: ArrayLike,
    frames: int,
    shares: Sequence[float],
    gap_seconds: float,
    sample_rate: int,
) -> tuple[Span, Span, Span]:
    """Where train, val and test lie in a pair of `frames` samples whose input has these `levels`.

    The ends on both sides of a gap are moved apart, each to the quietest window within a tenth of the
    shortest part or 10 s. So a gap has at least `gap_seconds`, and a part its share of what the gaps leave,
    less a fifth of the shortest at most. Levels: as `input_levels` gives them, [windows].
    Raises PairError where a part would be shorter than 2 s.
    """
    if not math.isfinite(gap_seconds) or gap_seconds < 0:
        raise PairError(f"a gap cannot be {gap_seconds} s long.", "Give the device's memory.", "gap")
    total = sum(shares)
    gap, least = math.ceil(gap_seconds * sample_rate), math.ceil(LEAST_SECONDS * sample_rate)
    usable = frames - 2 * gap
    shortest = usable * min(shares) / total
    reach = max(int(min(SEARCHED_SHARE * shortest, SEARCHED_SECONDS * sample_rate)), 0)
    if shortest - 2 * reach < least:
        needed = (LEAST_SECONDS / (1 - 2 * SEARCHED_SHARE)) * total / min(shares) + 2 * gap_seconds
        raise PairError(
            f"{span(frames, sample_rate)} are too short to be split {_ratio(shares)} with gaps of "
            f"{gap_seconds:.3g} s, as long as the device remembers: no part may be shorter than "
            f"{LEAST_SECONDS:.3g} s.",
            f"Record {needed:.1f} s or more, give the shortest part a larger share, or leave it whole.",
            "short_for_split",
        )
    window = level_window(sample_rate)
    quiet = np.asarray(levels, np.float64)
    spans, start, share = [], 0, 0.0
    for index, part in enumerate(shares[:-1]):
        share += part / total
        end = round(share * usable) + index * gap
        stop = _quietest(quiet, window, end - reach, end, end)
        spans.append(Span(start, stop))
        start = _quietest(quiet, window, end + gap, end + gap + reach, end + gap)
    train, val = spans
    return train, val, Span(start, frames)


def _quietest(levels: NDArray[np.float64], window: int, low: int, high: int, wanted: int) -> int:
    """The middle of the quietest window from `low` to `high`; of equal ones, the nearest to `wanted`."""
    first = max(0, math.ceil(low / window - 0.5))
    middles = (np.arange(first, min(math.floor(high / window + 0.5), len(levels))) + 0.5) * window
    if len(middles) == 0:
        return wanted
    there = levels[first : first + len(middles)]
    best = np.flatnonzero(there == there.min())
    nearest = best[np.abs(middles[best] - wanted).argmin()]
    return min(max(round(middles[nearest]), low), high)


def write_splits(
    pair: tuple[Path, Path], spans: Sequence[Span], root: Path, device: str
) -> list[tuple[Path, Path]]:
    """Write ROOT/{train,val,test}/DEVICE-{input,target}.wav from a mended pair -> their paths, in pairs.

    Samples are copied bit by bit, in blocks. Nothing is overwritten, and all files are written or none.
    Raises PairError for a name that is none, a file that exists, two that are no pair, and as AudioWriter
    does.
    """
    if not device or device.startswith(".") or Path(device).name != device or "\\" in device:
        raise PairError(f"{device!r} cannot name a device's files.", "Use letters and digits.", "device_name")
    folders = [root / split for split in SPLITS]
    results = [(folder / f"{device}-input.wav", folder / f"{device}-target.wav") for folder in folders]
    for path in (path for both in results for path in both):
        if os.path.lexists(path):
            raise PairError(f"{path} exists, and stays.", "Name another device or folder.", "exists")
    with open_audio(pair[0]) as dry, open_audio(pair[1]) as wet:
        rate, frames = dry.samplerate, dry.frames
        if (wet.samplerate, wet.frames) != (rate, frames) or max(spans).stop > frames:
            raise PairError(
                f"{shown(pair[0])} and {shown(pair[1])} cannot be split: they differ in rate or length, or "
                f"are shorter than was planned ({frames} and {wet.frames} frames).",
                "Mend the pair, then plan again.",
                "not_aligned",
            )
        with written_together([path for both in results for path in both], rate) as writers:
            _deal(dry, spans, writers[::2])
            _deal(wet, spans, writers[1::2])
    return results


def _deal(file: AudioFile, spans: Sequence[Span], writers: Sequence[AudioWriter]) -> None:
    """Write each span of a file with its own writer."""
    start = 0
    for block in blocks_of(file, BLOCK):
        for part, writer in zip(spans, writers, strict=True):
            samples = block[max(part.start - start, 0) : max(part.stop - start, 0)]
            if len(samples):
                writer.write(samples)
        start += len(block)


def _ratio(shares: Sequence[float]) -> str:
    return "/".join(f"{100 * share / sum(shares):.3g}" for share in shares)
