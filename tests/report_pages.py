"""Reports' pages to try: sounds that can be told apart by every stretch of them, and small figures."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from klann_lightning.report.assets import write_figure, write_sound
from klann_lightning.report.contents import Chart, Page, Reading, Row, Table, Take, Version

KINDS = {
    "input": "input",
    "target": "target",
    "small": "model",
    "large": "model",
    "same": "extra",
    "anchor": "anchor",
}
LABELS = {
    "input": "Input",
    "target": "Target",
    "small": "KLANN small",
    "large": "KLANN large",
    "same": "Copy",
}
MATCH_DB = {"input": 0.0, "target": 0.0, "small": -3.0, "large": 1.5, "same": 0.0, "anchor": 0.5}
TAKES = {"drums": (44100, 5.0), "bass": (48000, 4.0)}


def sound(name: str, take: str) -> np.ndarray:
    """A sweep, 60 to 900 Hz: smooth, and nowhere the same, between versions nor in itself. [T]"""
    rate, seconds = TAKES[take]
    number = list(KINDS).index("target" if name == "same" else name)
    time = np.arange(int(rate * seconds)) / rate
    lowest = 60 + 70 * number + 20 * list(TAKES).index(take)
    return (0.2 + 0.03 * number) * np.sin(2 * np.pi * (lowest + 80 * time) * time)


def sample_page(out: Path, labels: dict[str, str] | None = None, charted: bool = True) -> Page:
    """A page of two takes with all of its files but index.html."""
    labels = {**LABELS, **(labels or {})}
    takes = [_take(out, name, labels, charted) for name in TAKES]
    rows = [
        Row(
            labels[name],
            ""
            if KINDS[name] in ("input", "target")
            else "Run of 12 May"
            if KINDS[name] == "model"
            else "Others",
            {"small": "435 parameters", "large": "1,922 parameters"}.get(name, ""),
            {take: f"{take}-{name}" for take in TAKES},
        )
        for name in LABELS
    ]
    table = Table(
        "Errors on the test recordings",
        "Lower is better.",
        ["Model", "ESR, dB", "MR-STFT", "Parameters", "Real-time factor"],
        [
            ["KLANN small", "\N{MINUS SIGN}21.3", "0.52", "435", "0.011"],
            ["KLANN large", "\N{MINUS SIGN}27.9", "0.43", "1,922", "0.034"],
        ],
    )
    return Page(
        "Small neural models of a tube compressor",
        "12 May 2025, 14:03",
        takes,
        rows,
        [_reading(out, name, labels[name]) for name in ("small", "large") if charted],
        [table],
        [
            ("Command", "klann report runs/la2a"),
            ("Version", "0.4.0"),
            ("Data", "LA-2A, 3 recordings, 44.1 kHz"),
        ],
        [("small.yaml", "configurations/small.yaml")],
    )


def big_page(out: Path, systems: int = 30, takes: int = 3) -> Page:
    """Many rows, and no file beside the page: what it needs to open."""
    names = ["input", "target", *(f"system-{n}" for n in range(systems))]
    return Page(
        "Thirty systems",
        "today",
        [
            Take(
                f"take-{t}",
                f"Take {t}",
                "LA-2A",
                5.0,
                44100,
                0.0,
                [
                    Version(
                        f"take-{t}-{name}",
                        name,
                        name if name in ("input", "target") else "model",
                        0.0,
                        -20.0 - n,
                        0.5,
                        [Chart(f"take-{t}-{name}-{c}", "Waveform", "The waveforms.", 400) for c in range(4)],
                    )
                    for n, name in enumerate(names)
                ],
            )
            for t in range(takes)
        ],
        [Row(name, "", "", {f"take-{t}": f"take-{t}-{name}" for t in range(takes)}) for name in names],
        [],
        [],
        [],
        [],
    )


def _take(out: Path, take: str, labels: dict[str, str], charted: bool) -> Take:
    rate, seconds = TAKES[take]
    versions = []
    for name, kind in KINDS.items():
        key = f"{take}-{name}"
        write_sound(out, key, sound(name, take), rate)
        known = kind in ("model", "extra")
        charts = _charts(out, take, name) if known and charted else []
        esr, spectral = (-20.0 - 3 * len(versions), 0.5 - 0.05 * len(versions)) if known else (None, None)
        label = labels.get(name, "Anchor")
        versions.append(Version(key, label, kind, MATCH_DB[name], esr, spectral, charts))
    return Take(take, take.capitalize(), "LA-2A", seconds, rate, 0.0, versions)


def _charts(out: Path, take: str, name: str) -> list[Chart]:
    rate, seconds = TAKES[take]
    time = np.arange(0, int(rate * seconds), 240) / rate
    wanted, output = sound("target", take)[::240], sound(name, take)[::240]
    track = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.7, 0.3], vertical_spacing=0.06)
    track.add_scatter(x=time, y=wanted, name="target", line={"color": "#8a93a3", "width": 1.2}, row=1, col=1)
    track.add_scatter(x=time, y=output, name="output", line={"color": "#3d7be0", "width": 1.2}, row=1, col=1)
    track.add_scatter(
        x=time, y=output - wanted, name="residual", line={"color": "#e0703d", "width": 1}, row=2, col=1
    )
    meta = {"seconds": seconds, "sample_rate": rate, "traces": {"target": 0, "output": 1, "residual": 2}}
    track.update_layout(template="none", margin={"l": 60, "r": 20, "t": 30, "b": 45}, meta=meta)
    track.update_layout(legend={"orientation": "h", "y": 1.12})
    track.update_xaxes(automargin=False)
    track.update_xaxes(title_text="seconds", row=2)
    track.update_yaxes(automargin=False, nticks=5)
    write_figure(out, f"{take}-{name}-track", track)
    hz = np.geomspace(20, 20000, 200)
    spectrum = go.Figure(go.Scatter(x=hz, y=-20 * np.log10(1 + (hz / 3000) ** 2), line={"color": "#3d7be0"}))
    spectrum.update_layout(template="none", margin={"l": 60, "r": 20, "t": 10, "b": 45})
    spectrum.update_xaxes(type="log", title_text="Hz")
    for key in ("spectrum", "level"):
        write_figure(out, f"{take}-{name}-{key}", spectrum)
    return [
        Chart(f"{take}-{name}-track", "Waveform and residual", "The residual is what the model misses.", 380),
        Chart(
            f"{take}-{name}-spectrum", "Spectrum", "Mean over the take, Welch's method, 4096 samples.", 280
        ),
        Chart(f"{take}-{name}-level", "Level in and out", "Compression begins at \N{MINUS SIGN}30 dB.", 280),
    ]


def _reading(out: Path, name: str, label: str) -> Reading:
    figure = go.Figure(go.Bar(x=["1", "2", "3", "4"], y=[0.5, 0.3, 0.15, 0.05], marker={"color": "#3d7be0"}))
    figure.update_layout(template="none", margin={"l": 60, "r": 20, "t": 10, "b": 45})
    keys = [f"reading-{name}-energy", f"reading-{name}-response"]
    for key in keys:
        write_figure(out, key, figure)
    rows = [
        ["1", "31", "0.71", "A slow low-pass that follows the level: it makes most of the compression."],
        [
            "2",
            "1,210",
            "0.22",
            "A band-pass around the resonance of the transformer, driven into saturation.",
        ],
    ]
    channels = Table(
        "Channels", "By their share of the output.", ["Channel", "Hz", "Energy", "What it does"], rows
    )
    pruning = Table(
        "Pruning",
        "",
        ["Kept", "ESR, dB"],
        [["4 of 4", "\N{MINUS SIGN}27.9"], ["2 of 4", "\N{MINUS SIGN}25.1"]],
    )
    return Reading(
        f"of-{name}",
        label,
        ["Four channels; two of them carry 93 % of the output.", "No channel is idle."],
        channels,
        [Chart(keys[0], "Energy", "By channel.", 260), Chart(keys[1], "Response", "By channel.", 260)],
        pruning,
    )
