"""A comparison's results as Markdown, CSV and LaTeX."""

import csv
import io
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]  # one training, or a line that needs none: device, system, seed, and what is known


class Column(NamedTuple):
    """How a value is shown."""

    name: str  # in the rows
    title: str
    decimals: int
    unit: float = 1.0  # what is shown is the value divided by it

    def show(self, value: float) -> str:
        return f"{value / self.unit:.{self.decimals}f}"


ERRORS = [
    Column("parameters", "parameters", 0),
    Column("multiply_adds", "multiply-adds a sample", 0),
    Column("look_ahead", "look-ahead, samples", 0),
    Column("val_esr_db", "val ESR dB", 1),
    Column("esr_db", "ESR dB", 1),
    Column("mr_stft", "MR-STFT", 2),
    Column("mr_stft_auraloss", "MR-STFT, auraloss", 2),
    Column("l1", "1000 x L1", 3, unit=1e-3),
    Column("seconds", "training s", 0),
    Column("samples", "million samples", 1, unit=1e6),
    Column("real_time", "times real time", 1),
]
HEARD = [
    Column("look_ahead", "look-ahead, samples", 0),
    Column("log_spectral_distance_db", "log-spectral distance dB", 2),
    Column("loudness_error_lu", "loudness LU", 2),
    Column("crest_error_db", "crest factor dB", 2),
    Column("envelope_error_db", "envelope dB", 2),
    Column("aliasing_db", "aliasing dB", 0),
]


def systems_of(rows: Iterable[Row], device: str) -> dict[str, list[Row]]:
    """A device's rows by system, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["device"] == device:
            found.setdefault(row["system"], []).append(row)
    return found


def cell_text(rows: Sequence[Row], column: Column) -> str:
    """A value over seeds: one as it is, several as their mean and standard deviation; nothing if unknown.

    >>> cell_text([{"esr_db": -15.0}, {"esr_db": -17.0}], Column("esr_db", "ESR dB", 1))
    '-16.0 ± 1.4'
    """
    values = [float(row[column.name]) for row in rows if row.get(column.name) is not None]
    if not values:
        return ""
    if not all(map(math.isfinite, values)):
        return ", ".join(column.show(value) for value in dict.fromkeys(values))
    mean = column.show(statistics.mean(values))
    if len(set(values)) == 1:
        return mean
    return f"{mean} ± {column.show(statistics.stdev(values))}"


def lines_of(rows: Sequence[Row], device: str, columns: Sequence[Column]) -> list[list[str]]:
    """One device's table: what is known of each system; titles first, names of the systems in front."""
    shown = _known(rows, device, columns)
    lines = [["", *(column.title for column in shown)]]
    for system, own in systems_of(rows, device).items():
        texts = [cell_text(own, column) for column in shown]
        notes = _notes(own)
        if any(texts) or notes:
            lines.append([" ".join([system, *(f"({note})" for note in notes)]), *texts])
    return lines


def markdown(rows: Sequence[Row], device: str, columns: Sequence[Column]) -> str:
    """One device's table, also readable as it stands; what failed says why instead of numbers."""
    lines = [[as_text(name), *texts] for name, *texts in lines_of(rows, device, columns)]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[line[0].ljust(wide[0]), *map(str.rjust, line[1:], wide[1:])] for line in lines]
    rule = ["-" * max(3, wide[0]), *("-" * (width - 1) + ":" for width in wide[1:])]
    return "\n".join(f"| {' | '.join(texts)} |" for texts in [padded[0], rule, *padded[1:]])


def as_text(name: str) -> str:
    r"""With what Markdown would take for its own or for HTML marked as text, on one line.

    >>> as_text("<b> or a|b")
    '\\<b> or a\\|b'
    """
    return re.sub(r"([\\`*\[\]<&|])", r"\\\1", " ".join(name.split()))


def _notes(rows: Sequence[Row]) -> list[str]:
    """What is to be known of a system's trainings before its numbers are read."""
    failures = [str(row["failure"]) for row in rows if row.get("failure")]
    notes = [*failures, *(f"time ran out in {row['cut']}" for row in rows if row.get("cut"))]
    if 0 < len(failures) < len(rows):
        notes.append(f"{len(failures)} of {len(rows)} seeds failed")
    return list(dict.fromkeys(notes))


def latex(rows: Sequence[Row], devices: Sequence[str], columns: Sequence[Column]) -> str:
    """All devices' tables as one tabular of the package booktabs; how many of a line's seeds failed."""
    shown = [column for column in columns if any(row.get(column.name) is not None for row in rows)]
    lines = [rf"\begin{{tabular}}{{l{'r' * len(shown)}}}", r"\toprule"]
    lines.append(_latex_line(["", *(column.title for column in shown)]))
    for device in devices:
        lines += [
            r"\midrule",
            rf"\multicolumn{{{len(shown) + 1}}}{{l}}{{\emph{{{_escaped(device)}}}}} \\",
        ]
        for system, own in systems_of(rows, device).items():
            texts = [cell_text(own, column) for column in shown]
            if failed := sum("failure" in row for row in own):
                system += f" ({failed} of {len(own)} failed)"
            if any(texts) or failed:
                lines.append(_latex_line([system, *texts]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Every row with every value, unrounded."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *([row.get(name) for name in columns] for row in rows)])
    return text.getvalue()


def _known(rows: Sequence[Row], device: str, columns: Sequence[Column]) -> list[Column]:
    own = [row for row in rows if row["device"] == device]
    return [column for column in columns if any(row.get(column.name) is not None for row in own)]


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_escaped(text) for text in texts) + r" \\"


SIGNS = {
    "\\": r"\textbackslash ",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde ",
    "^": r"\textasciicircum ",
    "<": r"\textless ",
    ">": r"\textgreater ",
    "|": r"\textbar ",
    "±": r"$\pm$",
    "-inf": r"$-\infty$",
}


def _escaped(text: str) -> str:
    r"""With what LaTeX would take for its own written out.

    >>> _escaped("50 % of -16.0 ± 1.4")
    '50 \\% of $-$16.0 $\\pm$ 1.4'
    """
    for sign, written in SIGNS.items():
        text = text.replace(sign, written)
    return re.sub(r"(?<![^ ])-(?=\d)", "$-$", text)
