"""Which models a report is about: checkpoints, and the run or comparison that each comes from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from klann_lightning.comparison.command import ROW, finished_row
from klann_lightning.comparison.training import CELLS, DESCRIBED, last_stage
from klann_lightning.data.pairs import SPLITS
from klann_lightning.errors import ConfigError
from klann_lightning.runs import CONFIG
from klann_lightning.training.checkpoints import load_model

# Where nothing says otherwise.
DEFAULTS = {"root": "data", "resample": False, "context_seconds": 1.0, "align": "check"}
STAGES = "stage-*.ckpt"


@dataclass(frozen=True)
class Source:
    """One checkpoint."""

    checkpoint: Path
    system: str  # what its row is called
    stage: str  # such as "stage 1, time", where a run's stages stand together; else ""
    last: bool  # of its run's stages
    device: str  # what its column is called
    sample_rate: int  # Hz, of the model
    data: dict[str, Any]  # settings of PairedDataModule
    config: Path | None  # the run's complete configuration
    known: dict[str, Any] = field(default_factory=dict)  # what a comparison has measured
    run: Path = Path()  # whose stages belong together
    seed: int | None = None  # where a comparison says so


def find_sources(words: Sequence[str], root: Path | None, device: str | None) -> list[Source]:
    """What the words of a command line name: [NAME=]PATH each, in their order.

    A checkpoint is itself; a run's folder all of its stages; an experiment's folder its newest run; a
    comparison's folder all of its cells. `root` replaces what the configuration beside a checkpoint says,
    `device` stands in where there is none. ConfigError where there is nothing, and for what lacks
    recordings; CheckpointError for what cannot be read.
    """
    sources: list[Source] = []
    for word in words:
        name, path = named_path(word)
        sources += [_described(*found, name, root, device) for found in _checkpoints(path)]
    if not sources:
        raise ConfigError("no checkpoint is named: report OUT CHECKPOINT, or a run's folder")
    return _distinct(sources)


def named_path(word: str) -> tuple[str, Path]:
    """NAME=PATH, or a path alone, whose name is then empty; where it has several signs, what is there counts.

    >>> named_path("ours=runs/a=b.ckpt")
    ('ours', PosixPath('runs/a=b.ckpt'))
    """
    places = [place for place, sign in enumerate(word) if sign == "=" and place]
    if not places or Path(word).exists():
        return "", Path(word)
    there = [place for place in places if Path(word[place + 1 :]).exists()]
    place = (there or places)[0]
    return word[:place], Path(word[place + 1 :])


def _checkpoints(path: Path) -> Iterator[tuple[Path, bool, bool]]:
    """Checkpoints, whether each stands among a run's stages, and whether it is the last of them."""
    if not path.is_dir():
        yield path, False, True
        return
    cells = [row.parent for row in (path / CELLS).glob(f"*/*/*/{ROW}")]  # that have come to their end
    folders = sorted(cells, key=lambda cell: (cell / DESCRIBED).stat().st_mtime_ns)
    if not folders:
        runs = [folder for folder in sorted(path.iterdir(), reverse=True) if any(folder.glob(STAGES))]
        folders = [path] if any(path.glob(STAGES)) else runs[:1]
    if not folders:
        raise ConfigError(
            f"{path} is no folder of a run, an experiment or a comparison: it has no {STAGES}. Name a "
            "checkpoint, or the folder of a run that has ended a stage."
        )
    for folder in folders:
        stages = sorted(folder.glob(STAGES), key=lambda stage: int(stage.name.split("-")[1]))
        for stage in stages:
            yield stage, True, stage == last_stage(folder)


def _described(
    checkpoint: Path, staged: bool, last: bool, name: str, root: Path | None, device: str | None
) -> Source:
    folder, model = checkpoint.parent, load_model(checkpoint)
    config = next((folder / file for file in (CONFIG, DESCRIBED) if (folder / file).is_file()), None)
    data = _data_of(config)
    if not data:
        if device is None:
            raise ConfigError(
                f"no {CONFIG} beside {checkpoint} says which recordings it is a model of. Name the device by "
                "--device, and the folder of its recordings by --root."
            )
        data = {**DEFAULTS, "sample_rate": model.sample_rate, "device": device}
    if root is not None:
        data["root"] = str(root)
    if not any((Path(data["root"]) / split).is_dir() for split in SPLITS):
        raise ConfigError(
            f"the recordings that {checkpoint} is a model of are not in {data['root']}. Name the folder that "
            f"has {', '.join(SPLITS)} by --root."
        )
    known = finished_row(folder) or {}
    called = data["device"]
    return Source(
        checkpoint,
        name or known.get("system") or f"{type(model).__name__} {model.parameter_count()}",
        _stage_name(checkpoint.stem) if staged else "",
        last,
        known.get("device") or (called if isinstance(called, str) else ", ".join(called)),
        model.sample_rate,
        {**data, "train": None, "num_workers": 0, "train_seconds": None},
        config,
        known if last else {},
        folder if staged else checkpoint,
        known.get("seed"),
    )


def _data_of(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return dict(yaml.safe_load(config.read_text(encoding="utf-8"))["data"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{config} is not the configuration of a run: {error}. Copy it again.") from error


def _stage_name(stem: str) -> str:
    """
    >>> _stage_name("stage-3-spectral")
    'stage 3, spectral'
    """
    _, number, name = stem.split("-", 2)
    return f"stage {number}, {name}"


def _distinct(sources: list[Source]) -> list[Source]:
    """Columns by their recordings, rows by their runs: no two of either have the same name."""
    columns: dict[tuple[object, ...], str] = {}
    for source in sources:
        if _recordings(source) not in columns:
            columns[_recordings(source)] = _free(source.device, columns.values())
    placed = [replace(source, device=columns[_recordings(source)]) for source in sources]
    runs: dict[tuple[str, str], list[Source]] = {}
    for source in placed:
        known = runs.setdefault((source.system, source.device), [])
        if source.run not in [other.run for other in known]:
            known.append(source)
    return [replace(source, system=_of_run(source, runs[source.system, source.device])) for source in placed]


def _of_run(source: Source, runs: list[Source]) -> str:
    """A system's name, with its seed or its number where there are several runs of it."""
    place = [run.run for run in runs].index(source.run)
    seeds = [run.seed for run in runs]
    if len(runs) > 1 and None not in seeds and len(set(seeds)) == len(seeds):
        return f"{source.system}, seed {source.seed}"
    return f"{source.system} ({place + 1})" if place else source.system


def _recordings(source: Source) -> tuple[object, ...]:
    """Which recordings, and which part of them: equal for equal ones, however their folder is written."""
    data = {**DEFAULTS, **source.data}
    settings = (data["sample_rate"], data["resample"], data["context_seconds"], data["align"])
    return str(data["device"]), Path(data["root"]).resolve(), *settings


def _free(name: str, taken: Iterable[str]) -> str:
    used, number, free = set(taken), 1, name
    while free in used:
        number += 1
        free = f"{name} ({number})"
    return free
