"""What is wrong with two recordings as a pair, judged from how they lie against each other."""

import re

from klann_lightning.doctor.align import Aligned
from klann_lightning.doctor.findings import Finding
from klann_lightning.doctor.track import Track
from klann_lightning.files import shown

SURE = 0.5  # of a confidence: below, it is said and nothing is built on it
# Nats in common, and how sure the place must be where there are no more: else the two are strangers.
DOUBTS = ((0.06, 0.9), (0.15, 0.25))
SLIGHT, HARMLESS, MOST_EARLY = 1.0, 32.0, 4.0  # samples
SIGMAS = 3.0  # a short delay that is less sure than that is none
TURNED, TURNED_NATS = 1.3, 0.03  # a device explains its input no better than that
WET = re.compile(r"(?<![a-z])(target|wet|out|output|processed|reamped)(?![a-z])", re.IGNORECASE)
DRY = re.compile(r"(?<![a-z])(input|dry|di|in|clean)(?![a-z])", re.IGNORECASE)
MENDED = "`doctor --fix DIR` writes the pair mended"


def fitting_faults(dry: Track, wet: Track) -> list[Finding]:
    """Of the two headers: rates and lengths."""
    found = []
    if dry.sample_rate != wet.sample_rate:
        found.append(
            Finding(
                "rates_differ",
                "blocks",
                f"{shown(dry.path)} is {dry.sample_rate} Hz, {shown(wet.path)} is {wet.sample_rate} Hz.",
                f"{MENDED}, at the input's rate.",
            )
        )
    difference = wet.seconds - dry.seconds
    if abs(difference) * dry.sample_rate >= 1:
        longer = dry if difference < 0 else wet
        found.append(
            Finding(
                "lengths_differ",
                "blocks",
                f"{shown(longer.path)} is {abs(difference):.4f} s longer: {dry.frames} frames at "
                f"{dry.sample_rate} Hz against {wet.frames} at {wet.sample_rate} Hz.",
                f"{MENDED}, cut to what both have.",
            )
        )
    return found


def alignment_faults(
    aligned: Aligned | None, turned: Aligned | None, dry: Track, wet: Track, same: bool
) -> list[Finding]:
    """Of what the target has to do with the input, and when.

    `turned`: the alignment with both exchanged, where it was tried. `same`: both hold the same samples.
    """
    if same:
        return [
            Finding(
                "same_file",
                "blocks",
                f"{shown(dry.path)} and {shown(wet.path)} hold the same samples.",
                "Name the recording of what came out of the device as target.",
            )
        ]
    if turned is not None and not unrelated(turned):
        return [_swapped(dry, wet, _backwards(turned.information, 0.0))]
    if aligned is None or unrelated(aligned):
        told = 0.0 if aligned is None else max(aligned.information, 0.0)
        return [
            Finding(
                "unrelated",
                "blocks",
                f"Nowhere does {shown(dry.path)} explain {shown(wet.path)}: at best {told:.3f} nats for each "
                "frequency, and other places explain as much.",
                "Check that both are of one take. If they are, they may be steady notes alone: record "
                "something with pauses and attacks.",
            )
        ]
    found: list[Finding | None] = []
    if aligned.backwards > TURNED * max(aligned.information, 0) + TURNED_NATS:
        why = _backwards(aligned.backwards, aligned.information)
        found.append(_swapped(dry, wet, why))
    elif WET.search(dry.path.stem) and DRY.search(wet.path.stem):
        found.append(_swapped(dry, wet, "their names say so"))
    found += [_delay(aligned, dry), _polarity(aligned, dry, wet), _drift(aligned, dry), _jumps(aligned, dry)]
    return [finding for finding in found if finding is not None]


def unrelated(aligned: Aligned) -> bool:
    """Whether there is no telling where the target would lie, and hardly anything in common there."""
    return any(aligned.information < told and aligned.sure_of_place < sure for told, sure in DOUBTS)


def slight(aligned: Aligned) -> bool:
    """Whether the delay is none that could be told from 0."""
    late = abs(aligned.alignment.delay)
    return late < SLIGHT or late < min(SIGMAS * aligned.sd, HARMLESS)


def _swapped(dry: Track, wet: Track, why: str) -> Finding:
    return Finding(
        "swapped",
        "harms",
        f"{shown(dry.path)} looks like what came out of the device, {shown(wet.path)} like what went in: "
        f"{why}.",
        "Exchange the two, if that is so: a model of the way back is not what you want.",
    )


def _backwards(backwards: float, forwards: float) -> str:
    return (
        f"the second explains the first with {backwards:.2f} nats, the first the second with "
        f"{max(forwards, 0):.2f}"
    )


def _delay(aligned: Aligned, dry: Track) -> Finding | None:
    alignment = aligned.alignment
    late = alignment.delay
    if slight(aligned):
        return None
    size = f"{abs(late):.2f} samples ({1000 * abs(late) / dry.sample_rate:.2f} ms)"
    evidence = (
        f"The target is {size} {'late' if late > 0 else 'early'}, give or take {max(aligned.sd, 0.01):.2f}; "
        f"confidence {alignment.confidence:.2f}."
    )
    if aligned.clicks:
        evidence += f" {aligned.clicks} clicks at the opening say so too."
    if aligned.sure_of_place < SURE:
        return Finding(
            "delay_uncertain",
            "note" if abs(late) < HARMLESS else "harms",
            evidence,
            f"Look at both in an editor before you trust it; {MENDED} by this delay.",
        )
    if 0 < late < HARMLESS:
        cure = f"A model learns so short a delay itself, at the cost of some of its memory. {MENDED}."
        return Finding("delay", "note", evidence, cure)
    if -MOST_EARLY - aligned.sd < late < 0:
        return Finding("delay", "harms", evidence, f"No model can answer before it is asked: {MENDED}.")
    return Finding("delay", "blocks", evidence, f"{MENDED}.")


def _polarity(aligned: Aligned, dry: Track, wet: Track) -> Finding | None:
    alignment = aligned.alignment
    if alignment.polarity > 0 or alignment.polarity_confidence < SURE:
        return None
    return Finding(
        "inverted",
        "harms",
        f"{shown(wet.path)} is upside down against {shown(dry.path)}; "
        f"confidence {alignment.polarity_confidence:.2f}.",
        f"If the device itself inverts, leave it: a model learns that. If a cable or a preset did, {MENDED}.",
    )


def _drift(aligned: Aligned, dry: Track) -> Finding | None:
    ppm = aligned.alignment.drift_ppm
    lost = abs(ppm) * 1e-6 * dry.frames
    if lost < SLIGHT / 2:
        return None
    return Finding(
        "drift",
        "blocks" if lost > HARMLESS else "harms",
        f"The target's clock runs {'slow' if ppm < 0 else 'fast'}: {ppm:.2f} ppm (give or take "
        f"{aligned.drift_sd_ppm:.2f}), {lost:.1f} samples from start to end.",
        f"{MENDED}, interpolated along the drift. To record again, let one clock drive both converters.",
    )


def _jumps(aligned: Aligned, dry: Track) -> Finding | None:
    jumps = aligned.alignment.jumps
    if not jumps:
        return None
    places = ", ".join(
        f"{abs(jump.by):.1f} samples {'more' if jump.by > 0 else 'less'} at {jump.at / dry.sample_rate:.3f} s"
        for jump in jumps[:5]
    )
    return Finding(
        "jumps",
        "blocks",
        f"The target loses step in {len(jumps)} {'place' if len(jumps) == 1 else 'places'}: it has {places}"
        f"{' and so on' if len(jumps) > 5 else ''}.",
        f"A recorder dropped or repeated samples: record again with a larger buffer, or {MENDED}, in step.",
    )
