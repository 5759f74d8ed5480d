"""What is inside a KLANN, as a part of the page: its channels in words and numbers, and what can go."""

from pathlib import Path

import torch

import klann_lightning.report.contents as contents
from klann_lightning.comparison.scoring import Recordings
from klann_lightning.inside import Takes
from klann_lightning.models.klann import Klann
from klann_lightning.portrait import of_inside
from klann_lightning.reading import ChannelReading, read_klann
from klann_lightning.report.heard import Namer, write_charts
from klann_lightning.report.pruning import prune, write_pruned
from klann_lightning.report.sources import Source
from klann_lightning.units import hertz, seconds
from klann_lightning.wording import sentence, summary

PRUNED = "pruned"  # folder of the smaller checkpoints
INSIDE = "inside-"  # how the names of the figures begin
COLUMNS = ["channel", "cutoff", "damping", "time constants", "filter", "without it, dB", "what it does"]


def write_reading(
    model: Klann, recordings: Recordings, val: Recordings | None, source: Source, out: Path, key: Namer
) -> contents.Reading:
    """Reads a model on the page's recordings; where `val` are given, also prunes it on these."""
    label = f"{source.device}: {source.system}"
    reading = read_klann(model, _takes(recordings), recordings.context)
    own = key(INSIDE, source.device, source.system)
    rows = [_row(channel) for channel in reading.channels]
    note = "Cutoff and damping of each of its filters; by how much the ESR rises where it stands still."
    return contents.Reading(
        own,
        label,
        summary(reading),
        contents.Table("Channels", note, COLUMNS, rows),
        write_charts(out, own, of_inside(reading)),
        None if val is None else _pruning(model, recordings, val, source, out, own),
    )


def _row(channel: ChannelReading) -> list[str]:
    return [
        channel.name,
        ", ".join(hertz(biquad.cutoff_hz) for biquad in channel.biquads),
        ", ".join(f"{biquad.damping:.2g}" for biquad in channel.biquads),
        ", ".join(_time_constants(channel)),
        channel.shape.kind,
        f"{channel.cost_db:.2f}",
        sentence(channel),
    ]


def _time_constants(channel: ChannelReading) -> list[str]:
    """Of every pole, conjugate pairs once."""
    texts = [seconds(ms) for biquad in channel.biquads for ms in sorted(biquad.time_constants_ms)]
    return list(dict.fromkeys(texts))


def _pruning(
    model: Klann, recordings: Recordings, val: Recordings, source: Source, out: Path, key: str
) -> contents.Table:
    """A line for each step, scored on val, where it is chosen; and the result on the page's recordings."""
    pruned = prune(model, _takes(val), val.context)
    rows = [
        [
            ", ".join(step.removed) or "as it is",
            f"{step.esr_db:.2f}",
            str(step.parameters),
            str(step.multiply_adds),
        ]
        for step in pruned.steps
    ]
    note = "No channel can go without costing more than 0.1 dB of ESR on val."
    if pruned.removed:
        path = out / PRUNED / f"{key.removeprefix(INSIDE)}.ckpt"
        write_pruned(pruned, source.checkpoint, path)
        before, after = (
            recordings.scores(recordings.played(which)).esr_db for which in (model, pruned.model)
        )
        note = (
            f"The smaller model is {PRUNED}/{path.name}. On these recordings its ESR is {after:.2f} dB, that "
            f"of the larger one {before:.2f} dB."
        )
    return contents.Table("Pruning", note, ["without", "val ESR, dB", "parameters", "multiply-adds"], rows)


def _takes(recordings: Recordings) -> Takes:
    return [(torch.from_numpy(take.input), torch.from_numpy(take.target)) for take in recordings.takes]
