"""A study as one HTML file with interactive figures, which needs no network; and its front as a picture."""

import html
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization as charts
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from klann_lightning.files import replacing, write_whole
from klann_lightning.plots import front_figure
from klann_lightning.sweep.ledger import START
from klann_lightning.sweep.outcome import Row, completed, front_of, leaderboard
from klann_lightning.sweep.study import SIZES

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
td, th { padding: 2px 10px; text-align: right; white-space: nowrap } th { border-bottom: 1px solid #888 }
tr.front td { font-weight: bold } tr.named td { background: #fdf3dc } p.note { color: #666 }
div { overflow-x: auto }
"""
CLASS_HOME = re.compile(r"klann_lightning\.\w+\.\w+\.(?=[A-Z])")  # before a class
SHORT = ("model.model.init_args.", "model.model.", "data.train.init_args.", "data.train.", "model.")


def write_page(study: optuna.Study, names: Sequence[str], path: Path) -> None:
    """The report: front with the given configurations marked, history, slices, parallel coordinates,
    importance, and the leaderboard.
    """
    parts, script = [], True
    for heading, note, figure in _figures(_readable(study), names):
        drawn = figure.to_html(full_html=False, include_plotlyjs=script)
        parts.append(
            f"<h2>{html.escape(heading)}</h2><p class='note'>{html.escape(note)}</p><div>{drawn}</div>"
        )
        script = False
    title = html.escape(study.study_name)
    rows = _table(leaderboard(study))
    write_whole(
        path,
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{''.join(parts)}"
        f"<h2>Leaderboard</h2><p class='note'>Bold: on the front. Shaded: a configuration that the study was "
        f"given to start from.</p>{rows}</body></html>",
    )


def write_front(study: optuna.Study, names: Sequence[str], path: Path) -> bool:
    """The front of the first objective against size as a PNG; False where size is no objective."""
    sizes = [name for name in names if name in SIZES]
    trials = completed(study)
    if not sizes or names[0] in SIZES or not trials:
        return False
    front = front_of(study)

    def place(trial: FrozenTrial) -> tuple[float, float]:
        return trial.values[names.index(sizes[0])], trial.values[0]

    figure = front_figure(
        [place(trial) for trial in trials],
        _staircase([place(trial) for trial in front]),
        {trial.user_attrs[START]: place(trial) for trial in trials if START in trial.user_attrs},
        AXES[sizes[0]],
        AXES[names[0]],
        study.study_name,
    )
    with replacing(path) as aside:
        figure.savefig(aside, dpi=120)
    return True


AXES = {
    "cost": "multiply-adds per sample",
    "parameters": "parameters",
    "val/esr_db": "val ESR in dB",
    "val/mr_stft": "val MR-STFT",
}


def _staircase(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that are best in these two alone, smallest first."""
    kept: list[tuple[float, float]] = []
    for place in sorted(places):
        if not kept or place[1] < kept[-1][1]:
            kept.append(place)
    return kept


def _figures(study: optuna.Study, names: Sequence[str]) -> Iterator[tuple[str, str, go.Figure]]:
    """Heading, note and figure; those for which there are too few trials are left out."""
    if not completed(study):
        return
    if 2 <= len(names) <= 3:
        note = "Red: no other trial is better in every objective. Diamonds: what the study was given."
        yield from _drawn("Pareto front", note, lambda: _front(study, names))
    parameters = _common(study)
    for place, name in enumerate(names):
        options: dict[str, Any] = {
            "target": lambda trial, place=place: trial.values[place],
            "target_name": name,
        }
        for heading, draw in (
            ("History", lambda options=options: charts.plot_optimization_history(study, **options)),
            ("Slices", lambda options=options: charts.plot_slice(study, **options)),
            (
                "Parallel coordinates",
                lambda options=options: charts.plot_parallel_coordinate(study, params=parameters, **options),
            ),
            ("Importance", lambda options=options: charts.plot_param_importances(study, **options)),
        ):
            yield from _drawn(f"{heading}: {name}", "", draw)
    if len(names) == 1:
        yield from _drawn("Intermediate values", "", lambda: charts.plot_intermediate_values(study))


def _drawn(heading: str, note: str, draw: Callable[[], go.Figure]) -> Iterator[tuple[str, str, go.Figure]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few trials say little
            figure = draw()
    except (ValueError, RuntimeError):  # too few trials, or all alike
        return
    if figure.data:
        yield heading, note, figure.update_layout(title=None, margin={"t": 40})


def _front(study: optuna.Study, names: Sequence[str]) -> go.Figure:
    figure = charts.plot_pareto_front(study, target_names=list(names))
    named = [trial for trial in completed(study) if START in trial.user_attrs]
    marks: dict[str, Any] = {
        "mode": "markers+text",
        "text": [trial.user_attrs[START] for trial in named],
        "textposition": "top center",
        "marker": {"symbol": "diamond", "size": 9, "color": "#d60"},
        "name": "start",
        "showlegend": False,
    }
    values = list(zip(*(trial.values for trial in named), strict=True)) or [()] * len(names)
    if len(names) == 2:
        figure.add_scatter(x=values[0], y=values[1], **marks)
        if names[0] in SIZES:
            figure.update_xaxes(type="log")
        if names[1] in SIZES:
            figure.update_yaxes(type="log")
    else:
        figure.add_scatter3d(x=values[0], y=values[1], z=values[2], **marks)
    return figure.update_layout(height=620)


def _common(study: optuna.Study) -> list[str]:
    """Parameters that every finished trial has: lines through the others would break off."""
    return sorted(set.intersection(*(set(trial.params) for trial in completed(study))))


def _readable(study: optuna.Study) -> optuna.Study:
    """A copy in memory for Plotly, in which parameters and classes go by the ends of their names."""
    copy = optuna.create_study(study_name=study.study_name, directions=study.directions)
    for trial in study.get_trials(deepcopy=False):
        names = {key: _as_text(_short(key)) for key in trial.params}
        ranges = {names[key]: _short_range(kind) for key, kind in trial.distributions.items()}
        copy.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                params={names[key]: _as_text(_short_class(value)) for key, value in trial.params.items()},
                distributions=ranges,
                user_attrs=_as_text(trial.user_attrs),
                system_attrs=trial.system_attrs,
                intermediate_values=trial.intermediate_values,
            )
        )
    return copy


def _short(key: str) -> str:
    return next((key.removeprefix(start) for start in SHORT if key.startswith(start)), key)


def _short_class(value: Any) -> Any:
    return CLASS_HOME.sub("", value) if isinstance(value, str) else value


def _short_range(kind: BaseDistribution) -> BaseDistribution:
    if isinstance(kind, CategoricalDistribution):
        return CategoricalDistribution([_as_text(_short_class(choice)) for choice in kind.choices])
    return kind


def _as_text(value: Any) -> Any:
    """A value whose strings Plotly shows as they are: it would take tags in them for its own."""
    if isinstance(value, dict):
        return {_as_text(key): _as_text(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    return html.escape(value, quote=False) if isinstance(value, str) else value


def _table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "front"))
    heads = "".join(f"<th>{html.escape(_short(name))}</th>" for name in columns)
    lines = []
    for row in rows:
        marks = " ".join([*(["front"] if row["front"] else []), *(["named"] if row["start"] else [])])
        cells = "".join(f"<td>{html.escape(_said(row.get(name)))}</td>" for name in columns)
        lines.append(f"<tr class='{marks}'>{cells}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def _said(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(_short_class(value))
