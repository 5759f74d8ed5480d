"""The tables of a page: scores beside what needs no model, and what a device is as a compressor."""

from collections.abc import Iterator, Mapping, Sequence

from klann_lightning.comparison.scoring import Recordings, as_row
from klann_lightning.comparison.tables import ERRORS, HEARD, Row, lines_of
from klann_lightning.detector import Detector, fit_detector
from klann_lightning.dynamics import StepResponse, TimeConstant
from klann_lightning.portrait import spoken
from klann_lightning.report.contents import Table
from klann_lightning.report.heard import Output

STEPS_NOTE = (
    "Steps of a 1 kHz sine into 1, 3 and 6 dB of gain reduction. A feedback compressor answers the faster "
    "the deeper it compresses: weak steps are nearest to its detector's own time constants."
)


def without_a_model(device: str, recordings: Recordings) -> list[Row]:
    """Doing nothing, the best gain, the best linear filter, and where the noise floor lies below."""
    lines = [(name, as_row(scores)) for name, scores in recordings.without_a_model()]
    lines.append(("the target's quietest 100 ms", {"esr_db": recordings.noise_floor_db()}))
    return [{"device": device, "system": name, "seed": None, **scores} for name, scores in lines]


def score_tables(device: str, split: str, rows: Sequence[Row]) -> Iterator[Table]:
    """A device's errors, and what is heard of them."""
    for title, note, columns in (
        ("errors", "Over all of the recordings, their opening left out; lower is better.", ERRORS),
        ("what is heard", "How the output differs from the target: 0 is alike.", HEARD),
    ):
        titles, *lines = lines_of(rows, device, columns)
        yield Table(f"{device}, {split}: {title}", note, ["system", *titles[1:]], lines)


def step_table(device: str, responses: Mapping[str, Sequence[StepResponse]]) -> Iterator[Table]:
    """Attack and release of each model, where there is one whose gain falls."""
    lines = [
        [
            system if place == 0 else "",
            f"{response.low_db:.0f} to {response.high_db:.0f} dB",
            f"{response.depth_db:.1f} dB",
            spoken(response.attack),
            spoken(response.release),
        ]
        for system, own in responses.items()
        for place, response in enumerate(own)
    ]
    if lines:
        titles = ["system", "levels", "gain reduction", "attack", "release"]
        yield Table(f"{device}: attack and release", STEPS_NOTE, titles, lines)


def detector_table(
    device: str, recordings: Recordings, training: Recordings | None, outputs: Sequence[Output]
) -> Iterator[Table]:
    """The target as a compressor, and the outputs beside it; nothing where its gain follows no level.

    What kind it is, is seen in the training recordings, which are mostly the longest, where they are there.
    """
    take, rate, context = recordings.takes[0], recordings.sample_rate, recordings.context
    longest = take if training is None else training.takes[0]
    like = fit_detector(longest.input, longest.target, rate, context)
    if like is None or not like.fits:
        return
    found = {f"Target, {len(longest.input) / rate:.0f} s" + " of training" * (training is not None): like}
    if training is not None:
        fitted = fit_detector(take.input, take.target, rate, context, like)
        found |= {"Target": fitted} if fitted is not None else {}
    for output in outputs:
        if take.name in output.played:
            fitted = fit_detector(take.input, output.played[take.name], rate, context, like)
            found |= {output.label: fitted} if fitted is not None else {}
    note = (
        f"The textbook compressor whose gain comes nearest to that in {take.name}, by the recording alone: "
        f"{like.topology}, sensing {like.senses}. Outputs are fitted with a detector of the same kind."
    )
    titles = ["", "attack", "release", "second stage rises", "and falls", "gain error dB", "explained"]
    yield Table(
        f"{device}: as a compressor", note, titles, [[name, *_line(own)] for name, own in found.items()]
    )


def _line(detector: Detector) -> list[str]:
    times = (detector.attack, detector.release, detector.charge, detector.memory)
    shown = ["" if time is None else spoken([TimeConstant(time, 0)]) for time in times]
    return [*shown, f"{detector.error_db:.2f}", f"{100 * detector.explained:.1f} %"]
