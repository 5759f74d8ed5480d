"""`compare`: trains every cell of a grid that is not trained yet, scores it, and writes the tables."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klann_lightning.comparison.grid import Cell, cells, read_grid
from klann_lightning.comparison.report import OUTPUTS, write_figures, write_tables
from klann_lightning.comparison.scoring import Recordings, as_row, cost_of
from klann_lightning.comparison.tables import Row
from klann_lightning.comparison.training import Trained, last_stage, resolved, spent, train
from klann_lightning.data.audio import write_audio
from klann_lightning.errors import ConfigError, KlannError
from klann_lightning.experiment import recordings_of
from klann_lightning.fitting import INTERRUPTED, write_whole
from klann_lightning.measuring import prepare
from klann_lightning.training.module import load_model

ROW = "row.json"  # a cell's line, in its folder


class ComparisonError(KlannError):
    """A comparison that has no result."""


def run(grid_file: Path, out: Path, words: Sequence[str], played: Path | None) -> None:
    """Train, score and write; `words` are fit's, for every cell. The same call goes on where one ended."""
    if played is not None and not played.is_dir():
        raise ConfigError(f"no folder {played}; it is to hold recordings <take>-<system>.wav")
    grid = read_grid(grid_file)
    every = list(cells(grid, tuple(words)))
    configs = [resolved(cell, grid.minutes) for cell in every]
    prepare("cpu", None)
    rows: list[Row] = []
    tests: dict[str, Recordings] = {}
    for cell, config in zip(every, configs, strict=True):
        if cell.device not in tests:
            tests[cell.device] = Recordings(recordings_of(config), "test")
            rows += _without_training(cell.device, tests[cell.device], played)
    for number, (cell, config) in enumerate(zip(every, configs, strict=True), 1):
        print(f"{number}/{len(every)} {cell.name}: ", end="", flush=True)
        row, told = _row(cell, config, out, tests[cell.device])
        if told:
            print("stopped; the same command goes on with it")
            sys.exit(INTERRUPTED)
        rows.append(row)
        print(row.get("failure") or f"ESR {row['esr_db']:.1f} dB, MR-STFT {row['mr_stft']:.2f}", flush=True)
        write_tables(out, grid, rows)
    write_figures(out, every, tests)
    if all("failure" in row for row in rows[-len(every) :]):
        raise ComparisonError(f"no training of {grid_file} came to its end; {out} says why")


def _row(cell: Cell, config: dict[str, Any], out: Path, test: Recordings) -> tuple[Row, bool]:
    """A cell's line, and whether this process was told to stop."""
    about: Row = {"device": cell.device, "system": cell.system, "seed": cell.seed}
    file = out / "cells" / cell.name / ROW
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8")), False
    trained, failure, told = train(cell, config, out)
    if told:
        return about, True
    if failure:
        return {**about, "failure": failure}, False
    row = {**about, **_scored(trained, test)}
    write_whole(file, json.dumps(row, indent=1))
    return row, False


def _scored(trained: Trained, test: Recordings) -> Row:
    model = load_model(last_stage(trained.folder))
    val = Recordings(recordings_of(trained.config), "val")
    on_val, outputs = val.scores(val.played(model)), test.played(model)
    for take, output in zip(test.takes, outputs, strict=True):
        write_audio(trained.folder / OUTPUTS / f"{take.name}.wav", output, test.sample_rate)
    known = {"val_esr_db": on_val.esr_db, "val_mr_stft": on_val.mr_stft}
    scores = as_row(cost_of(model, test.level()), test.scores(outputs))
    return {**scores, **known, **spent(trained.folder)}


def _without_training(device: str, test: Recordings, played: Path | None) -> list[Row]:
    """What a device's systems stand beside."""
    lines = [(name, as_row(scores)) for name, scores in test.without_a_model()]
    lines.append(("noise floor of the target", {"esr_db": test.noise_floor_db()}))
    if played is not None:
        found = test.elsewhere(played)
        lines += [(f"{played.name}: {name}", as_row(scores)) for name, scores in found]
    return [{"device": device, "system": name, "seed": None, **scores} for name, scores in lines]
