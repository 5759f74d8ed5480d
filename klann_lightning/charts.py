"""Interactive figures of what a model does: arrays in, Plotly figure out.

Colours are of middle brightness, so that they can be told apart on white as on black; whoever shows a figure
gives it its background, font and grid by a template. No text in a figure comes from a user: Plotly takes
tags in texts for its own.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from klann_lightning.aliasing import SineSpectrum
from klann_lightning.dynamics import LevelCurve, Onsets, StepResponse
from klann_lightning.fidelity import Samples, Signal
from klann_lightning.plots import (
    RESPONSE_RANGE_DB,
    SHADES,
    SPECTROGRAM_RANGE_DB,
    WAVEFORM_COLUMNS,
    Spectrograms,
    envelope,
    finite,
)

TARGET, OUTPUT, OTHER = "#2f7fc1", "#d55e00", "#808080"
COLORS = (TARGET, OUTPUT, "#009e73", "#c0669a", "#b07d00", "#4c9fd1", "#8a6fc0", OTHER)
DASHES = ("solid", "dash", "dot")
LOWEST_HZ = 40.0  # of a spectrogram
TICKS_HZ = (100, 1000, 10_000)
SPECTRUM_COLUMNS = 400
NEAR_ONE = 0.01  # of z = 1: cutoffs below 70 Hz at 44.1 kHz


def track_figure(
    target: Signal,
    output: Signal,
    sample_rate: int,
    esr_db: Samples,
    window_s: float,
    pictures: Mapping[str, str] | None = None,
    spectra: Spectrograms | None = None,
) -> go.Figure:
    """What happens as time goes by, over one axis of seconds: waveforms, residual, ESR, spectrograms.

    `esr_db` [windows] of `window_s` seconds each. `pictures` are the addresses of the spectrograms, by the
    names in `spectra`, as `plots.save_spectrogram` draws them from LOWEST_HZ on. `layout.meta` says which
    trace is what, for a page that has finer samples to show.
    """
    names = list(pictures or ())
    heights = [3, 1.6, 1.6, *[2.4] * len(names)]
    titles = ["Waveform", "Residual: output less target", "ESR", *(f"Spectrogram: {name}" for name in names)]
    figure = make_subplots(
        len(heights), 1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.045, subplot_titles=titles
    )
    signals = {"target": target, "output": output, "residual": output - target}
    colors = {"target": TARGET, "output": OUTPUT, "residual": OTHER}
    for place, (name, signal) in enumerate(signals.items()):
        indices, values = envelope(signal, WAVEFORM_COLUMNS)
        line = {"color": colors[name], "width": 2.2 if name == "target" else 1}
        trace = _line(indices / sample_rate, values, name.capitalize(), line, showlegend=place < 2)
        figure.add_trace(trace, row=1 + place // 2, col=1)
    middles = (np.arange(esr_db.size) + 0.5) * window_s
    figure.add_trace(
        _line(middles, finite(esr_db), "ESR", {"color": OUTPUT, "width": 1.5}, showlegend=False),
        row=3,
        col=1,
    )
    if spectra is not None:
        for row, name in enumerate(names, start=4):
            _add_picture(figure, str((pictures or {})[name]), spectra, row)
    seconds = target.size / sample_rate
    figure.update_xaxes(range=[0, seconds], domain=[0, 1])
    figure.update_xaxes(title_text="Time (s)", row=len(heights), col=1)
    for row, title in ((1, "Amplitude"), (2, "Amplitude"), (3, "ESR (dB)")):
        figure.update_yaxes(title_text=title, fixedrange=True, row=row, col=1)
    figure.update_layout(
        meta={
            "seconds": seconds,
            "sample_rate": sample_rate,
            "traces": {name: place for place, name in enumerate(signals)},
        },
        dragmode="zoom",
    )
    return _finished(figure, 460 + 170 * len(names), legend="corner")


def level_figure(curves: Mapping[str, LevelCurve]) -> go.Figure:
    """Level in against level out: windows as points, medians as lines; by name, the target's first."""
    figure = go.Figure()
    for place, (name, curve) in enumerate(curves.items()):
        color = COLORS[place % len(COLORS)]
        figure.add_scatter(
            x=curve.input_db.astype(np.float32),
            y=curve.output_db.astype(np.float32),
            mode="markers",
            marker={"color": color, "size": 5, "opacity": 0.6},
            name=f"{name}, 50 ms",
        )
        line = {"color": color, "width": 3 if place == 0 else 2, "dash": DASHES[min(place, 1)]}
        figure.add_trace(_line(curve.middles_db, curve.medians_db, f"{name}, median", line))
    levels = np.concatenate([curve.input_db for curve in curves.values()])
    if levels.size:
        ends = [float(levels.min()), float(levels.max())]
        figure.add_trace(_line(ends, ends, "gain of 0 dB", {"color": OTHER, "width": 1, "dash": "dot"}))
    figure.update_xaxes(title_text="Input level (dB)")
    figure.update_yaxes(title_text="Output level (dB)")
    return _finished(figure, 420)


def step_figure(responses: Sequence[StepResponse]) -> go.Figure:
    """The gain after a sine's level has stepped up, and back down, over the logarithm of time."""
    figure = make_subplots(
        1,
        2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=["Step up (attack)", "Step down (release)"],
    )
    for place, response in enumerate(responses):
        name = f"{response.low_db:.0f} to {response.high_db:.0f} dB"
        line = {"color": COLORS[place % len(COLORS)], "width": 2}
        rest_db = response.down_db[-1]
        for column, values in enumerate((response.up_db, response.down_db), start=1):
            trace = _line(response.seconds, values - rest_db, name, line, showlegend=column == 1)
            figure.add_trace(trace, row=1, col=column)
    figure.update_xaxes(type="log", title_text="Seconds after", dtick=1, tickangle=0)
    figure.update_yaxes(title_text="Gain (dB re rest)", row=1, col=1)
    return _finished(figure, 380)


def onset_figure(found: Onsets) -> go.Figure:
    """Mean gain after the onsets of a recording, the target's beside others'."""
    figure = go.Figure()
    for place, (name, gain_db) in enumerate(found.gains_db.items()):
        line = {"color": COLORS[place % len(COLORS)], "width": 3 if place == 0 else 1.8}
        figure.add_trace(_line(1000 * found.seconds, gain_db, name, line))
    figure.update_xaxes(title_text="Time after the onset (ms)")
    figure.update_yaxes(title_text="Gain (dB re the first 5 ms)")
    return _finished(figure, 360)


def harmonics_figure(spectra: Sequence[SineSpectrum], sample_rate: int) -> go.Figure:
    """What comes out for one sine at several levels: harmonics as stems, aliasing and noise as a line."""
    titles = [f"{found.frequency_hz} Hz at {found.level_db:.0f} dB" for found in spectra]
    figure = make_subplots(len(spectra), 1, shared_xaxes=True, vertical_spacing=0.07, subplot_titles=titles)
    for row, found in enumerate(spectra, start=1):
        top = found.harmonics_db.max()
        floor = top - 120
        kept = found.harmonics_db > floor
        stems_x = np.repeat(found.harmonics_hz[kept] / 1000, 3)
        stems_y = np.stack(
            [np.full(kept.sum(), floor), found.harmonics_db[kept], np.full(kept.sum(), np.nan)], 1
        )
        first = row == 1
        line = {"color": TARGET, "width": 3}
        figure.add_trace(_line(stems_x, stems_y.ravel(), "harmonics", line, showlegend=first), row=row, col=1)
        figure.add_trace(
            _line(
                *_peaks(found.between_hz / 1000, found.between_db, floor),
                "between them: aliasing",
                {"color": OUTPUT, "width": 1.2},
                showlegend=first,
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(title_text="Level (dB)", range=[floor, top + 6], row=row, col=1)
    figure.update_xaxes(range=[0, sample_rate / 2000])
    figure.update_xaxes(title_text="Frequency (kHz)", row=len(spectra), col=1)
    return _finished(figure, 90 + 170 * len(spectra))


def curves_figure(x: Samples, curves: Mapping[str, Samples]) -> go.Figure:
    """What a lift does to a sample: one small panel a channel, each [N] over x [N]."""
    columns = min(3, len(curves)) or 1
    rows = math.ceil(len(curves) / columns) or 1
    figure = make_subplots(
        rows, columns, subplot_titles=list(curves), shared_xaxes=True, horizontal_spacing=0.12
    )
    for place, curve in enumerate(curves.values()):
        row, column = divmod(place, columns)
        line = {"color": TARGET, "width": 2}
        figure.add_trace(_line(x, curve, "", line, showlegend=False), row=row + 1, col=column + 1)
    figure.update_xaxes(range=[-1, 1], tickvals=[-1, 0, 1])
    figure.update_yaxes(nticks=4)
    return _finished(figure, 70 + 150 * rows, legend="none")


def filters_figure(
    frequencies_hz: Samples, magnitudes_db: Mapping[str, Samples], phases_deg: Mapping[str, Samples]
) -> go.Figure:
    """Magnitude and phase of each channel's filters [N] over frequencies [N]; 80 dB at most are shown."""
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[3, 2], vertical_spacing=0.06)
    for place, (name, magnitude_db) in enumerate(magnitudes_db.items()):
        turn, color = divmod(place, len(COLORS))
        line = {"color": COLORS[color], "width": 2, "dash": DASHES[turn % len(DASHES)]}
        figure.add_trace(_line(frequencies_hz, finite(magnitude_db), name, line), row=1, col=1)
        trace = _line(frequencies_hz, phases_deg[name], name, line, showlegend=False)
        figure.add_trace(trace, row=2, col=1)
    shown = np.concatenate([finite(values) for values in magnitudes_db.values()])
    top = float(np.nanmax(shown))
    bottom = max(float(np.nanmin(shown)), top - RESPONSE_RANGE_DB)
    figure.update_yaxes(title_text="Magnitude (dB)", range=[bottom - 3, top + 3], row=1, col=1)
    figure.update_yaxes(title_text="Phase (°)", dtick=90, row=2, col=1)
    figure.update_xaxes(type="log", dtick=1, range=np.log10(frequencies_hz[[0, -1]]).tolist())
    figure.update_xaxes(title_text="Frequency (Hz)", row=2, col=1)
    return _finished(figure, 520, legend="right")


def poles_figure(poles: Mapping[str, Sequence[complex]], zeros: Mapping[str, Sequence[complex]]) -> go.Figure:
    """Poles (crosses) and zeros (circles) of each channel's filters in the z-plane, and larger near z = 1."""
    titles = ["z-plane", "near z = 1"]
    figure = make_subplots(1, 2, horizontal_spacing=0.16, subplot_titles=titles)
    angle = np.sort(
        np.concatenate([np.linspace(-np.pi, np.pi, 200), np.linspace(-NEAR_ONE, NEAR_ONE, 50) * 3])
    )
    for column, half in ((1, 1.25), (2, NEAR_ONE)):
        circle = _line(
            np.cos(angle), np.sin(angle), "unit circle", {"color": OTHER, "width": 1}, showlegend=False
        )
        figure.add_trace(circle, row=1, col=column)
        for place, name in enumerate(poles):
            color = COLORS[place % len(COLORS)]
            for values, symbol, first in (
                (poles[name], "x", column == 1),
                (zeros[name], "circle-open", False),
            ):
                trace = go.Scatter(
                    x=np.real(values),
                    y=np.imag(values),
                    mode="markers",
                    marker={"symbol": symbol, "color": color, "size": 9},
                    name=name,
                    legendgroup=name,
                    showlegend=first,
                )
                figure.add_trace(trace, row=1, col=column)
        middle = 0 if column == 1 else 1 - half * 0.8
        axis = "x" if column == 1 else "x2"
        figure.update_xaxes(title_text="Real part", range=[middle - half, middle + half], row=1, col=column)
        figure.update_yaxes(range=[-half, half], scaleanchor=axis, constrain="domain", row=1, col=column)
    figure.update_xaxes(constrain="domain", nticks=4, tickangle=0)
    figure.update_yaxes(title_text="Imaginary part", row=1, col=1)
    return _finished(figure, 420)


def costs_figure(costs_db: Mapping[str, float]) -> go.Figure:
    """What leaving out each channel costs, in dB of ESR."""
    figure = go.Figure()
    names = list(costs_db)
    figure.add_bar(x=names, y=[costs_db[name] for name in names], marker={"color": TARGET})
    figure.update_yaxes(title_text="ESR without it (dB worse)", rangemode="tozero")
    figure.update_xaxes(type="category")
    return _finished(figure, 320, legend="none")


def _add_picture(figure: go.Figure, address: str, spectra: Spectrograms, row: int) -> None:
    """A spectrogram under its axes: Plotly's own images lie on linear axes, so this one's are in log10 Hz."""
    low, high = math.log10(LOWEST_HZ), math.log10(spectra.hz_edges[-1])
    left, right = float(spectra.second_edges[0]), float(spectra.second_edges[-1])
    scale = {
        "colorscale": SHADES.capitalize(),
        "cmin": -SPECTROGRAM_RANGE_DB,
        "cmax": 0,
        "color": [0],
        "opacity": 0,
        "showscale": row == 4,
        "colorbar": {"title": {"text": "dB"}, "thickness": 12, "len": 0.45, "y": 0, "yanchor": "bottom"},
    }
    invisible = {"x": [None], "y": [None], "mode": "markers", "marker": scale, "showlegend": False}
    figure.add_trace(go.Scatter(**invisible), row=row, col=1)
    figure.add_layout_image(
        {"source": address, "x": left, "sizex": right - left, "y": high, "sizey": high - low},
        sizing="stretch",
        layer="below",
        xref=f"x{row}",
        yref=f"y{row}",
    )
    ticks = [hz for hz in TICKS_HZ if LOWEST_HZ < hz < spectra.hz_edges[-1]]
    named = [f"{hz}" if hz < 1000 else f"{hz // 1000}k" for hz in ticks]
    figure.update_yaxes(
        title_text="Hz",
        range=[low, high],
        tickvals=np.log10(ticks),
        ticktext=named,
        fixedrange=True,
        row=row,
        col=1,
    )
    figure.update_yaxes(showgrid=False, row=row, col=1)
    figure.update_xaxes(showgrid=False, row=row, col=1)


def _line(x: Any, y: Any, name: str, line: dict[str, Any], showlegend: bool = True) -> go.Scatter:
    return go.Scatter(
        x=np.asarray(x, dtype=np.float32),
        y=np.asarray(y, dtype=np.float32),
        mode="lines",
        line=line,
        name=name,
        showlegend=showlegend,
    )


LEGENDS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {  # where it lies, and the margin that it needs
    "top": ({"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top"}, {"t": 64, "r": 24}),
    "corner": (
        {"orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom"},
        {"t": 32, "r": 84},
    ),
    "right": ({"x": 1.02, "y": 1}, {"t": 24, "r": 170}),
    "none": ({}, {"t": 32, "r": 24}),
}


def _finished(figure: go.Figure, height: int, legend: str = "top") -> go.Figure:
    """With margins that nothing moves: what lies over a figure knows where its axes are."""
    where, margin = LEGENDS[legend]
    figure.update_xaxes(automargin=False)
    figure.update_yaxes(automargin=False)
    figure.update_annotations(font={"size": 13})
    if legend != "none":
        figure.update_annotations(xanchor="left", selector={"xanchor": "center"})
        for note in figure.layout.annotations:  # the titles of the panels, above their left ends
            axis = min(figure.select_xaxes(), key=lambda axis: abs(sum(axis.domain or (0, 1)) / 2 - note.x))
            note.x = (axis.domain or (0, 1))[0]
    return figure.update_layout(
        template="none",
        height=height,
        legend=where,
        showlegend=legend != "none",
        margin={"l": 64, "b": 48, **margin, "autoexpand": False},
    )


def _peaks(x: Samples, y: Samples, floor: float) -> tuple[Samples, Samples]:
    """The highest of each column of a fine spectrum, nothing below the floor."""
    starts = np.unique(np.linspace(0, x.size - 1, SPECTRUM_COLUMNS).astype(int))
    return x[starts], np.maximum(np.maximum.reduceat(y, starts), floor)
