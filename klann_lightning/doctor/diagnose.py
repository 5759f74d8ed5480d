"""The diagnosis of a pair: both files, how they lie against each other, what the device does."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.audio import AudioInfo
from klann_lightning.doctor.align import Aligned, align
from klann_lightning.doctor.alignment import Alignment
from klann_lightning.doctor.character import LONGEST, Character, characterise, findings_of
from klann_lightning.doctor.findings import SEVERITIES, Finding, of_error
from klann_lightning.doctor.intake import inspect
from klann_lightning.doctor.material import material_of
from klann_lightning.doctor.pair_faults import SURE, alignment_faults, fitting_faults, slight, unrelated
from klann_lightning.doctor.recipe import Recipe, plan
from klann_lightning.doctor.source import Source, opened
from klann_lightning.doctor.track import Track
from klann_lightning.doctor.warp import warp
from klann_lightning.errors import PairError

Samples = NDArray[np.float64]

MARGIN = 1 << 12  # samples read beside what is mended
EXACT = 0.05  # samples: a delay that is known less well is rounded to whole ones


class Diagnosis(NamedTuple):
    """All that is known of a pair; None stands for what is not."""

    input: Path
    target: Path
    findings: list[Finding]  # the worst first
    dry: Track | None
    wet: Track | None
    aligned: Aligned | None
    character: Character | None
    recipe: Recipe | None  # how it would be mended

    def to_dict(self) -> dict[str, Any]:
        """For programs: numbers are None where they are not known."""
        alignment = self.aligned.alignment if self.aligned else None
        character = self.character
        return {
            "input": str(self.input),
            "target": str(self.target),
            "sample_rate": self.dry.sample_rate if self.dry else None,
            "delay_samples": _number(alignment and alignment.delay),
            "delay_confidence": _number(alignment and alignment.confidence),
            "delay_sd_samples": _number(self.aligned and self.aligned.sd),
            "drift_ppm": _number(alignment and alignment.drift_ppm),
            "polarity": alignment.polarity if alignment else None,
            "polarity_confidence": _number(alignment and alignment.polarity_confidence),
            "jumps": [{"at": jump.at, "by": jump.by} for jump in alignment.jumps] if alignment else [],
            "esr_best_gain": _number(character and character.esr_best_gain),
            "esr_best_linear": _number(character and character.esr_best_linear),
            "esr_floor": _number(character and character.floor.esr),
            "memory_seconds": _number(character and character.memory_seconds),
            "kind": character.kind if character else None,
            "findings": [asdict(finding) for finding in self.findings],
        }


def diagnose(input_path: Path, target_path: Path, device: bool = True) -> Diagnosis:
    """Everything that can be said of two files, whatever they are; `device`: also what that does."""
    dry, found = inspect(input_path, "input")
    wet, more = inspect(target_path, "target")
    found = found + more
    if dry is None or wet is None or _empty(found):
        return Diagnosis(input_path, target_path, _sorted(found), dry, wet, None, None, None)
    found += fitting_faults(dry, wet)
    aligned = character = recipe = None
    try:
        with (
            opened(input_path, dry.channel, dry.sample_rate) as x,
            opened(target_path, wet.channel, dry.sample_rate) as y,
        ):
            same = dry.frames == wet.frames and dry.rms == wet.rms and _same(x, y)
            aligned = align(x, y)
            hidden = aligned is None or unrelated(aligned)
            pairing = alignment_faults(aligned, align(y, x) if hidden and not same else None, dry, wet, same)
            found += pairing
            if aligned and not hidden and not same:
                recipe = _recipe(aligned, dry, wet)
            if recipe and aligned and device:
                start, frames = _part(recipe, aligned)
                played = x.read(start, frames)
                character = characterise(played, _mended(y, recipe, start, frames), dry.sample_rate)
                found += findings_of(character, material_of(dry, played))
    except PairError as error:
        found.append(of_error(error))
    return Diagnosis(input_path, target_path, _sorted(found), dry, wet, aligned, character, recipe)


def to_mend(aligned: Aligned) -> Alignment:
    """What of an alignment is worth mending, and known well enough."""
    alignment = aligned.alignment
    delay = alignment.delay if aligned.sd < EXACT else float(round(alignment.delay))
    if slight(aligned) and not alignment.drift_ppm:
        delay = 0.0
    return alignment._replace(
        delay=delay, polarity=alignment.polarity if alignment.polarity_confidence >= SURE else 1
    )


def _recipe(aligned: Aligned, dry: Track, wet: Track) -> Recipe:
    infos = [AudioInfo(track.sample_rate, track.frames, track.channels) for track in (dry, wet)]
    return plan(to_mend(aligned), infos[0], infos[1], None, (dry.channel, wet.channel))


def excerpt(diagnosis: Diagnosis, mended: bool) -> tuple[Samples, Samples]:
    """Up to 24 s of input and target around what was aligned, [T] each, as recorded or mended."""
    dry, wet, aligned, recipe = diagnosis.dry, diagnosis.wet, diagnosis.aligned, diagnosis.recipe
    if dry is None or wet is None or aligned is None or recipe is None:
        raise PairError(f"{diagnosis.input} and its target could not be aligned.")
    with (
        opened(diagnosis.input, dry.channel, dry.sample_rate) as x,
        opened(diagnosis.target, wet.channel, dry.sample_rate) as y,
    ):
        start, frames = _part(recipe, aligned)
        late = _mended(y, recipe, start, frames) if mended else y.read(start, frames)
        return x.read(start, frames), late


def _part(recipe: Recipe, aligned: Aligned) -> tuple[int, int]:
    """Where the mended excerpt begins, sample of the input, and how long it is."""
    frames = min(LONGEST, recipe.frames)
    start = aligned.start + aligned.frames // 2 - frames // 2
    return min(max(start, recipe.start), recipe.start + recipe.frames - frames), frames


def _mended(y: Source, recipe: Recipe, start: int, frames: int) -> Samples:
    """What mending makes of the target: samples `start` to `start + frames` of the input's time."""
    lines = [
        line._replace(start=line.start - start, offset=line.offset + line.slope * start)
        for line in recipe.lines
        if line.start < start + frames
    ]
    current = lines[max(index for index, line in enumerate(lines) if line.start <= 0) :]
    offsets = [line.offset for line in current]
    first = round(min(offsets)) - MARGIN
    source = y.read(first, frames + 2 * MARGIN + round(max(offsets) - min(offsets)))
    moved = [line._replace(offset=line.offset - first) for line in current]
    blocks = list(warp([source.astype(np.float32)], moved, frames))
    return recipe.polarity * np.concatenate(blocks).astype(np.float64)


def _same(x: Source, y: Source) -> bool:
    frames = 1 << 16
    starts = np.linspace(0, max(x.frames - frames, 0), 5).astype(int).tolist()
    return all(np.array_equal(x.read(start, frames), y.read(start, frames)) for start in starts)


def _empty(found: list[Finding]) -> bool:
    """Whether a file holds nothing that could be aligned."""
    return any(finding.name in ("silent", "too_short", "not_finite") for finding in found)


def _sorted(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
