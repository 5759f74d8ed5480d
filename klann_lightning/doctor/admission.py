"""What is let into a training: pairs that the doctor finds fit, or mended on the way in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from klann_lightning.data.audio import AudioInfo, audio_info
from klann_lightning.data.pairs import Pair, check_pair
from klann_lightning.data.resampling import resampled_frames
from klann_lightning.doctor.alignment import Alignment
from klann_lightning.doctor.findings import Finding
from klann_lightning.doctor.mend import mend_pair
from klann_lightning.doctor.pair_faults import HARMLESS, SURE
from klann_lightning.doctor.recipe import Recipe, plan
from klann_lightning.doctor.verdict import Verdict, verdict
from klann_lightning.errors import PairError
from klann_lightning.files import shown

Align = Literal["check", "auto", "off"]

MENDED = ("rates_differ", "lengths_differ", "delay", "delay_uncertain", "inverted", "drift", "jumps")
CHANNELS = ("equal_channels", "several_channels", "silent_channel")
ELSEWHERE = ("too_short",)  # each split and each feed has its own limit
AUTO = "--data.align auto mends it on the way in"
AGREE, SIGMAS = 0.5, 3.0  # samples; two takes that lie no further apart have one delay


class Admitted(NamedTuple):
    """A pair to train on."""

    pair: Pair
    recipe: Recipe | None  # how it was mended, if only by nothing; None where that was not asked for
    harms: list[Finding]  # what it is trained on in spite of
    told: list[str]  # what was done to it, in sentences


def admit_checked(input_path: Path, target_path: Path) -> Admitted:
    """A pair that can be trained on as it is; PairError with the cure for any other."""
    try:
        pair = check_pair(input_path, target_path)
    except PairError as error:
        if error.name not in (*MENDED, *CHANNELS):
            raise
        raise PairError(error.evidence, f"{error.cure} {AUTO}.", error.name) from error
    judged = verdict(input_path, target_path)
    for one in judged.findings:
        if one.severity == "blocks" and one.name not in ELSEWHERE:
            auto = f"{AUTO}; " if one.name in MENDED else ""
            raise _refusal(one, input_path, target_path, f" {auto}--data.align off trains on it as it is.")
    harms = [one for one in judged.findings if one.severity == "harms" or one.name in ELSEWHERE]
    return Admitted(pair, None, harms, [])


def admit_mended(
    input_path: Path,
    target_path: Path,
    sample_rate: int | None,
    own: Recipe | None,
    others: Sequence[Recipe],
    folder: Callable[[], Path],
) -> Admitted:
    """A pair mended into a folder, or as it is if nothing needs to be done; PairError where nothing helps.

    The rate is the input's where none is given. `own`: how it was mended before, which is repeated where it
    can be. `others`: how other takes of the device were mended. A pair that disagrees by no more than it
    could by chance gets their delay, so that all takes have the same.
    """
    judged = verdict(input_path, target_path)
    found = [one for one in judged.findings if one.name not in (*ELSEWHERE, *MENDED, *CHANNELS)]
    for one in found:  # swapped is what has nothing in common as it is
        if one.severity == "blocks" or (one.name == "swapped" and judged.found is None):
            raise _refusal(one, input_path, target_path)
    harms = [one for one in found if one.severity == "harms"]
    if judged.found is None:
        short = [one for one in judged.findings if one.name in ELSEWHERE]
        return Admitted(check_pair(input_path, target_path), None, [*harms, *short], [])
    infos = audio_info(input_path), audio_info(target_path)
    rate = sample_rate or infos[0].sample_rate
    recipe = own if own and _fits(own, infos, rate) else None
    if recipe is None:
        try:
            recipe = plan(_agreed(judged, others, infos[0].sample_rate), *infos, sample_rate, judged.channels)
        except PairError as error:
            raise PairError(f"{shown(target_path)}: {error.evidence}", error.cure, error.name) from error
    if all(info == AudioInfo(recipe.sample_rate, recipe.frames, 1) for info in infos) and recipe.idle:
        return Admitted(check_pair(input_path, target_path), recipe, harms, [])
    names = (f"{input_path.stem}.wav", f"{target_path.stem}.wav")
    place = folder()
    told = mend_pair(input_path, target_path, recipe, place, names)
    return Admitted(check_pair(place / names[0], place / names[1]), recipe, harms, told)


def _fits(recipe: Recipe, infos: tuple[AudioInfo, AudioInfo], sample_rate: int) -> bool:
    """Whether a recipe was made for these files and this rate, as far as their headers tell."""
    rates = (recipe.input_rate, recipe.target_rate, recipe.sample_rate)
    channels = (recipe.input_channel, recipe.target_channel)
    whole = resampled_frames(infos[0].frames, recipe.input_rate, recipe.sample_rate)
    return (
        rates == (infos[0].sample_rate, infos[1].sample_rate, sample_rate)
        and all(channel < info.channels for channel, info in zip(channels, infos, strict=True))
        and recipe.start + recipe.frames <= whole
    )


def _agreed(judged: Verdict, others: Sequence[Recipe], rate: int) -> Alignment:
    """The alignment to mend by, in samples at `rate`: another take's where nothing speaks against it."""
    found, own = judged.found, judged.mending
    assert found is not None
    assert own is not None
    sure = judged.sure_of_place >= SURE
    steady = [one for one in others if not one.drift_ppm and not one.jumps]
    if steady and found.polarity_confidence < SURE:
        own = own._replace(polarity=steady[0].polarity)
    if sure and (own.drift_ppm or own.jumps):
        return own
    if not steady:
        if sure:
            return own
        if abs(own.delay) < HARMLESS:
            return own._replace(delay=0.0, drift_ppm=0.0, jumps=())
        raise PairError(
            f"the target lies {own.delay:.1f} samples late at best, and other places explain as much.",
            "Look at both in an editor, cut them to where they begin together, and set --data.align off.",
            "delay_uncertain",
        )
    delays = [one.delay * (rate / one.sample_rate) for one in steady]
    nearest = min(delays, key=lambda delay: abs(delay - found.delay))
    if sure and abs(nearest - found.delay) > max(AGREE, SIGMAS * judged.sd):
        return own
    return own._replace(delay=nearest, drift_ppm=0.0, jumps=())


def _refusal(finding: Finding, input_path: Path, target_path: Path, more: str = "") -> PairError:
    """A finding as an error, which among many pairs must say of which it is."""
    evidence = finding.evidence
    if not any(shown(path) in evidence for path in (input_path, target_path)):
        evidence = f"{shown(target_path)}: {evidence[0].lower()}{evidence[1:]}"
    return PairError(evidence, f"{finding.cure}{more}", finding.name)
