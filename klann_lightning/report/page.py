"""Writes a report's page: HTML from the templates, the scripts and styles beside it, Plotly's library.

The page opens from disk and asks nothing of any network. Whatever is shown is escaped by the templates, and
by the scripts, which only ever set text.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from klann_lightning.files import write_whole
from klann_lightning.report.assets import write_runtime
from klann_lightning.report.contents import Page, Row, Table, Take, Version

TEMPLATES = Path(__file__).parent / "templates"
BESIDE = "page"  # the folder of what all pages have in common
MODELLED = ("model", "extra")  # kinds of versions that are compared with the target
PLAYING = ["headers", "wav", "worklet", "live", "own"]
LISTENING = ["engine", "deck", "listen", "keys", "track", "blind", "abx", "rating"]
SENTENCE = 24  # letters: what is longer is no number
# A page on disk has no origin that 'self' would name in every browser. Plotly sets styles in the page.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:; base-uri 'none'; form-action 'none'"
)
SCRIPTS = "'self' file:"
# What plays a visitor's file is WebAssembly in a worklet, whose text comes as a blob; but from disk Chromium
# takes only data for a worklet. On a web host policy.js forbids these again.
PLAYING_SCRIPTS = f"{SCRIPTS} blob: data: 'wasm-unsafe-eval'"


def write_page(page: Page, out: Path) -> Path:
    """`out/index.html` and `out/page/`; what lies in `out` beside them is written before. -> index.html."""
    parts = [*(LISTENING if page.takes else []), *(PLAYING if page.models else [])]
    scripts = [f"{name}.js" for name in ["core", "charts", *parts, "print"]]
    early = ["policy.js", "theme.js"] if page.models else ["theme.js"]
    for name in ["style.css", "icon.svg", *early, *scripts]:
        write_whole(out / BESIDE / name, (TEMPLATES / name).read_text(encoding="utf-8"))
    write_whole(out / BESIDE / "plotly.min.js", get_plotlyjs())
    if page.models:
        write_runtime(out / BESIDE / "klann.wasm.js")
    index = out / "index.html"
    write_whole(index, _render(page, early, scripts))
    return index


def _render(page: Page, early: list[str], scripts: list[str]) -> str:
    environment = Environment(
        loader=PackageLoader("klann_lightning.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["wordy"] = _wordy
    return environment.get_template("page.html").render(
        vars(page),
        early=early,
        scripts=scripts,
        policy=POLICY.format(scripts=PLAYING_SCRIPTS if page.models else SCRIPTS),
        sections=list(_sections(page)),
        lead=_lead(page),
        groups=_groups(page),
        spectral=any(version.mr_stft is not None for take in page.takes for version in take.versions),
        content=_content(page),
    )


def _sections(page: Page) -> Iterator[tuple[str, str]]:
    if page.takes:
        yield "listen", "Listen"
    if page.models:
        yield "own", "Play your own"
    if page.takes:
        yield "see", "See"
    if page.readings:
        yield "read", "Read the model"
    if page.tables:
        yield "numbers", "Numbers"
    yield "making", "Making"


def _lead(page: Page) -> str:
    kinds = {version.key: version.kind for take in page.takes for version in take.versions}
    systems = sum(any(kinds[key] in MODELLED for key in row.cells.values()) for row in page.rows)
    return f"{_count(systems, 'system')} on {_count(len(page.takes), 'recording')}." if page.takes else ""


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _groups(page: Page) -> list[dict[str, Any]]:
    """The listening table: rows that follow each other in one group, their cells in the takes' order."""
    best = {take.key: _best(take) for take in page.takes}
    return [
        {
            "name": name,
            "rows": [
                {
                    "label": row.label,
                    "note": row.note,
                    "cells": [_cell(row, t, best[t.key]) for t in page.takes],
                }
                for row in rows
            ],
        }
        for name, rows in groupby(page.rows, lambda row: row.group)
    ]


def _cell(row: Row, take: Take, best: float | None) -> dict[str, Any] | None:
    key = row.cells.get(take.key)
    if key is None:
        return None
    version = next(one for one in take.versions if one.key == key)
    return {
        "key": key,
        "label": version.label,
        "take": take,
        "numbers": _numbers(version),
        "best": version.esr_db is not None and version.esr_db == best,
    }


def _best(take: Take) -> float | None:
    """The lowest ESR, in dB, where there are several to choose from."""
    errors = [v.esr_db for v in take.versions if v.kind in MODELLED and v.esr_db is not None]
    known = [error for error in errors if not math.isnan(error)]
    return min(known) if len(known) > 1 else None


def _numbers(version: Version) -> str:
    esr = [] if version.esr_db is None else [f"{_minus(f'{version.esr_db:.1f}')} dB"]
    spectral = [] if version.mr_stft is None else [f"{version.mr_stft:.3f}"]
    return " · ".join(esr + spectral)


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}").replace("inf", "∞")


def _wordy(table: Table) -> set[int]:
    """The columns of sentences, which stand to the left; numbers stand to the right."""
    return {column for row in table.rows for column, text in enumerate(row) if len(text) > SENTENCE}


def _content(page: Page) -> dict[str, Any]:
    """What the scripts need to know, as JSON holds it: the numbers of the table are not among it."""
    takes = [asdict(take) for take in page.takes]
    for version in (version for take in takes for version in take["versions"]):
        del version["esr_db"], version["mr_stft"]
        if not math.isfinite(version["match_db"]):  # of silence
            version["match_db"] = 0.0
    models = [asdict(model) for model in page.models]
    return {"title": page.title, "made": page.made, "takes": takes, "models": models}
