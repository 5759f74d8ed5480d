"""What a comparison leaves in its folder: tables in three forms, and the error as time goes by."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from klann_lightning.comparison.grid import Cell, Grid, file_name
from klann_lightning.comparison.scoring import Recordings
from klann_lightning.comparison.tables import ERRORS, HEARD, Row, as_csv, as_text, latex, markdown
from klann_lightning.comparison.training import CELLS
from klann_lightning.data.audio import read_audio
from klann_lightning.fidelity import esr_over_time, level_over_time
from klann_lightning.files import replacing, write_whole
from klann_lightning.plots import esr_over_time_figure

OUTPUTS = "test"  # in a cell's folder: what its model makes of the test recordings
WINDOW_SECONDS = 0.1
WINDOWS = 100  # that a figure has room for: those of longer recordings are longer


def write_tables(out: Path, grid: Grid, rows: Sequence[Row]) -> list[Path]:
    """results.md, results.csv and results.tex."""
    several = f"mean ± standard deviation of {len(grid.seeds)} seeds"
    seeds = f"seed {grid.seeds[0]}" if len(grid.seeds) == 1 else several
    parts = [f"{grid.minutes:g} minutes of training each at most, {seeds}. {machines(rows)}".strip()]
    for device in grid.devices:
        for title, columns in ((device, ERRORS), (f"{device}: what is heard", HEARD)):
            parts += [f"### {as_text(title)}", markdown(rows, device, columns)]
    texts = {
        "results.md": "\n\n".join(parts) + "\n",
        "results.csv": as_csv(rows),
        "results.tex": latex(rows, list(grid.devices), ERRORS),
    }
    for name, text in texts.items():
        write_whole(out / name, text)
    return [out / name for name in texts]


def machines(rows: Iterable[Row]) -> str:
    """Every machine that has trained and scored rows, with the first and the last day.

    >>> row = {"machine": "EPYC", "accelerator": "cpu", "threads": 2, "torch": "2.14.1"}
    >>> machines([{**row, "date": "2026-11-24T10:00:00+00:00"}, {**row, "date": "2026-11-25T10:00:00+00:00"}])
    'EPYC, 2 threads, torch 2.14.1, 2026-11-24 to 2026-11-25.'
    """
    days: dict[str, list[str]] = {}
    for row in rows:
        if "machine" in row:
            kind = row.get("accelerator", "cpu")
            other = "" if kind == "cpu" else f" with {kind}"
            threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
            place = f"{row['machine']}{other}, {threads}, torch {row['torch']}"
            days.setdefault(place, []).append(row["date"].partition("T")[0])
    lines = (f"{place}, {' to '.join(dict.fromkeys((min(when), max(when))))}" for place, when in days.items())
    return "; ".join(lines) + "." * bool(days)


def write_figures(out: Path, cells: Sequence[Cell], tests: Mapping[str, Recordings]) -> list[Path]:
    """<device>-esr.png: the error in a device's first test recording as time goes by, of the first seed."""
    written = []
    for device, test in tests.items():
        take = test.takes[0]
        target = take.target[test.context :]
        window_s = max(WINDOW_SECONDS, len(target) / test.sample_rate / WINDOWS)
        lines: dict[str, np.ndarray] = {}
        for cell in cells:
            played = out / CELLS / cell.name / OUTPUTS / f"{take.name}.wav"
            if cell.device == device and cell.system not in lines and played.is_file():
                output = read_audio(played)[test.context :]
                lines[cell.system] = esr_over_time(output, target, test.sample_rate, window_s)
        if lines:
            level_db = level_over_time(target, test.sample_rate, window_s)
            times_s = (np.arange(len(level_db)) + 0.5) * window_s + test.context / test.sample_rate
            figure = esr_over_time_figure(times_s, lines, level_db, f"{device}: {take.name}")
            written.append(out / f"{file_name(device)}-esr.png")
            with replacing(written[-1]) as aside:
                figure.savefig(aside, format="png")
    return written
