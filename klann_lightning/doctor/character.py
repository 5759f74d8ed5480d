"""What a device does, from one aligned pair: filter, distortion, compressor, room or clock."""

import math
from typing import Literal, NamedTuple

import numpy as np

from klann_lightning.doctor.blocks import Samples, Signal
from klann_lightning.doctor.findings import Finding
from klann_lightning.doctor.floor import Floor, floor_of
from klann_lightning.doctor.gains import Gain, gain_error, gain_follows
from klann_lightning.doctor.linear import LongFilter, esr_best_gain, long_filter, short_filter
from klann_lightning.doctor.material import Material, material_findings
from klann_lightning.doctor.memory import filter_memory, gain_memory, reverberates
from klann_lightning.doctor.periodic import NO_PERIOD, Period, period_of
from klann_lightning.doctor.shape import static_error

Kind = Literal["clean", "linear", "distortion", "compressor", "reverb", "modulation", "unknown"]

LONGEST = 1 << 20  # samples that are looked at, from the middle
SHORTEST = 1 << 14
LEFT = 1e-4  # of the target's energy, -40 dB: what leaves less explains a device
NEAR_FLOOR = 2.0  # times the floor: the same, where noise hides more
GAIN_LEFT = 10**-1.1  # typically, of a gain that follows the target
STATIC_LEFT = 10**-0.7  # the same of curves between filters
SURELY_CURVED = 0.1
CLOSELY = 10**-2.5  # typically left: this explains a device, and nothing by chance
SLIGHT = 0.02  # of a gain's variance: a detector explains hardly more than the level of the moment
CLEARLY_ROOM = 0.2  # of what a short filter leaves, left by a long one
ALIKE = 2.0  # times what a gain leaves
LEVEL_EXPLAINS = 0.6  # of a gain's variance: what is more follows the level and no clock
NOISY = 1e-3
LONG_SECONDS = 1.0


class Errors(NamedTuple):
    """What each kind of explanation leaves: energy ratios."""

    gain: float
    linear: float
    long: float  # of the long filter over the short one, on the same third
    static: float  # typical, of loud blocks; nan where it was not needed
    follower: float  # the same


class Character(NamedTuple):
    """What a device does. Ratios are of energy to the target's; nan where the recording does not tell."""

    esr_best_gain: float
    esr_best_linear: float
    floor: Floor
    memory_seconds: float
    kind: Kind
    kind_evidence: str


def characterise(x: Signal, y: Signal, sample_rate: int) -> Character:
    """Diagnoses a pair [T], [T] of one rate, aligned to the sample.

    Of more than 2**20 samples, those in the middle. 5 s on one core, 300 MiB.
    """
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"input {x.shape} and target {y.shape} must be [T], alike.")
    start = max(0, (x.size - LONGEST) // 2)
    source, target = (np.asarray(signal[start : start + LONGEST], np.float64) for signal in (x, y))
    if source.size < SHORTEST or not source.any() or not target.any():
        return _untold(source, target)
    short = short_filter(source, target)
    errors = Errors(esr_best_gain(source, target), short.esr, 1.0, math.nan, math.nan)
    quick = floor_of(source, target, sample_rate, 0.0, math.inf)
    long = LongFilter(short.esr, short.esr, np.zeros(1), sample_rate)
    gain, period = None, NO_PERIOD
    if not explained(short.esr, quick.esr):
        long = long_filter(source, target, short, sample_rate)
        gain = gain_follows(source, target, sample_rate)
        period = period_of(source, target, sample_rate)
        errors = errors._replace(
            long=long.esr / long.esr_short if long.esr_short > 0 else 1.0,
            follower=gain_error(source, target, short.prediction, sample_rate),
            static=static_error(source, target, short.prediction, sample_rate),
        )
    room = reverberates(long)
    kind, evidence = _kind(errors, quick.esr, gain, period, room)
    ringing = filter_memory(short, long if room else None, sample_rate)
    own = ringing if kind in ("reverb", "unknown") else filter_memory(short, None, sample_rate)
    memory = _memory(kind, own, gain, period)
    floor = floor_of(source, target, sample_rate, ringing, memory)
    if floor.esr > min(errors.gain, errors.linear):  # a model has been below it
        floor = floor._replace(esr=min(errors.gain, errors.linear))
    return Character(errors.gain, errors.linear, floor, memory, kind, evidence)


def explained(esr: float, floor: float) -> bool:
    """Whether hardly more is left than noise."""
    return esr < LEFT or (math.isfinite(floor) and esr < NEAR_FLOOR * floor)


def _kind(errors: Errors, floor: float, gain: Gain | None, period: Period, room: bool) -> tuple[Kind, str]:
    """The kind, and the sentence that says why."""
    if explained(errors.gain, floor):
        return "clean", f"One gain leaves {_db(errors.gain)} of the target."
    if explained(errors.linear, floor):
        return "linear", f"One filter leaves {_db(errors.linear)} of the target, one gain {_db(errors.gain)}."
    left = (
        f"One filter leaves {_db(errors.linear)} of the target; of loud passages, a static curve between "
        f"filters typically leaves {_db(errors.static)} and a gain that follows the envelope "
        f"{_db(errors.follower)}."
    )
    by_level = gain is not None and max(gain.explained, gain.at_once) > LEVEL_EXPLAINS
    at_once = gain is not None and gain.at_once > max(LEVEL_EXPLAINS, gain.explained - SLIGHT)
    curved = errors.static < STATIC_LEFT
    if period.found and not by_level and not errors.static < min(SURELY_CURVED, errors.follower):
        again = (
            f"The response comes back every {period.seconds:.2f} s (correlation {period.correlation:.2f}), "
            "whatever is played."
        )
        return "modulation", f"{again} {left}"
    # A curve that is hardly driven is a gain, too: if the gain has no memory, the curve is the simpler cause.
    simpler = errors.static < (max(ALIKE * errors.follower, CLOSELY) if at_once else errors.follower)
    closely = errors.follower < min(errors.static / 10, CLOSELY) and period.clarity > 0
    echoes = errors.long < CLEARLY_ROOM and errors.follower > CLOSELY
    if errors.follower < GAIN_LEFT and (by_level or closely) and not simpler and not echoes:
        what = f" A level detector explains {100 * gain.explained:.0f} % of its changes." if gain else ""
        return "compressor", left + what
    if room and not errors.static < SURELY_CURVED:
        return (
            "reverb",
            f"{left} A filter of up to 1.25 s leaves {_db(errors.long)} of what is left by a short one.",
        )
    if curved:
        return "distortion", left
    return "unknown", f"{left} None of them is enough."


def _memory(kind: Kind, ringing: float, gain: Gain | None, period: Period) -> float:
    """For how many seconds a device of this kind remembers; `ringing`: for how many its filter does."""
    if kind == "modulation" and math.isfinite(period.seconds):
        return period.seconds
    if kind == "compressor":
        return gain_memory(gain)
    if kind in ("distortion", "unknown") and gain is not None and gain.follows_level:
        return max(ringing, gain_memory(gain))
    return ringing


def findings_of(character: Character, material: Material) -> list[Finding]:
    """What follows for the training of a model."""
    own = (_simple(character), _noisy(character.floor), _remembering(character))
    return [*material_findings(material), *(one for one in own if one is not None)]


def _simple(character: Character) -> Finding | None:
    if character.kind == "clean":
        return Finding(
            "nothing_to_learn",
            "note",
            f"The target is the input times one gain, up to {_db(character.esr_best_gain)}.",
            "No model is needed. If the device was meant to do something, see whether it was bypassed.",
        )
    if character.kind == "linear":
        return Finding(
            "linear_device",
            "note",
            f"The device is a filter: the best one leaves {_db(character.esr_best_linear)}.",
            "A convolution with its impulse response does all that a model would have to learn.",
        )
    return None


def _noisy(floor: Floor) -> Finding | None:
    if floor.origin not in ("repeats", "pauses") or floor.esr <= NOISY:
        return None
    how = "where the input repeats, the target does not" if floor.origin == "repeats" else "noise in pauses"
    hum = f" Most of it is mains hum of {floor.hum_hz:.0f} Hz." if math.isfinite(floor.hum_hz) else ""
    return Finding(
        "noisy_target",
        "harms",
        f"{_db(floor.esr)} of the target cannot be told from the input ({how}).{hum}",
        "No model comes below that. Record the target again with less noise, or a louder input.",
    )


def _remembering(character: Character) -> Finding | None:
    if character.kind == "modulation":
        return Finding(
            "modulation",
            "harms",
            character.kind_evidence,
            "No model here has a clock: switch the modulation off, or train on another effect.",
        )
    if character.memory_seconds > LONG_SECONDS:
        return Finding(
            "long_memory",
            "note",
            f"What the device does depends on the last {character.memory_seconds:.1f} s.",
            f"Set data.context_seconds to {math.ceil(character.memory_seconds)} or more, and take "
            "segments at least as long.",
        )
    return None


def _untold(x: Samples, y: Samples) -> Character:
    gain = esr_best_gain(x, y) if y.any() else math.nan
    why = (
        "The recording is silent." if not (x.any() and y.any()) else f"{x.size} samples are too few to tell."
    )
    return Character(gain, math.nan, Floor(math.nan, "none"), math.nan, "unknown", why)


def _db(ratio: float) -> str:
    """A ratio of energies in dB."""
    return f"{10 * math.log10(max(ratio, 1e-20)):.1f} dB" if ratio == ratio else "an unknown share"
