"""Everything that a report's page says: models are loaded, played, scored, drawn and read."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import klann_lightning.report.contents as contents
from klann_lightning.comparison.scoring import Recordings, Samples, as_row, cost_of
from klann_lightning.comparison.tables import as_csv
from klann_lightning.detector import LONGEST_SECONDS
from klann_lightning.dynamics import StepResponse
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.experiment import recordings_of
from klann_lightning.files import write_whole
from klann_lightning.models.klann import Klann
from klann_lightning.portrait import of_model
from klann_lightning.report.extras import Extra, find_extras
from klann_lightning.report.heard import Output, write_charts, write_take
from klann_lightning.report.making import Wanted, copied_configurations, facts
from klann_lightning.report.numbers import detector_table, score_tables, step_table, without_a_model
from klann_lightning.report.readings import write_reading
from klann_lightning.report.sources import Source
from klann_lightning.training.checkpoints import load_model

NUMBERS = "numbers.csv"
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

    def __init__(self, name: str, data: dict[str, Any], split: str) -> None:
        self.name, self.data = name, data
        self.recordings = Recordings(recordings_of({"data": data}), split)
        self.split = split
        self.outputs: list[Output] = []
        self.rows = without_a_model(name, self.recordings)
        self.steps: dict[str, list[StepResponse]] = {}

    def tables(self) -> Iterator[contents.Table]:
        yield from score_tables(self.name, self.split, self.rows)
        yield from detector_table(self.name, self.recordings, _training(self.data), self.outputs)
        yield from step_table(self.name, self.steps)


def gather(sources: Sequence[Source], out: Path, wanted: Wanted, say: Callable[[str], None]) -> contents.Page:
    """Write everything beside the page into `out`, and return what the page is to say."""
    key = Keys()
    settings = {source.device: source.data for source in sources}
    devices = {name: Device(name, data, wanted.split) for name, data in settings.items()}
    extras = find_extras(wanted.extra, {name: device.recordings for name, device in devices.items()})
    readings: list[contents.Reading] = []
    for number, source in enumerate(sources, 1):
        say(f"{number}/{len(sources)} {source.device}: {source.system} {source.stage}".rstrip())
        readings += _add_model(devices[source.device], source, out, wanted, key)
    for extra in extras:
        for name, played in extra.played.items():
            _add_extra(devices[name], extra, played)
    takes = []
    for device in devices.values():
        for take in device.recordings.takes:
            say(f"{device.name}: {take.name}, {len(device.outputs)} outputs")
            takes.append(
                write_take(out, take, device.outputs, device.name, device.recordings, wanted.seconds, key)
            )
    rows = [row for device in devices.values() for row in device.rows]
    write_whole(out / NUMBERS, as_csv(rows))
    return contents.Page(
        wanted.title or ", ".join(devices),
        datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        takes,
        _listening_rows(devices.values(), takes),
        readings,
        [table for device in devices.values() for table in device.tables()],
        facts(settings, sources, out, wanted),
        [*copied_configurations(sources, out, key), ("All numbers, unrounded (CSV)", NUMBERS)],
    )


def _add_model(
    device: Device, source: Source, out: Path, wanted: Wanted, key: Keys
) -> list[contents.Reading]:
    model, recordings = load_model(source.checkpoint), device.recordings
    if model.sample_rate != recordings.sample_rate:
        raise ConfigError(
            f"{source.checkpoint} is for {model.sample_rate} Hz, the recordings of {device.name} are "
            f"{recordings.sample_rate} Hz. Give recordings of that rate by --root."
        )
    outputs = recordings.played(model)
    drawn, responses = of_model(model, recordings.takes[0].input)
    charts = write_charts(out, key("model", device.name, source.system, source.stage), drawn)
    parameters = sum(part.numel() for part in model.parameters() if part.requires_grad)
    played = {take.name: output for take, output in zip(recordings.takes, outputs, strict=True)}
    made = Output(source.system, source.stage, "model", played, charts, f"{parameters} parameters")
    device.outputs.append(made)
    scores = as_row(cost_of(model, recordings.level()), recordings.scores(outputs))
    known = {name: source.known[name] for name in TRAINED if name in source.known}
    device.rows.append({"device": device.name, "system": made.label, "seed": None, **scores, **known})
    if source.last:
        device.steps[made.label] = responses
    if not (source.last and isinstance(model, Klann)):
        return []
    return [_read(model, device, source, out, wanted, key)]


def _read(
    model: Klann, device: Device, source: Source, out: Path, wanted: Wanted, key: Keys
) -> contents.Reading:
    val = Recordings(recordings_of({"data": device.data}), "val") if wanted.prune else None
    return write_reading(model, device.recordings, val, source, out, key)


def _add_extra(device: Device, extra: Extra, played: dict[str, Samples]) -> None:
    made = Output(extra.name, extra.system, "extra", played)
    device.outputs.append(made)
    whole = [played[take.name] for take in device.recordings.takes if take.name in played]
    if len(whole) == len(device.recordings.takes):
        scores = as_row(device.recordings.scores(whole))
        device.rows.append({"device": device.name, "system": made.label, "seed": None, **scores})


def _training(data: dict[str, Any]) -> Recordings | None:
    """The opening of the training recordings, where they are still there."""
    try:
        return Recordings(recordings_of({"data": {**data, "train_seconds": LONGEST_SECONDS}}), "train")
    except PairError:
        return None


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
