"""How a pair of recordings is mended: all that is needed to do it, and to undo it on what a model plays."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from klann_lightning.data.audio import AudioInfo, span
from klann_lightning.data.resampling import resampled_frames
from klann_lightning.doctor.alignment import Alignment, Jump
from klann_lightning.doctor.warp import REACH, Line
from klann_lightning.errors import PairError

WHOLE = 0.02  # samples; what is nearer than this to a sample is taken to be there


@dataclass(frozen=True)
class Recipe:
    """How a pair is mended. Samples are counted at `sample_rate`, from the input's first one on."""

    input_rate: int  # Hz, as recorded
    target_rate: int
    sample_rate: int  # Hz, of both when mended
    start: int  # the first sample of the input that is kept
    frames: int  # how many are kept
    input_channel: int = 0  # the first is 0
    target_channel: int = 0
    delay: float = 0.0  # samples that the target is late, at the input's first sample
    drift_ppm: float = 0.0  # positive where the target falls behind more and more
    polarity: int = 1  # -1 where the target is turned over
    jumps: tuple[Jump, ...] = ()  # in the order of time

    def to_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints: numbers, and each jump as [at, by]."""
        return asdict(self) | {"jumps": [[jump.at, jump.by] for jump in self.jumps]}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Recipe":
        """What `to_dict` gave; PairError where it is none of that."""
        try:
            jumps = tuple(Jump(int(at), float(by)) for at, by in fields.get("jumps", ()))
            recipe = cls(**fields | {"jumps": jumps})
            counts = (recipe.input_rate, recipe.target_rate, recipe.sample_rate, recipe.frames)
            if min(counts) < 1 or recipe.polarity not in (1, -1):
                raise ValueError("rates and frames are positive, the polarity is 1 or -1")
        except (AttributeError, TypeError, ValueError) as error:
            raise PairError(
                f"{fields!r} does not say how a pair was mended: {error}.", "Mend the pair again.", "recipe"
            ) from error
        return recipe

    @property
    def idle(self) -> bool:
        """Whether the target is kept as it is, from the first sample on."""
        return self.polarity > 0 and self.start == 0 and self.lines == [Line(0, 0.0)]

    @property
    def lines(self) -> list[Line]:
        """Where in the target, at `sample_rate`, sample n of the input lies.

        A line that stays within 0.02 samples of whole ones is put onto them, so that samples are copied.
        """
        slope, offset, lines = 1 + self.drift_ppm * 1e-6, self.delay, []
        ends = [*(jump.at for jump in self.jumps), self.start + self.frames]
        for start, end, by in zip([0, *ends], ends, [0.0, *(jump.by for jump in self.jumps)], strict=False):
            offset += by
            away = [offset + (slope - 1) * n for n in (max(start, self.start), end)]
            whole = round(sum(away) / 2)
            near = max(abs(place - whole) for place in away) < WHOLE
            lines.append(Line(start, float(whole)) if near else Line(start, offset, slope))
        return lines


Recipes = dict[str, dict[str, Recipe]]  # of every split, by the pair's name


def dump_recipes(recipes: Recipes) -> dict[str, dict[str, Any]]:
    """For JSON and checkpoints."""
    return {split: {name: recipe.to_dict() for name, recipe in own.items()} for split, own in recipes.items()}


def load_recipes(stored: Any) -> Recipes:
    """What `dump_recipes` gave; PairError where it is none of that."""
    try:
        return {
            str(split): {str(name): Recipe.from_dict(fields) for name, fields in own.items()}
            for split, own in stored.items()
        }
    except AttributeError as error:
        raise PairError(f"{stored!r} does not say how pairs were mended.", "Mend them again.") from error


def plan(
    alignment: Alignment,
    input_info: AudioInfo,
    target_info: AudioInfo,
    sample_rate: int | None = None,
    channels: tuple[int, int] = (0, 0),
) -> Recipe:
    """The recipe for a pair of which `alignment` counts samples at the input's rate, in both files.

    The common sample rate is the input's if none is given: what went into the device is known exactly, and
    stays so. Kept are the samples of the input to which the target has an answer; where that lies between
    samples, also those beside it that interpolation needs must be there.
    Raises PairError if there are none, or for a rate or a channel that cannot be.
    """
    rate = input_info.sample_rate if sample_rate is None else sample_rate
    if rate < 1:
        raise PairError(f"cannot mend a pair to {rate} Hz.", "Name a positive sample rate.", "sample_rate")
    for role, info, channel in zip(("input", "target"), (input_info, target_info), channels, strict=True):
        if not 0 <= channel < info.channels:
            raise PairError(
                f"the {role} has {info.channels} channels, and no number {channel} counted from 0.",
                "Name one that it has.",
                "channel",
            )
    per = rate / input_info.sample_rate
    sizes = [resampled_frames(info.frames, info.sample_rate, rate) for info in (input_info, target_info)]
    recipe = Recipe(
        input_rate=input_info.sample_rate,
        target_rate=target_info.sample_rate,
        sample_rate=rate,
        start=0,
        frames=sizes[0],
        input_channel=channels[0],
        target_channel=channels[1],
        delay=alignment.delay * per,
        drift_ppm=alignment.drift_ppm,
        polarity=alignment.polarity,
        jumps=tuple(Jump(round(jump.at * per), jump.by * per) for jump in sorted(alignment.jumps)),
    )
    start, stop = _overlap(recipe.lines, *sizes)
    if stop <= start:
        raise PairError(
            f"the recordings do not overlap: the target is {recipe.delay:.1f} samples late, the input has "
            f"{span(sizes[0], rate)} and the target {span(sizes[1], rate)} at {rate} Hz.",
            "Check that they belong together.",
            "no_overlap",
        )
    return replace(recipe, start=start, frames=stop - start)


def _overlap(lines: list[Line], frames: int, target_frames: int) -> tuple[int, int]:
    """The first sample of the input that the target has, and the one after the last; (0, 0) for none."""
    starts, stops = [], []
    for line, end in zip(lines, [*(line.start for line in lines[1:]), frames], strict=True):
        beside = 0 if line.copies else REACH
        start = max(line.start, math.ceil((beside - line.offset) / line.slope))
        stop = min(end, math.floor((target_frames - 1 - beside - line.offset) / line.slope) + 1)
        if start < stop:
            starts.append(start)
            stops.append(stop)
    return (min(starts), max(stops)) if starts else (0, 0)
