"""How what a benchmark has found is shown: as a table for people, in Markdown, as JSON for programs."""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from klann_lightning.errors import ConfigError
from klann_lightning.measuring import Figure
from klann_lightning.speed_figures import LEAST_BYTES, Report

WIDTH = 110  # columns
OPENING, CLOSING = "<!-- speed -->", "<!-- /speed -->"


class Table(NamedTuple):
    """Rows of cells under headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(report: Report) -> str:
    """For a terminal, at most 110 columns wide."""
    return "\n\n".join(["\n".join(_introduction(report)), *map(_aligned, _tables(report))])


def as_markdown(report: Report) -> str:
    """The same in Markdown."""
    return "\n\n".join([*_introduction(report), *map(_piped, _tables(report))])


def as_json(report: Report) -> str:
    """Every number of the report, by the names of its fields."""
    return json.dumps(asdict(report), indent=2, allow_nan=False) + "\n"


def refuse_unwritable(path: Path) -> None:
    """Make the file's folder, and leave a file that is there as it is; or ConfigError."""
    existed = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    if not existed:
        path.unlink()


def between_markers(path: Path, content: str) -> str:
    """The file's text with `content` in place of what stands between the two marker lines; or ConfigError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if [line for line in lines if line in (OPENING, CLOSING)] != [OPENING, CLOSING]:
        raise ConfigError(
            f"{path} has no place for the table: give it the lines {OPENING} and {CLOSING}, once each"
        )
    before, after = lines[: lines.index(OPENING) + 1], lines[lines.index(CLOSING) :]
    return "\n".join([*before, "", content, "", *after]) + "\n"


def _introduction(report: Report) -> list[str]:
    here, sizes = report.machine, report.sizes
    threads = f"{here.threads} thread" + "s" * (here.threads > 1)
    load = "" if here.load_average is None else f", load average {here.load_average} before"
    fewer = f"; of slow paper steps at least {sizes.paper_runs}" if sizes.runs > sizes.paper_runs else ""
    lines = [
        f"{here.device}, {threads}, torch {here.torch}, {here.date}{load}. Medians (quartiles) "
        f"over runs of at least {sizes.run_seconds} s after a warm-up (of the paper's recipe: single steps), "
        f"{sizes.runs} of each{fewer}.",
        "Training: thousands of counted samples a second (k/s) of forward, backward and optimizer step, the "
        f"two recipes in turn. Scan: {sizes.batch} x {sizes.frames} samples, all counted. Paper: "
        f"{sizes.paper_batch} x {sizes.paper_frames}, the last {sizes.paper_counted} of each row counted. "
        f"Bandwidth: the scan's share of {_short(report.best / 1e6)} million samples a second, which is what "
        f"main memory would allow: it copies {_spread(report.copying, 1e-9)} GB/s, and a step moves at least "
        f"{LEAST_BYTES} bytes a sample.",
        "Memory: of the tensors that a step makes, beside its input, its target and the model.",
        f"Playing: times real time, {sizes.playing:g} s of one channel in one call; block by block, the "
        "median latency in us / its 99th percentile, and times real time.",
    ]
    if any(system.synchronises is not None for system in report.systems):
        waits = [system.name for system in report.systems if system.synchronises]
        lines.append(f"Scan steps that wait for the device: {', '.join(waits) or 'none'}.")
    lines += _about_runtime(report)
    return [textwrap.fill(line, WIDTH) for line in lines]


def _about_runtime(report: Report) -> list[str]:
    runtime, sizes = report.runtime, report.sizes
    missing = [f"C++ runtime: {runtime.missing}"] if runtime.missing else []
    if not runtime.speeds:
        return missing
    return [
        f"C++ runtime: one channel in blocks of {sizes.runtime_block} samples, float, one core, compiled by "
        f"{runtime.compiler}, -O3; for any processor of its kind it takes the widest vectors that it finds. "
        "The median latency of a block in us / the 99.9th percentile of all blocks as they came, times real "
        f"time, worst block over median. For the latter {sizes.runtime_blocks} blocks (noise, a full-scale "
        "square wave, noise that fades out through the denormal numbers, silence) are played "
        f"{sizes.runtime_repeats} times over from the same state, and each counts with the quickest of its "
        "times: what is slow every time shows, what interrupts the program now and then does not.",
        *missing,
    ]


def _tables(report: Report) -> list[Table]:
    tables = [_training(report), _memory(report), _playing(report)]
    if report.runtime.speeds:
        tables.append(_runtime(report))
    return tables + [_growth(report)] * bool(report.growth)


def _training(report: Report) -> Table:
    rows = [
        [
            system.name,
            str(system.parameters),
            _spread(system.scan, 1e-3),
            f"{100 * system.part_of_best:.1f} %",
            _spread(system.paper, 1e-3),
            _spread(system.ratio),
        ]
        for system in report.systems
    ]
    return Table(["training", "parameters", "scan k/s", "bandwidth", "paper k/s", "scan / paper"], rows)


def _memory(report: Report) -> Table:
    rows = []
    for system in report.systems:
        cells = [
            cell
            for part in system.memory
            for cell in (_short(part.bytes / 1e6), _short(part.bytes_per_value))
        ]
        paper = "-" if system.paper_memory is None else _short(system.paper_memory / 1e6)
        rows.append([system.name, *cells, paper])
    headings = [cell for size in ("T", "2T") for cell in (f"scan {size} MB", "B/sample/channel")]
    return Table(["peak memory of a step", *headings, "paper MB"], rows)


def _playing(report: Report) -> Table:
    rows = [
        [
            system.name,
            f"{_spread(system.playing)}x",
            *(
                f"{_short(block.latency_us.median)} / {_short(block.p99_us)}, {_short(block.real_time)}x"
                for block in system.blocks
            ),
        ]
        for system in report.systems
    ]
    blocks = [f"{samples} samples" for samples in report.sizes.blocks]
    return Table(["playing", "offline", *blocks], rows)


def _runtime(report: Report) -> Table:
    cells = {
        (one.name, one.built): f"{_short(one.latency_us.median)} / {_short(one.p999_us)}, "
        f"{_short(one.real_time)}x, {one.worst:.2f}"
        for one in report.runtime.speeds
    }
    names, builds = (list(dict.fromkeys(column)) for column in zip(*cells, strict=True))
    rows = [[name, *(cells[name, built] for built in builds)] for name in names]
    return Table(["C++ runtime, built for", *builds], rows)


def _growth(report: Report) -> Table:
    rows = [
        [
            f"{row.dimension} = {row.value}",
            _spread(row.scan, 1e-3),
            _short(row.memory.bytes / 1e6),
            _short(row.memory.bytes_per_value),
            f"{_spread(row.playing)}x",
        ]
        for row in report.growth
    ]
    return Table(["small_parallel with", "scan k/s", "scan MB", "B/sample/channel", "playing B x T"], rows)


def _aligned(table: Table) -> str:
    columns = list(zip(table.headings, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    first, *others = widths
    return "\n".join(
        "  ".join(
            [f"{name:<{first}}", *(f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))]
        )
        for name, *cells in (table.headings, *table.rows)
    )


def _piped(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.headings, rule, *table.rows))


def _spread(figure: Figure | None, unit: float = 1.0) -> str:
    if figure is None:
        return "-"
    low, median, high = (_short(value * unit) for value in (figure.low, figure.median, figure.high))
    return f"{median} ({low}..{high})"


def _short(value: float) -> str:
    """Three digits that count, or all before the point.

    >>> _short(0.012345), _short(12.345), _short(12345.6)
    ('0.0123', '12.3', '12346')
    """
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{max(0, digits)}f}"
