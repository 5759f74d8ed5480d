"""What a comparison leaves in its folder: tables in three forms, and the error as time goes by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from klann_lightning.comparison.grid import Cell, Grid
from klann_lightning.comparison.scoring import Recordings
from klann_lightning.comparison.tables import ERRORS, HEARD, Row, as_csv, latex, markdown
from klann_lightning.data.audio import read_audio
from klann_lightning.fidelity import esr_over_time, level_over_time
from klann_lightning.fitting import replacing, write_whole
from klann_lightning.measuring import machine
from klann_lightning.plots import esr_over_time_figure

OUTPUTS = "test"  # in a cell's folder: what its model makes of the test recordings
WINDOW_SECONDS = 0.1


def write_tables(out: Path, grid: Grid, rows: Sequence[Row]) -> None:
    """results.md, results.csv and results.tex."""
    here = machine(torch.device("cpu"))
    seeds = f"seed {grid.seeds[0]}" if len(grid.seeds) == 1 else f"{len(grid.seeds)} seeds"
    parts = [
        f"{grid.minutes:g} minutes of training each at most, {seeds}; {here.device}, {here.threads} threads, "
        f"torch {here.torch}, {here.date}.",
    ]
    for device in grid.devices:
        for title, columns in ((device, ERRORS), (f"{device}: what is heard", HEARD)):
            parts += [f"### {title}", markdown(rows, device, columns)]
    write_whole(out / "results.md", "\n\n".join(parts) + "\n")
    write_whole(out / "results.csv", as_csv(rows))
    write_whole(out / "results.tex", latex(rows, list(grid.devices), ERRORS))


def write_figures(out: Path, cells: Sequence[Cell], tests: Mapping[str, Recordings]) -> None:
    """<device>-esr.png: the error in a device's first test recording as time goes by, of the first seed."""
    for device, test in tests.items():
        take = test.takes[0]
        target = take.target[test.context :]
        lines: dict[str, np.ndarray] = {}
        for cell in cells:
            played = out / "cells" / cell.name / OUTPUTS / f"{take.name}.wav"
            if cell.device == device and cell.system not in lines and played.is_file():
                output = read_audio(played)[test.context :]
                lines[cell.system] = esr_over_time(output, target, test.sample_rate, WINDOW_SECONDS)
        if lines:
            level_db = level_over_time(target, test.sample_rate, WINDOW_SECONDS)
            times_s = (np.arange(len(level_db)) + 0.5) * WINDOW_SECONDS + test.context / test.sample_rate
            figure = esr_over_time_figure(times_s, lines, level_db)
            with replacing(out / f"{device.replace(' ', '_')}-esr.png") as aside:
                figure.savefig(aside, format="png")
