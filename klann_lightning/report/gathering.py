"""Everything that a report's page says: models are loaded, played, scored, drawn and read."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import klann_lightning.report.contents as contents
from klann_lightning.comparison.scoring import Recordings, Samples, Take, as_row, baseline_rows, cost_of
from klann_lightning.comparison.tables import as_csv
from klann_lightning.data.audio import read_audio
from klann_lightning.detector import LONGEST_SECONDS
from klann_lightning.dynamics import StepResponse
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.export.document import document
from klann_lightning.files import write_whole
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import Klann
from klann_lightning.portrait import of_model
from klann_lightning.report.assets import write_model
from klann_lightning.report.extras import find_extras
from klann_lightning.report.heard import Output, take_scores, write_charts, write_take
from klann_lightning.report.making import Wanted, copied_configurations, facts
from klann_lightning.report.numbers import detector_table, score_tables, step_table
from klann_lightning.report.readings import write_reading
from klann_lightning.report.sources import Source
from klann_lightning.resolving import recordings_of
from klann_lightning.training.checkpoints import load_model

NUMBERS = "numbers.csv"
FIXED = ("Input", "Anchor")  # names of versions, beside the targets'
TRAINED = ("seconds", "samples", "val_esr_db", "val_mr_stft", "cut")  # that a comparison knows


class Keys:
    """Names for files and for parts of the page, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, *names: str) -> str:
        """
        >>> keys = Keys()
        >>> keys("LA-2A", "<b>"), keys("la 2a", "b")
        ('la-2a-b', 'la-2a-b-2')
        """
        plain = "-".join(re.findall("[a-z0-9]+", " ".join(names).lower()))[:80] or "x"
        key, number = plain, 1
        while key in self._taken:
            number += 1
            key = f"{plain}-{number}"
        self._taken.add(key)
        return key


class Device:
    """One device's part of the page."""

    def __init__(self, name: str, first: Source, wanted: Wanted) -> None:
        """Reads the recordings of its first model; PairError says what is wrong with them."""
        self.name, self.data, self.split = name, first.data, wanted.split
        self._first = first.checkpoint
        self.recordings = self._read(wanted.split)
        self.val = self._read("val") if wanted.prune else None
        seconds = max(wanted.seconds, LONGEST_SECONDS)
        self.kept = self.recordings.context + round(seconds * self.recordings.sample_rate)
        self.outputs: list[Output] = []
        self.rows = baseline_rows(name, self.recordings)
        self.steps: dict[str, list[StepResponse]] = {}

    def _read(self, split: str) -> Recordings:
        return Recordings(recordings_of({"data": self.data}, self._first), split)

    def add(self, made: Output, whole: Sequence[Samples | None], **known: Any) -> None:
        """An output, and its scores if it is there of all takes."""
        self.outputs.append(made)
        if all(samples is not None for samples in whole):
            scores = as_row(self.recordings.scores([samples for samples in whole if samples is not None]))
            row = {"device": self.name, "system": made.label, "seed": None, **scores, **known}
            self.rows.append(row)

    def opening(self, whole: Sequence[Samples | None]) -> dict[str, Any]:
        """What is kept of outputs [T], one a take: fields of Output."""
        there = [
            (take, own) for take, own in zip(self.recordings.takes, whole, strict=True) if own is not None
        ]
        start = self.recordings.context
        return {
            "played": {take.name: own[: self.kept].copy() for take, own in there},
            "scores": {take.name: take_scores(own[start:], take.target[start:]) for take, own in there},
        }

    def training(self) -> Take | None:
        """The opening of its first training recording, where that is still there."""
        data = recordings_of({"data": {**self.data, "train_seconds": LONGEST_SECONDS}}, self._first)
        try:
            data.setup("fit")
        except PairError:
            return None
        pair = data.pairs["train"][0]
        source, target = (read_audio(path, 0, pair.frames) for path in (pair.input, pair.target))
        data.teardown("fit")
        return Take(pair.name, source, target)

    def tables(self) -> Iterator[contents.Table]:
        yield from score_tables(self.name, self.split, self.rows)
        yield from detector_table(self.name, self.recordings, self.training(), self.outputs)
        yield from step_table(self.name, self.steps)


class Gathering:
    """From what the command line names to what the page says."""

    def __init__(self, sources: Sequence[Source], wanted: Wanted) -> None:
        """Reads recordings and what others made of them; ConfigError and PairError for what does not fit."""
        self.sources, self.wanted, self.key = sources, wanted, Keys()
        self.models: list[contents.Playable] = []
        firsts: dict[str, Source] = {}
        for source in sources:
            firsts.setdefault(source.device, source)
        self.settings = {name: first.data for name, first in firsts.items()}
        self.devices = {name: Device(name, first, wanted) for name, first in firsts.items()}
        for source in sources:
            rate = self.devices[source.device].recordings.sample_rate
            if source.sample_rate != rate:
                raise ConfigError(
                    f"{source.checkpoint} is for {source.sample_rate} Hz, the recordings of {source.device} "
                    f"are {rate} Hz. Give recordings of that rate by --root."
                )
        self.extras = find_extras(
            wanted.extra, {name: device.recordings for name, device in self.devices.items()}
        )
        self._refuse_equal_names()

    def _refuse_equal_names(self) -> None:
        """A row is found by its name: none may have another's."""
        models = {source.system for source in self.sources}
        rows = {row["system"] for device in self.devices.values() for row in device.rows}
        for extra in self.extras:
            if extra.name in {*models, *rows, *FIXED} or extra.name.startswith("Target"):
                raise ConfigError(f"--extra {extra.name!r}: another row is called so. Name it NAME=PATH.")

    def write(self, out: Path, say: Callable[[str], None]) -> contents.Page:
        """Write everything beside the page into `out`, and return what the page is to say."""
        readings: list[contents.Reading] = []
        for number, source in enumerate(self.sources, 1):
            say(f"{number}/{len(self.sources)} {source.device}: {source.system} {source.stage}".rstrip())
            readings += self._add_model(self.devices[source.device], source, out)
        for extra in self.extras:
            for name, played in extra.played.items():
                device = self.devices[name]
                whole = [played.get(take.name) for take in device.recordings.takes]
                device.add(Output(extra.name, extra.system, "extra", **device.opening(whole)), whole)
        takes = []
        for device in self.devices.values():
            for take in device.recordings.takes:
                say(f"{device.name}: {take.name}, {len(device.outputs)} outputs")
                about = (device.outputs, device.name, device.recordings, self.wanted.seconds, self.key)
                takes.append(write_take(out, take, *about))
        rows = [row for device in self.devices.values() for row in device.rows]
        write_whole(out / NUMBERS, as_csv(rows))
        configurations = copied_configurations(self.sources, out, self.key)
        return contents.Page(
            self.wanted.title or ", ".join(self.devices),
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            takes,
            _listening_rows(self.devices.values(), takes),
            readings,
            [table for device in self.devices.values() for table in device.tables()],
            facts(self.settings, self.sources, out, self.wanted),
            [*configurations, ("All numbers, unrounded (CSV)", NUMBERS)],
            sorted(self.models, key=lambda model: list(self.devices).index(model.device)),
        )

    def _add_model(self, device: Device, source: Source, out: Path) -> Iterator[contents.Reading]:
        model, recordings = load_model(source.checkpoint), device.recordings
        outputs = recordings.played(model)
        drawn, responses = of_model(model, recordings.takes[0].input)
        charts = write_charts(out, self.key("model", device.name, source.system, source.stage), drawn)
        cost = cost_of(model, recordings.level())
        made = Output(
            source.system,
            source.stage,
            "model",
            **device.opening(outputs),
            last=source.last,
            charts=charts,
            note=f"{cost.parameters} parameters",
        )
        known = {name: source.known[name] for name in TRAINED if name in source.known}
        device.add(made, outputs, **as_row(cost), **known)
        if source.last:
            device.steps[made.label] = responses
            if isinstance(model, Klann) and all(np.isfinite(output).all() for output in outputs):
                self._add_playable(model, source, out)
                yield write_reading(model, recordings, device.val, source, out, self.key)

    def _add_playable(self, model: AudioModel, source: Source, out: Path) -> None:
        """Nothing of a model that no document can hold."""
        try:
            content = document(model)
        except ConfigError:
            return
        key = self.key("play", source.device, source.system)
        write_model(out, key, content)
        self.models.append(contents.Playable(key, source.system, source.device, model.sample_rate))


def _listening_rows(devices: Iterable[Device], takes: Sequence[contents.Take]) -> list[contents.Row]:
    """Input, target, then every output, systems in the order of the command line."""
    rows = [
        contents.Row(label, "", "", {take.key: take.versions[place].key for take in takes})
        for place, label in enumerate(("Input", "Target"))
    ]
    places: dict[tuple[str, str, str], list[Output]] = {}
    for device in devices:
        for output in device.outputs:
            places.setdefault((output.kind, output.system, output.stage), []).append(output)
    order = {kind: place for place, kind in enumerate(("model", "extra"))}
    for (_, system, stage), outputs in sorted(places.items(), key=lambda item: order[item[0][0]]):
        cells = {take: version for output in outputs for take, version in output.keys.items()}
        notes = " / ".join(dict.fromkeys(output.note for output in outputs if output.note))
        rows.append(contents.Row(stage or system, system if stage else "", notes, cells))
    groups = list(dict.fromkeys((row.group or row.label) for row in rows))
    return sorted(rows, key=lambda row: groups.index(row.group or row.label))
