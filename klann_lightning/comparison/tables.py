"""A comparison's results as Markdown, CSV and LaTeX."""

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]  # one training, or a line that needs none: device, system, seed, and what is known


class Column(NamedTuple):
    """How a value is shown."""

    name: str  # in the rows
    title: str
    show: Callable[[float], str]


def _decimals(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{count}f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _million(value: float) -> str:
    return f"{value / 1e6:.1f}"


def _times(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


ERRORS = [
    Column("parameters", "parameters", _whole),
    Column("multiply_adds", "multiply-adds a sample", _whole),
    Column("look_ahead", "look-ahead, samples", _whole),
    Column("val_esr_db", "val ESR dB", _decimals(1)),
    Column("esr_db", "ESR dB", _decimals(1)),
    Column("mr_stft", "MR-STFT", _decimals(2)),
    Column("mr_stft_auraloss", "MR-STFT, auraloss", _decimals(2)),
    Column("l1", "L1", _decimals(4)),
    Column("seconds", "training s", _whole),
    Column("samples", "million samples", _million),
    Column("real_time", "times real time", _times),
]
HEARD = [
    Column("log_spectral_distance_db", "log-spectral distance dB", _decimals(1)),
    Column("loudness_error_lu", "loudness LU", _decimals(2)),
    Column("crest_error_db", "crest factor dB", _decimals(2)),
    Column("envelope_error_db", "envelope dB", _decimals(1)),
    Column("aliasing_db", "aliasing dB", _whole),
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

    >>> cell_text([{"esr_db": -15.0}, {"esr_db": -17.0}], Column("esr_db", "ESR dB", _decimals(1)))
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


def markdown(rows: Sequence[Row], device: str, columns: Sequence[Column]) -> str:
    """One device's table; what failed says why instead of numbers."""
    shown = _known(rows, device, columns)
    lines = [_line(["", *(column.title for column in shown)]), _line(["---", *["---:"] * len(shown)])]
    for system, own in systems_of(rows, device).items():
        texts = [cell_text(own, column) for column in shown]
        failures = [str(row["failure"]) for row in own if row.get("failure")]
        if any(texts) or failures:
            name = " ".join([system, *(f"({why})" for why in failures)])
            lines.append(_line([name.replace("|", "/"), *texts]))
    return "\n".join(lines)


def latex(rows: Sequence[Row], devices: Sequence[str], columns: Sequence[Column]) -> str:
    """All devices' tables as one tabular of the package booktabs."""
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
            if any(texts):
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


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(_escaped(text) for text in texts) + r" \\"


def _escaped(text: str) -> str:
    r"""With what LaTeX would take for its own written out.

    >>> _escaped("50 % of -16.0 ± 1.4")
    '50 \\% of $-$16.0 $\\pm$ 1.4'
    """
    for sign in "&%$#_{}":
        text = text.replace(sign, rf"\{sign}")
    words = text.replace("±", r"$\pm$").split(" ")
    return " ".join(f"$-${word[1:]}" if word[:1] == "-" and len(word) > 1 else word for word in words)
