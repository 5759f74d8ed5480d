"""Find and check pairs of recordings: what went into a device and what came out.

A pair is two mono files of one length and one sample rate, at `<root>/{train,val,test}/<device>-input.wav`
and `<device>-target.wav`. A device may have several takes: every `<device>*-input.wav` counts. Whole files
are read in blocks, so their length costs no memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.audio import (
    AudioFile,
    AudioWriter,
    blocks_of,
    iter_audio,
    not_finite,
    open_audio,
    span,
)
from klann_lightning.data.resampling import resampled
from klann_lightning.errors import PairError
from klann_lightning.files import shown

BLOCK = 1 << 16  # samples in memory at once while a whole file goes through
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Pair:
    """Two recordings that passed `check_pair`. An energy is the sum of the squares of a file's samples."""

    input: Path
    target: Path
    sample_rate: int  # Hz
    frames: int
    input_energy: float
    target_energy: float

    @property
    def name(self) -> str:
        """The input's file name without its ending, such as "la2a-take1"."""
        return self.input.stem.removesuffix("-input")


def find_pairs(root: Path, split: str, devices: Sequence[str]) -> list[tuple[Path, Path]]:
    """The (input, target) files of `devices` in one split, sorted; each once, even if two names match it.

    Raises PairError if the folder, a device's recordings, or one half of a pair is missing.
    """
    folder = root / split
    if not folder.is_dir():
        known = _listed({name for other in SPLITS for name in _names(root / other, "input")})
        raise PairError(
            f"no folder {folder} (the other splits have recordings of: {known}). Put recordings there as "
            f"DEVICE-input.wav and DEVICE-target.wav, or {_other_ways(' '.join(devices) or 'DEVICE', root)}"
        )
    inputs, targets = _names(folder, "input"), _names(folder, "target")
    if not devices:
        raise PairError(
            f"no device is named. {folder} has recordings of: {_listed(inputs)}. Name at least one."
        )
    found: set[str] = set()
    for device in devices:
        matching = {name for name in inputs | targets if name.startswith(device)}
        if not matching:
            raise PairError(
                f"no file {device}*-input.wav in {folder}; it has recordings of: {_listed(inputs)}. "
                f"Name one of these, or {_other_ways(device, root)}"
            )
        for name in sorted(matching - (inputs & targets)):
            there, missing = ("input", "target") if name in inputs else ("target", "input")
            raise PairError(
                f"{folder / f'{name}-{there}.wav'} has no {missing}: {name}-{missing}.wav is not beside it. "
                f"Add that recording, or move {name}-{there}.wav to another folder."
            )
        found |= matching
    return [(folder / f"{name}-input.wav", folder / f"{name}-target.wav") for name in sorted(found)]


def check_pair(input_path: Path, target_path: Path) -> Pair:
    """Read both files once, from start to end, and say what they are.

    Raises PairError for a file that is missing, unreadable, truncated, empty, silent, not mono, or holds NaN
    or infinite samples, and for two files that differ in sample rate or length.
    """
    with open_audio(input_path) as dry, open_audio(target_path) as wet:
        rate, frames = dry.samplerate, dry.frames
        if wet.samplerate != rate:
            raise PairError(
                f"sample rates differ: {input_path} is {rate} Hz, {target_path} is {wet.samplerate} Hz.",
                f"Resample {target_path.name} to {rate} Hz and run again.",
                "rates_differ",
            )
        if wet.frames != frames:
            longer = input_path.name if frames > wet.frames else target_path.name
            raise PairError(
                f"lengths differ by {span(abs(frames - wet.frames), rate)}: {input_path} has "
                f"{span(frames, rate)}, {target_path} has {span(wet.frames, rate)}.",
                f"If both start together, cut {longer} after {min(frames, wet.frames)} frames; if not, align "
                "them first.",
                "lengths_differ",
            )
        return Pair(input_path, target_path, rate, frames, _energy(dry), _energy(wet))


def opening(pair: Pair, frames: int) -> Pair:
    """The first `frames` samples of a pair, or all where it has no more. PairError if they are silent."""
    if frames >= pair.frames:
        return pair
    energies = []
    for path in (pair.input, pair.target):
        with open_audio(path) as file:
            energy = sum(_sum_of_squares(samples) for samples in blocks_of(file, BLOCK, frames))
        if energy == 0:
            raise PairError(
                f"the first {span(frames, pair.sample_rate)} of {path} are silent. Use more of it, or "
                "cut the silence off both files."
            )
        energies.append(energy)
    return replace(pair, frames=frames, input_energy=energies[0], target_energy=energies[1])


def resample_pair(pair: Pair, sample_rate: int, folder: Path) -> Pair:
    """Both files at `sample_rate` Hz, as 32-bit float wav files in `folder`, time-aligned with the originals.

    Each gets round(frames * sample_rate / pair.sample_rate) samples, as exact as `resampled` says.
    Raises PairError where a result would overwrite a recording of the pair.
    """
    if sample_rate < 1:
        raise PairError(f"cannot resample {pair.name} to {sample_rate} Hz. Name a positive sample rate.")
    sources = pair.input, pair.target
    results = folder / f"{pair.name}-input.wav", folder / f"{pair.name}-target.wav"
    if {path.resolve() for path in sources} & {path.resolve() for path in results}:
        raise PairError(f"resampling would overwrite {pair.name} in {folder}. Name another folder.")
    for source, result in zip(sources, results, strict=True):
        with AudioWriter(result, sample_rate) as writer:
            blocks = iter_audio(source, BLOCK)
            for block in resampled(blocks, pair.frames, pair.sample_rate, sample_rate):
                writer.write(block)
    return check_pair(*results)


def _energy(file: AudioFile) -> float:
    """Sum of the squares of all samples, in float64; PairError for NaN, infinity and silence."""
    energy, bad, first_bad = 0.0, 0, 0
    for index, samples in enumerate(blocks_of(file, BLOCK)):
        wrong = np.flatnonzero(~np.isfinite(samples))
        if len(wrong) > 0 and bad == 0:
            first_bad = index * BLOCK + int(wrong[0])
        bad += len(wrong)
        if bad == 0:
            energy += _sum_of_squares(samples)
    if bad:
        raise not_finite(file.name, file.samplerate, first_bad, bad)
    if energy == 0:
        raise PairError(
            f"{shown(file.name)} is silent: all {span(file.frames, file.samplerate)} are zero.",
            "Check the connection to the device, then record or export it again.",
            "silent",
        )
    return energy


def _sum_of_squares(samples: NDArray[np.float32]) -> float:
    return float(np.square(samples, dtype=np.float64).sum())


def _names(folder: Path, role: str) -> set[str]:
    """Of every `<name>-<role>.wav` in the folder, the name."""
    files = (path.name for path in folder.glob(f"*-{role}.wav"))
    return {name.removesuffix(f"-{role}.wav") for name in files if not name.startswith(".")}


def _other_ways(devices: str, root: Path) -> str:
    program = "python -m klann_lightning"
    return (
        f"fetch the paper's: {program} download {devices} --root {root}, or simulate a device: "
        f"{program} simulate DEVICE {root}"
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
