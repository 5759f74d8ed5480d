"""What is wrong with the values of a file: too loud, too quiet, off centre, too coarse."""

import math
from collections.abc import Callable

from klann_lightning.doctor.findings import Finding, Severity
from klann_lightning.doctor.samples import FINEST_BITS, PLATEAU, decibels
from klann_lightning.doctor.track import Side, Top, Track
from klann_lightning.files import shown

FLOATING = ("FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
FULL_SCALE = {"ULAW": 0.98, "ALAW": 0.98}  # of the loudest code
CUT_STEPS = 3  # a rounded top's neighbours are at most so many steps below it
CUT_SHARE = 1e-3  # of the peak: below a flat top, its neighbours are at least so far away
FLAT_RUNS = 10  # fewer are chance
FEW_CLIPS = 3  # runs; fewer are a note
FAR_ABOVE = 64.0  # times full scale: no level, but another unit
LOW_PEAK_DB, LOST_PEAK_DB = -40.0, -100.0
OFFSET_SHARE = 0.1  # of the RMS of the rest
LOW_BITS = 12
PULSES = 3  # as few values are no coarse sound, but pulses or square waves


def _clipped(track: Track, side: Side) -> Finding | None:
    tops = [top for top in track.tops if _is_cut(track, top) and _at_full_scale(track, top)]
    if not tops:
        return None
    samples, runs = sum(top.samples for top in tops), sum(top.runs for top in tops)
    return Finding(
        "clipped",
        "harms" if runs >= FEW_CLIPS else "note",
        f"{shown(track.path)} is clipped: {samples} of its {track.frames} samples "
        f"({100 * samples / track.frames:.2g} %) stand at full scale, in {runs} runs of up to "
        f"{max(top.longest for top in tops)} equal samples.",
        "Turn the recording level down by 6 dB and record again."
        if side == "target"
        else "If this very file was played into the device, turn it down and record the target again; if "
        "not, export it again at a lower level.",
    )


def _flat_tops(track: Track, side: Side) -> Finding | None:
    tops = [
        top
        for top in track.tops
        if _is_cut(track, top)
        and not _at_full_scale(track, top)
        and top.runs >= FLAT_RUNS
        and top.longest > PLATEAU
        and abs(top.value) > CUT_STEPS * _step(track) * 2**9
    ]
    if not tops:
        return None
    values = " and ".join(f"{top.value:.4f}" for top in tops)
    return Finding(
        "flat_tops",
        "note" if side == "target" else "harms",
        f"{shown(track.path)} has flat tops: {sum(top.samples for top in tops)} samples stand at {values}, "
        f"its extreme values, in {sum(top.runs for top in tops)} runs of up to "
        f"{max(top.longest for top in tops)}.",
        "If the device is a digital clipper, nothing needs to be done; else something behind it overloads: "
        "turn its level down and record again."
        if side == "target"
        else "It was clipped and then turned down. Use the recording from before.",
    )


def _is_cut(track: Track, top: Top) -> bool:
    """Whether the runs are cut off, and not the rounded tops of a slow wave."""
    far = max(CUT_STEPS * _step(track), CUT_SHARE * track.peak)
    return top.runs > 0 and top.drop > far and not _few_values(track)


def _at_full_scale(track: Track, top: Top) -> bool:
    full = FULL_SCALE.get(track.subtype, 1 - max(1.01 * _step(track), 1e-3))
    return full <= abs(top.value) <= 1.0001


def _step(track: Track) -> float:
    """Of the grid that the samples lie on."""
    return float(2.0 ** (max(0, math.ceil(math.log2(track.peak))) + 1 - track.effective_bits))


def _few_values(track: Track) -> bool:
    return track.values is not None and track.values <= PULSES


def _over_full_scale(track: Track, side: Side) -> Finding | None:
    if track.subtype not in FLOATING or track.peak <= 1:
        return None
    far = track.peak > FAR_ABOVE
    return Finding(
        "over_full_scale",
        "harms" if far else "note",
        f"{shown(track.path)} reaches {track.peak:.4g}, {decibels(track.peak):.1f} dB above full scale"
        f"{': its numbers are hardly a level from -1 to 1' if far else ''}.",
        "Divide them by the full scale of their format, such as 32768 for 16 bit."
        if far
        else "In floating point nothing is lost; turn it down before it is converted to 16 or 24 bit.",
    )


def _low_level(track: Track, side: Side) -> Finding | None:
    peak_db = decibels(track.peak)
    if peak_db >= LOW_PEAK_DB:
        return None
    severity: Severity = "note" if track.subtype in FLOATING and peak_db > LOST_PEAK_DB else "harms"
    return Finding(
        "low_level",
        severity,
        f"{shown(track.path)} is quiet: its peak is {peak_db:.1f} dB of full scale.",
        "Record it again at a higher level: the quieter it is, the more its steps and the noise weigh.",
    )


def _offset(track: Track, side: Side) -> Finding | None:
    rest = math.sqrt(max(track.rms**2 - track.mean**2, 0))
    if abs(track.mean) <= OFFSET_SHARE * rest:
        return None
    return Finding(
        "offset",
        "note" if side == "target" else "harms",
        f"{shown(track.path)} is off centre: its mean is {track.mean:.4g}, {100 * abs(track.mean) / rest:.3g}"
        f" % of the RMS of the rest ({rest:.4g})."
        if rest
        else f"{shown(track.path)} is off centre: its mean is {track.mean:.4g}, and nothing else is there.",
        "If the device makes it, nothing needs to be done; if not, remove it with a high-pass at 5 Hz."
        if side == "target"
        else "If this very file was played into the device, its converter has most likely removed that: take "
        "it out of the file too, with a high-pass at 5 Hz.",
    )


def _low_resolution(track: Track, side: Side) -> Finding | None:
    name = shown(track.path)
    if _few_values(track):
        return Finding(
            "low_resolution",
            "note",
            f"{name} has only {track.values} different values: pulses, or a square wave.",
            "That says little of what a device does in between. Use music, if it was not meant.",
        )
    evidence = _coarse(track)
    if evidence:
        return Finding(
            "low_resolution",
            "harms",
            f"{name} is coarse: {evidence}.",
            "Its steps are noise that no model can learn. Export it again with 16 bits at least, better 24.",
        )
    if track.half_float:
        return Finding(
            "low_resolution",
            "note",
            f"{name} is coarse: no value has more than 11 significant bits, as in half-precision floating "
            "point, so its noise is about 75 dB below the sound.",
            "That is fine for most devices. If there is a copy with 24 bits or 32-bit float, use that.",
        )
    return None


def _coarse(track: Track) -> str:
    bits = track.effective_bits
    if bits <= LOW_BITS:
        return f"{bits} bits hold all its values, though it is stored as {track.subtype}"
    if track.value_step > CUT_STEPS * _step(track) or (track.value_step and bits == FINEST_BITS):
        steps = (track.highest - track.lowest) / track.value_step + 1
        return f"its values are {track.value_step:.3g} apart, so {math.log2(steps):.1f} bits hold them all"
    return ""


LOUDNESS_FAULTS: tuple[Callable[[Track, Side], Finding | None], ...] = (
    _clipped,
    _flat_tops,
    _over_full_scale,
    _low_level,
    _offset,
    _low_resolution,
)
