"""The tables: every form holds the same numbers, whatever they and the names are."""

import csv
import io
import math
import re

import pytest

from klann_lightning.comparison.report import machines
from klann_lightning.comparison.tables import ERRORS, HEARD, Column, as_csv, cell_text, latex, markdown

ESR = Column("esr_db", "ESR dB", 1)
NAMES = r"50 % & more_{x} #1 $2 ~ ^ \x <y>"
ROWS = [
    {"device": "fuzz", "system": "gain", "seed": None, "esr_db": -1.25, "l1": 0.0123456789012345},
    {"device": "fuzz", "system": "floor", "seed": None, "esr_db": -math.inf},
    {"device": "fuzz", "system": NAMES, "seed": 0, "esr_db": -20.0, "l1": 1 / 3, "samples": 12_345_678},
    {"device": "fuzz", "system": NAMES, "seed": 1, "esr_db": -24.0, "l1": 1 / 7, "samples": 12_345_678},
    {"device": "fuzz", "system": "a|b", "seed": 0, "failure": "diverged: val/loss\nis nan"},
    {"device": "fuzz", "system": "half", "seed": 0, "failure": "killed"},
    {"device": "fuzz", "system": "half", "seed": 1, "esr_db": math.nan},
    {"device": "comp", "system": "gain", "seed": None, "esr_db": -3.0, "l1": 0.1},
]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([None], ""),
        ([-20.04], "-20.0"),
        ([-20.0, -20.0], "-20.0"),
        ([-20.0, -24.0], "-22.0 ± 2.8"),  # sqrt(8): of a sample, not of a population
        ([-20.0, None], "-20.0"),
        ([-math.inf], "-inf"),
        ([-20.0, math.nan], "-20.0, nan"),
    ],
)
def test_a_cell_is_mean_and_deviation(values, text):
    assert cell_text([{"esr_db": value} for value in values], ESR) == text


def test_units_hold_for_deviations_too():
    rows = [{"l1": 1e-4}, {"l1": 3e-4}]
    assert cell_text(rows, Column("l1", "1000 x L1", 3, unit=1e-3)) == "0.200 ± 0.141"


def test_markdown_columns_align():
    lines = markdown(ROWS, "fuzz", ERRORS).splitlines()
    bars = [[place.start() for place in re.finditer(r"(?<!\\)\|", line)] for line in lines]
    assert len(lines) == 2 + 5
    assert all(line == bars[0] for line in bars)
    assert re.fullmatch(r"\| -+ \|( -+: \|)+", lines[1])


def test_markdown_says_why_something_failed():
    text = markdown(ROWS, "fuzz", ERRORS)
    assert r"| a\|b (diverged: val/loss is nan)" in text
    assert re.search(r"\| half \(killed\) .*\| +nan \|", text)
    assert re.search(r"\| floor .*\| +-inf \|", text)
    assert "look-ahead" not in text  # nobody has it


def test_a_device_shows_its_own_rows_and_columns_alone():
    lines = markdown(ROWS, "comp", ERRORS).splitlines()
    assert len(lines) == 3
    assert "million samples" not in lines[0]
    assert markdown(ROWS, "comp", HEARD).splitlines()[2:] == []


def test_every_line_of_latex_has_as_many_cells():
    text = latex(ROWS, ["fuzz", "comp"], ERRORS)
    columns = len(re.fullmatch(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), text.splitlines()[0])[1])
    lines = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in lines] == [columns - 1] * len(lines)
    assert len(lines) == 1 + 5 + 1
    assert text.count(rf"\multicolumn{{{columns}}}") == 2


def test_latex_writes_out_its_own_signs():
    text = latex(ROWS, ["fuzz"], [ESR])
    assert r"50 \% \& more\_\{x\} \#1 \$2 " in text
    assert r"\textasciitilde" in text
    assert r"\textbackslash x \textless y\textgreater" in text
    assert r"$-$22.0 $\pm$ 2.8 \\" in text
    assert r"floor & $-\infty$ \\" in text
    assert r"a\textbar b (1 of 1 failed) &  \\" in text
    assert "half (1 of 2 failed) & nan" in text
    assert not re.search(r"[±~^<>|]", text)


def test_csv_holds_every_number_unrounded():
    read = list(csv.DictReader(io.StringIO(as_csv(ROWS), newline="")))
    assert len(read) == len(ROWS)
    for row, line in zip(ROWS, read, strict=True):
        for name, text in line.items():
            value = row.get(name)
            if isinstance(value, float):
                assert repr(float(text)) == repr(value)
            else:
                assert text == ("" if value is None else str(value))


def test_machines_are_named_each_with_its_days():
    here = {"machine": "A", "accelerator": "cpu", "threads": 1, "torch": "2"}
    there = {"machine": "B", "accelerator": "cuda", "threads": 8, "torch": "3"}
    days = ["2026-01-03T01:00:00+00:00", "2026-01-01T23:00:00+00:00", "2026-01-02T00:00:00+00:00"]
    rows = [{"system": "gain"}, *({**here, "date": day} for day in days), {**there, "date": days[1]}]
    assert machines(rows) == (
        "A, 1 thread, torch 2, 2026-01-01 to 2026-01-03; B with cuda, 8 threads, torch 3, 2026-01-01."
    )
    assert machines([{"system": "gain"}]) == ""


def test_markdown_says_how_many_seeds_failed_and_where_time_ran_out():
    rows = [
        {"device": "fuzz", "system": "a", "seed": 0, "esr_db": -20.0, "cut": "stage-2-polish"},
        {"device": "fuzz", "system": "a", "seed": 1, "failure": "killed"},
    ]
    text = markdown(rows, "fuzz", ERRORS)
    assert "| a (killed) (time ran out in stage-2-polish) (1 of 2 seeds failed) |" in text


def test_names_that_are_tags_stay_text():
    name = "<script>alert(1)</script> [x](https://x) `*a*` x|y \\\n&lt;"
    rows = [{"device": name, "system": name, "seed": 0, "esr_db": -20.0}]
    text = markdown(rows, name, [ESR])
    assert text.count("\n") == 2
    own = re.fullmatch(r"\| (.*) \| +-20\.0 \|", text.splitlines()[2])[1]
    unmarked = re.sub(r"\\[^\w\s]", "", own)
    assert not re.search(r"[\\`*\[\]<&|]", unmarked)
    assert re.sub(r"\\([^\w\s])", r"\1", own) == " ".join(name.split())
    assert r"\textless script\textgreater alert(1)" in latex(rows, [name], [ESR])
