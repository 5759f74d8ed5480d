"""The tables of a page: scores beside what needs no model, and what a device is as a compressor."""

from collections.abc import Iterator, Mapping, Sequence

from klann_lightning.comparison.scoring import Recordings, Take
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
    device: str, recordings: Recordings, training: Take | None, outputs: Sequence[Output]
) -> Iterator[Table]:
    """The target as a compressor, and the outputs beside it; nothing where its gain follows no level.

    What kind it is, is seen in the training recording, mostly the longest there is, where that is there.
    """
    take, rate, context = recordings.takes[0], recordings.sample_rate, recordings.context
    longest = training or take
    like = fit_detector(longest.input, longest.target, rate, context)
    if like is None or not like.fits:
        return
    name = f"Target, {len(longest.input) / rate:.0f} s" + " of training" * (training is not None)
    found: list[tuple[str, Detector | None]] = [(name, like)]
    if like.rival is not None:
        found.append((f"the same, as {like.rival.kind}", like.rival))
    if training is not None:
        found.append(("Target", fit_detector(take.input, take.target, rate, context, like)))
    for output in outputs:
        if take.name in output.played and output.last:
            played = output.played[take.name]
            source = take.input[: len(played)]
            found.append((output.label, fit_detector(source, played, rate, context, like)))
    note = (
        f"The textbook compressor whose gain comes nearest to that in the recording of {longest.name}: "
        f"{like.kind}. Outputs are fitted with a detector of the same kind."
    )
    if like.rival is not None:
        note += f" Which kind it is, the recording does not tell: {like.rival.kind} comes nearly as near."
    titles = ["", "attack", "release", "second stage rises", "and falls", "gain error dB", "explained"]
    yield Table(
        f"{device}: as a compressor",
        note,
        titles,
        [[name, *_line(own)] for name, own in found if own is not None],
    )


def _line(detector: Detector) -> list[str]:
    """Without times, where they explain too little."""
    fits = detector.fits
    times = [
        t if fits else None for t in (detector.attack, detector.release, detector.charge, detector.memory)
    ]
    shown = ["" if time is None else spoken([TimeConstant(time, 0)]) for time in times]
    return [*shown, f"{detector.error_db:.2f}", f"{100 * detector.explained:.1f} %"]
