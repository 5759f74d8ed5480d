"""`compare`: trains every cell of a grid that is not trained yet, scores it, and writes the tables."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from klann_lightning.comparison.grid import Cell, Grid, cells, read_grid
from klann_lightning.comparison.report import OUTPUTS, write_figures, write_tables
from klann_lightning.comparison.scoring import Recordings, as_row, baseline_rows, cost_of, untrained_row
from klann_lightning.comparison.tables import Row
from klann_lightning.comparison.training import (
    CELLS,
    Trained,
    check_begun,
    check_cost,
    last_stage,
    refuse_fixed,
    resolved,
    spent,
    train,
)
from klann_lightning.data.audio import write_audio
from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.files import write_whole
from klann_lightning.fitting import LOG
from klann_lightning.handshake import INTERRUPTED
from klann_lightning.manners import tell
from klann_lightning.measuring import machine, prepare
from klann_lightning.resolving import recordings_of
from klann_lightning.training.checkpoints import load_model

ROW = "row.json"  # a cell's line, in its folder
STOPPED = "stopped; the same command goes on with it"
# What a device's systems have in common.
SAME = ("device", "root", "sample_rate", "resample", "context_seconds", "train_seconds", "align")

Config = dict[str, Any]


class ComparisonError(KlannError):
    """A comparison that has no result."""


def run(grid_file: Path, out: Path, words: Sequence[str], played: Path | None) -> None:
    """Train, score and write; `words` are fit's, for every cell. The same call goes on where one ended.

    Raises ConfigError and PairError before any training, ComparisonError where none comes to its end or
    nothing can be written; leaves with exit code 130 where it is told to stop.
    """
    if played is not None and not played.is_dir():
        raise ConfigError(f"no folder {played}; it is to hold recordings <take>-<system>.wav")
    grid = read_grid(grid_file)
    refuse_fixed(words)
    trainings = {cell: resolved(cell, grid.minutes) for cell in cells(grid, tuple(words))}
    for cell, config in trainings.items():
        check_begun(cell, config, out)
        check_cost(cell, config)
    prepare("cpu", None)
    try:
        with _alone(out):
            _compare(grid, trainings, out, played)
    except OSError as error:
        raise ComparisonError(f"{error}; the same command goes on with {out} once that is mended") from error
    except KeyboardInterrupt:
        print(STOPPED)
        sys.exit(INTERRUPTED)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While no other comparison works in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "lock")  # until this process ends, however it ends
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"another comparison works in {out}. Wait for it, or name another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _compare(grid: Grid, trainings: Mapping[Cell, Config], out: Path, played: Path | None) -> None:
    tests = _tests(trainings)
    rows = [row for device, test in tests.items() for row in _without_training(device, test, played)]
    if played is not None and not any(row["system"].startswith(_said(played, "")) for row in rows):
        raise ConfigError(f"{played} has no recording of a take, such as {_example(tests)}-<system>.wav")
    found = {cell: row for cell in trainings if (row := finished_row(out / CELLS / cell.name))}
    written, failed = write_tables(out, grid, [*rows, *found.values()]), 0
    for number, (cell, config) in enumerate(trainings.items(), 1):
        tell(f"{number}/{len(trainings)} {cell.name}: ", end="")
        row = found[cell] = found.get(cell) or _row(cell, config, out, tests[cell.device])
        failed += "failure" in row
        tell(row.get("failure") or f"ESR {row['esr_db']:.1f} dB, MR-STFT {row['mr_stft']:.2f}")
        in_order = [found[other] for other in trainings if other in found]
        written = write_tables(out, grid, [*rows, *in_order])
    written += write_figures(out, list(trainings), tests)
    print(f"written: {', '.join(map(str, written))}")
    if failed == len(trainings):
        raise ComparisonError(f"no training came to its end; {out / CELLS}/*/*/*/{LOG} say why")
    if failed:
        print(f"{failed} of {len(trainings)} trainings failed; the same command tries them again")


def _tests(trainings: Mapping[Cell, Config]) -> dict[str, Recordings]:
    """Every device's test recordings, which are the same for all of its systems."""
    firsts: dict[str, tuple[Cell, Config]] = {}
    for cell, config in trainings.items():
        first, known = firsts.setdefault(cell.device, (cell, config))
        others = [name for name in SAME if config["data"][name] != known["data"][name]]
        if others:
            names = ", ".join(f"data.{name}" for name in others)
            raise ConfigError(
                f"{cell.name} and {first.name} differ in {names}: a device's systems are trained and "
                "scored on the same recordings. Give it a device of its own."
            )
    return {device: _test(config) for device, (_, config) in firsts.items()}


def _test(config: Config) -> Recordings:
    data = recordings_of(config)
    if data.align == "auto":
        data.setup("fit")  # where the training's takes lie, the tests do
    return Recordings(data, "test")


def finished_row(folder: Path) -> Row | None:
    """The line of a cell's folder, where it was trained and scored before."""
    file = folder / ROW
    row: Row | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return row


def _row(cell: Cell, config: Config, out: Path, test: Recordings) -> Row:
    """A cell's line; KeyboardInterrupt where its training was told to stop."""
    about: Row = {"device": cell.device, "system": cell.system, "seed": cell.seed}
    trained, failure, told = train(cell, config, out)
    if told:
        raise KeyboardInterrupt
    if failure:
        return {**about, "failure": failure}
    try:
        row = {**about, **_scored(trained, test)}
    except KlannError as error:
        return {**about, "failure": str(error)}
    write_whole(out / CELLS / cell.name / ROW, json.dumps(row, indent=1))
    return row


def _scored(trained: Trained, test: Recordings) -> Row:
    checkpoint, cost = last_stage(trained.folder), spent(trained.folder)
    model = load_model(checkpoint)
    val = Recordings(recordings_of(trained.config, checkpoint), "val")
    on_val, outputs = val.scores(val.played(model)), test.played(model)
    for take, output in zip(test.takes, outputs, strict=True):
        write_audio(trained.folder / OUTPUTS / f"{take.name}.wav", output, test.sample_rate)
    known = {"val_esr_db": on_val.esr_db, "val_mr_stft": on_val.mr_stft}
    scores = as_row(cost_of(model, test.level()), test.scores(outputs))
    here = machine(torch.device("cpu"))
    place = {
        "machine": here.device,
        "torch": here.torch,
        "date": here.date,
        "load_average": here.load_average,
    }
    cut = {"cut": checkpoint.stem} if cost.pop("ran_out") else {}  # the stage that the clock ended
    return {**scores, **known, **cost, **cut, **place}


def _without_training(device: str, test: Recordings, played: Path | None) -> list[Row]:
    """What a device's systems stand beside."""
    rows = baseline_rows(device, test)
    if played is not None:
        others = test.elsewhere(played)
        rows += [untrained_row(device, _said(played, name), as_row(scores)) for name, scores in others]
    return rows


def _said(played: Path, system: str) -> str:
    """How a system is called whose outputs lie in the folder."""
    return f"{played.resolve().name}: {system}"


def _example(tests: Mapping[str, Recordings]) -> str:
    return next(iter(tests.values())).takes[0].name
