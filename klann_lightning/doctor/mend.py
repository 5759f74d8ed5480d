"""Mend a pair of recordings so that a model can be trained on it, and put what the model plays back in place.

The input stays as it is: one channel of it, cut to the part that the target answers. The target is moved onto
it. Files go through in blocks, so their length costs no memory.
"""

import contextlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.audio import AudioFile, AudioWriter, channel_blocks, not_finite, open_audio, span
from klann_lightning.data.resampling import resampled
from klann_lightning.doctor.recipe import Recipe
from klann_lightning.doctor.warp import FADE, Line, warp
from klann_lightning.errors import PairError
from klann_lightning.files import shown

BLOCK = 1 << 16  # samples that are read at once


def mend_pair(
    input_path: Path, target_path: Path, recipe: Recipe, folder: Path, names: tuple[str, str]
) -> list[str]:
    """Write the mended input and target into `folder` as `names`, .wav of 32-bit float; say what was done.

    Target samples are copied bit by bit where the recipe moves them by whole samples, and interpolated as
    `warp` says otherwise. Older files of these names are replaced, both or none.
    Raises PairError for recordings that the recipe does not fit, NaN and infinite samples, a recording that
    would be overwritten, and as AudioWriter does.
    """
    results = [folder / name for name in names]
    for source in (input_path, target_path):
        if source.resolve() in [result.resolve() for result in results]:
            raise PairError(f"mending would overwrite {source}.", "Name another folder.", "would_overwrite")
    with (
        open_audio(input_path, mono=False) as dry,
        open_audio(target_path, mono=False) as wet,
        written_together(results, recipe.sample_rate) as (input_writer, target_writer),
    ):
        samples = _channel(dry, recipe.input_channel, recipe.input_rate, recipe.sample_rate)
        for block in warp(samples, [Line(0, recipe.start)], recipe.frames):
            input_writer.write(block)
        samples = _channel(wet, recipe.target_channel, recipe.target_rate, recipe.sample_rate)
        for block in warp(samples, _from(recipe.start, recipe.lines), recipe.frames):
            target_writer.write(block if recipe.polarity > 0 else -block)
        return _told(recipe, dry, wet)


def lay_back(
    blocks: Iterable[NDArray[np.float32]], frames: int, recipe: Recipe, start: int = 0
) -> Iterator[NDArray[np.float32]]:
    """What a model made of the input, at `recipe.sample_rate`, as it lies over the target as recorded.

    `blocks` hold `frames` samples; the first answers sample `start` of the input: 0 where the model played
    the whole recording, `recipe.start` where it played the mended input. The result begins with the target's
    first sample, has its rate, delay, drift and polarity, skips where it skips, and ends with the last sample
    that the model gave. It streams: as little is in memory as while mending.
    Raises PairError where all of that would lie before the target's first sample.
    """
    lines = recipe.lines
    length = math.floor(lines[-1].offset + lines[-1].slope * (start + frames - 1)) + 1
    if length < 1:
        raise PairError(
            f"the target begins {-length} samples after the end of what is to be laid over it.",
            "Play the recording that the model was trained on.",
            "no_overlap",
        )
    back: list[Line] = []
    for line in lines:  # p = offset + slope n, so n = (p - offset) / slope
        first = math.ceil(line.offset + line.slope * line.start) if back else 0
        begin = max(first, back[-1].start) if back else 0
        back.append(Line(begin, -line.offset / line.slope - start, 1 / line.slope))
    laid = warp(blocks, back, length)
    turned = (block if recipe.polarity > 0 else -block for block in laid)
    yield from resampled(turned, length, recipe.sample_rate, recipe.target_rate)


@contextlib.contextmanager
def written_together(paths: Sequence[Path], sample_rate: int) -> Iterator[list[AudioWriter]]:
    """An AudioWriter for each path. Where anything fails, no file or folder is there that was not before."""
    folders = {folder for path in paths for folder in path.parents if not os.path.exists(folder)}
    fresh = [path for path in paths if not os.path.lexists(path)]
    try:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(AudioWriter(path, sample_rate)) for path in paths]
    except BaseException as error:
        for path in fresh:
            with contextlib.suppress(OSError):
                path.unlink()
        for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise PairError(
                f"cannot write {paths[0]}: {error.strerror or error}.", "Name another place."
            ) from error
        raise


def _from(start: int, lines: list[Line]) -> list[Line]:
    """The same lines for results that are counted from sample `start` on."""
    ends = [*(line.start for line in lines[1:]), math.inf]
    return [
        Line(line.start - start, line.offset + line.slope * start, line.slope)
        for line, end in zip(lines, ends, strict=True)
        if end > start
    ]


def _channel(file: AudioFile, channel: int, rate: int, new_rate: int) -> Iterator[NDArray[np.float32]]:
    """One channel of a file, resampled; PairError where it is not the file that the recipe is for."""
    if file.samplerate != rate or channel >= file.channels:
        raise PairError(
            f"{shown(file.name)} has {file.channels} channels at {file.samplerate} Hz; number {channel + 1} "
            f"at {rate} Hz was to be mended.",
            "Diagnose the pair again.",
            "recipe",
        )
    return resampled(_finite(file, channel), file.frames, rate, new_rate)


def _finite(file: AudioFile, channel: int) -> Iterator[NDArray[np.float32]]:
    """One channel of a file in blocks; PairError where a sample is no number: filters would spread it."""
    for index, block in enumerate(channel_blocks(file, BLOCK)):
        samples = np.ascontiguousarray(block[:, channel])
        wrong = np.flatnonzero(~np.isfinite(samples))
        if len(wrong):
            raise not_finite(file.name, file.samplerate, index * BLOCK + int(wrong[0]))
        yield samples


def _told(recipe: Recipe, dry: AudioFile, wet: AudioFile) -> list[str]:
    """What `mend_pair` did, a sentence for each thing."""
    rate, lines, told = recipe.sample_rate, recipe.lines, []
    picked = (("input", dry, recipe.input_channel), ("target", wet, recipe.target_channel))
    for role, file, channel in picked:
        if file.channels > 1:
            told.append(f"Of the {file.channels} channels of the {role}, number {channel + 1} was kept.")
        if file.samplerate != rate:
            told.append(f"The {role} was resampled from {file.samplerate} to {rate} Hz.")
    if any(line != Line(line.start, 0) for line in lines):
        way = "later" if lines[0].offset < 0 else "earlier"
        copied = all(line.copies for line in lines)
        how = "its samples are copied as they are" if copied else "interpolated between its samples"
        told.append(f"The target was moved {_long(lines[0].offset, rate)} {way}, {how}.")
    if any(line.slope != 1 for line in lines):
        told.append(f"The clock drift of the target, {recipe.drift_ppm:.2f} ppm, was taken out.")
    if recipe.polarity < 0:
        told.append("The target was turned over: its polarity was inverted.")
    for at, by in recipe.jumps:
        if recipe.start < at < recipe.start + recipe.frames:
            where = f"At {(at - recipe.start) / rate:.3f} s of the mended pair"
            did = "lost; what stands there is no answer" if by < 0 else "has twice; they were left out"
            told.append(
                f"{where} are {_long(by, rate)} that the target {did}. It is in step again from there on, "
                f"after a crossfade of {FADE} samples."
            )
    kept = f"{span(recipe.frames, rate)} at {rate} Hz"
    told.append(f"Both have {kept}, from sample {recipe.start} of the input on.")
    return told


def _long(samples: float, rate: int) -> str:
    """A length, without its sign, in words."""
    return f"{abs(samples):.2f} samples ({1000 * abs(samples) / rate:.3f} ms)"
