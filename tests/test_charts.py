"""What an interactive figure shows are the arrays that it was given, where its axes say they are."""

import base64
import json
import math
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import pytest

from klann_lightning.aliasing import SineSpectrum, sine_spectrum
from klann_lightning.charts import (
    DASHES,
    LOWEST_HZ,
    NEAR_ONE,
    OUTPUT,
    TARGET,
    costs_figure,
    curves_figure,
    filters_figure,
    harmonics_figure,
    level_figure,
    onset_figure,
    poles_figure,
    step_figure,
    track_figure,
)
from klann_lightning.dynamics import LevelCurve, Onsets, StepResponse, level_curve
from klann_lightning.plots import SHADES, WAVEFORM_COLUMNS, Spectrograms, spectrograms

RATE = 8000
PICTURES = {name: f"<b>{name.lower()}</b>.png" for name in ("Target", "Output", "Residual")}


@pytest.fixture(scope="module")
def pair():
    """4 s of a dying tone, and what is 1 dB too quiet."""
    time = np.arange(4 * RATE) / RATE
    target = (0.5 * np.sin(2 * np.pi * 440 * time) * np.exp(-time)).astype(np.float32)
    return target, np.float32(10 ** (-1 / 20)) * target


@pytest.fixture(scope="module")
def spectra(pair):
    return spectrograms(*pair, RATE)


@pytest.fixture(scope="module")
def track(pair, spectra):
    return track_figure(*pair, RATE, np.arange(40.0) - 60, 0.1, PICTURES, spectra)


def levels(seed):
    rng = np.random.default_rng(seed)
    ins = rng.uniform(-60, -10, 300)
    return LevelCurve(ins, 0.5 * ins + seed, np.arange(-60.0, -8, 2), np.arange(-30.0, -4, 1))


def steps(*highs_db):
    seconds = np.geomspace(0.001, 8, 50)
    return [
        StepResponse(-40.0, high_db, seconds, -6 - np.exp(-seconds), -2 + np.exp(-seconds), [], [])
        for high_db in highs_db
    ]


def sines():
    return [sine_spectrum(lambda x: np.tanh(3 * x), RATE, level, 440) for level in (0.5, 0.1)]


def onsets_of():
    seconds = 0.005 * np.arange(80)
    return Onsets(seconds, {"Target": -seconds, "Output": -2 * seconds}, 5)


X, HZ = np.linspace(-1, 1, 101), np.geomspace(0.1, 4000, 400)
CHANNELS = [f"channel {place}" for place in range(1, 11)]
CURVES = {name: X**place for place, name in enumerate(CHANNELS)}
MAGNITUDES = {name: -5.0 * place - HZ / 100 for place, name in enumerate(CHANNELS)}
PHASES = {name: place - HZ / 20 for place, name in enumerate(CHANNELS)}
POLES = {"channel 1": [0.9 + 0.1j, 0.9 - 0.1j], "channel 2": [0.5]}
ZEROS = {"channel 1": [-1.0, -1.0], "channel 2": []}
FIGURES = {
    "level": lambda: level_figure({"Target": levels(1), "Output": levels(2)}),
    "step": lambda: step_figure(steps(-30, -20, -10)),
    "onset": lambda: onset_figure(onsets_of()),
    "harmonics": lambda: harmonics_figure(sines(), RATE),
    "curves": lambda: curves_figure(X, CURVES),
    "filters": lambda: filters_figure(HZ, MAGNITUDES, PHASES),
    "poles": lambda: poles_figure(POLES, ZEROS),
    "costs": lambda: costs_figure({"channel 1": 3.0, "channel 2": -0.01}),
}
each_figure = pytest.mark.parametrize("name", FIGURES)


def named(figure, name, place=0):
    return [trace for trace in figure.data if trace.name == name][place]


def drawn(trace):
    return np.stack([np.asarray(trace.x, dtype=float), np.asarray(trace.y, dtype=float)])


def texts(part):
    """Every text that a reader sees, and every name, in a figure's JSON; pictures' addresses are not seen."""
    if isinstance(part, dict):
        return [
            text for key, value in part.items() if key not in {"source", "bdata"} for text in texts(value)
        ]
    if isinstance(part, list):
        return [text for value in part for text in texts(value)]
    return [part] if isinstance(part, str) else []


def page_of(figure):
    """As a page reads it: strict JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(figure.to_json(), parse_constant=refuse)


# All


@each_figure
def test_margins_stay_where_they_are(name):
    layout = FIGURES[name]().layout
    assert layout.margin.autoexpand is False
    assert None not in (layout.margin.l, layout.margin.r, layout.margin.t, layout.margin.b, layout.height)
    assert all(layout[axis].automargin is False for axis in layout if axis[1:5] == "axis")


@each_figure
def test_a_page_can_read_it(name):
    figure = FIGURES[name]()
    page = page_of(figure)
    assert len(figure.to_json()) < 100_000
    assert page["layout"]["template"] == page_of(go.Figure(layout={"template": "none"}))["layout"]["template"]
    assert not [text for text in texts(page) if "<" in text]


@each_figure
def test_a_legend_names_each_thing_once(name):
    figure = FIGURES[name]()
    shown = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert len(shown) == len({*shown})
    assert figure.layout.showlegend is (name not in {"curves", "costs"})


@each_figure
def test_axes_say_what_they_are(name):
    layout = FIGURES[name]().layout
    titled = [axis for axis in layout if axis[1:5] == "axis" and layout[axis].title.text]
    if name != "curves":  # whose axes are the sample and what becomes of it, in every panel
        assert {axis[0] for axis in titled} >= ({"y"} if name == "costs" else {"x", "y"})


# Tracks


def test_a_track_shows_what_it_was_given(pair, track):
    target, output = (signal.astype(float) for signal in pair)
    places = track.layout.meta["traces"]
    for name, signal in (("target", target), ("output", output), ("residual", output - target)):
        x, y = drawn(track.data[places[name]])
        starts = np.round(x[::2] * RATE).astype(int)
        assert starts.tolist() == list(range(0, 4 * RATE, 4 * RATE // WAVEFORM_COLUMNS))
        np.testing.assert_array_equal(x[::2], x[1::2])
        columns = signal.reshape(WAVEFORM_COLUMNS, -1)
        np.testing.assert_allclose(y.reshape(-1, 2).min(1), columns.min(1), atol=1e-7)
        np.testing.assert_allclose(y.reshape(-1, 2).max(1), columns.max(1), atol=1e-7)
    x, y = drawn(track.data[3])
    np.testing.assert_allclose(x, np.arange(40) / 10 + 0.05, rtol=1e-6)
    np.testing.assert_allclose(y, np.arange(40) - 60)


def test_a_short_track_is_drawn_as_it_is(pair):
    target, output = (signal[:1000] for signal in pair)
    figure = track_figure(target, output, RATE, np.zeros(1), 0.125)
    np.testing.assert_allclose(drawn(figure.data[0]), [np.arange(1000) / RATE, target], rtol=1e-6)
    np.testing.assert_allclose(figure.data[2].y, output - target)


def test_a_playhead_knows_where_the_track_is(track):
    meta = track.layout.meta
    assert (meta["seconds"], meta["sample_rate"]) == (4, RATE)
    assert {name: track.data[place].name for name, place in meta["traces"].items()} == {
        "target": "Target",
        "output": "Output",
        "residual": "Residual",
    }
    axes = [track.layout[axis] for axis in track.layout if axis.startswith("xaxis")]
    assert len(axes) == 6
    for axis in axes:
        assert axis.domain == (0, 1)
        assert axis.range == (0, 4)
        assert axis.automargin is False
    assert len({axis.matches or "x" for axis in axes} - {"x", "x6"}) == 0, "they move together"
    assert track.layout.margin.autoexpand is False
    domains = sorted(track.layout[axis].domain for axis in track.layout if axis.startswith("yaxis"))
    assert all(low[1] < high[0] for low, high in pairwise(domains))
    assert all(track.layout[axis].fixedrange for axis in track.layout if axis.startswith("yaxis"))


def test_spectrograms_lie_over_their_seconds_and_hertz(track, spectra):
    images = track.layout.images
    assert [image.source for image in images] == list(PICTURES.values())
    for row, image in enumerate(images, start=4):
        assert (image.xref, image.yref, image.layer) == (f"x{row}", f"y{row}", "below")
        assert (image.x, image.x + image.sizex) == pytest.approx(spectra.second_edges[[0, -1]])
        assert 10**image.y == pytest.approx(spectra.hz_edges[-1])
        assert 10 ** (image.y - image.sizey) == pytest.approx(LOWEST_HZ)
        assert (image.xanchor or "left", image.yanchor or "top") == ("left", "top")
        assert image.sizing == "stretch"
        axis = track.layout[f"yaxis{row}"]
        assert axis.type != "log"
        assert axis.range == pytest.approx((math.log10(LOWEST_HZ), image.y))
        assert dict(zip(axis.ticktext, axis.tickvals, strict=True)) == {"100": 2, "1k": 3}
    scale = track.data[4].marker
    assert (scale.cmin, scale.cmax, scale.showscale) == (-90, 0, True)
    assert scale.colorscale == go.Scatter(marker={"colorscale": SHADES}).marker.colorscale
    assert [trace.marker.showscale for trace in track.data[5:]] == [False, False]


def test_ticks_stop_below_nyquist(pair):
    for hz_top, labels in ((22055.0, ("100", "1k", "10k")), (900.0, ("100",))):
        spectra = Spectrograms({}, np.array([5.0, hz_top]), np.array([0.0, 4.0]), "")
        figure = track_figure(*pair, RATE, np.zeros(40), 0.1, {"Target": "a.png"}, spectra)
        assert figure.layout.yaxis4.ticktext == labels


def test_a_track_names_its_panels_and_lines(track):
    names = [note.text for note in track.layout.annotations]
    assert names[:3] == ["Waveform", "Residual: output less target", "ESR"]
    assert names[3:] == [f"Spectrogram: {name}" for name in PICTURES]
    assert {(note.x, note.xanchor) for note in track.layout.annotations} == {(0, "left")}
    assert [trace.name for trace in track.data if trace.showlegend] == ["Target", "Output"]
    colors = [track.data[place].line.color for place in range(2)]
    assert colors == [TARGET, OUTPUT]
    assert track.data[0].line.width > track.data[1].line.width, "the target shows on both sides of an output"


def test_no_user_text_is_drawn(track):
    page = page_of(track)
    assert json.dumps(page).count("<b>") == 3, "the pictures' addresses"
    assert not [text for text in texts(page) if "<" in text]


def test_windows_without_error_are_gaps(pair):
    esr_db = np.array([-20.0, -np.inf, np.nan, -10.0])
    shown = track_figure(*pair, RATE, esr_db, 1.0).data[3].y
    np.testing.assert_array_equal(shown, [-20, np.nan, np.nan, -10])


def test_a_minute_is_small():
    rng = np.random.default_rng(0)
    target, output = rng.standard_normal((2, 60 * 44100), dtype=np.float32)
    curves = {"Target": level_curve(target, target, 44100), "Output": level_curve(target, output, 44100)}
    track = track_figure(target, output, 44100, rng.standard_normal(300), 0.2)
    for figure in (track, level_figure(curves)):
        assert len(figure.to_json()) < 300_000


def test_a_page_gets_the_numbers(track):
    x = page_of(track)["data"][0]["x"]
    sent = np.frombuffer(base64.b64decode(x["bdata"]), dtype={"f4": "<f4"}[x["dtype"]])
    np.testing.assert_array_equal(sent, track.data[0].x)


# Levels, steps and onsets


def test_levels_are_windows_and_medians():
    curves = {"Target": levels(1), "Output": levels(2)}
    figure = level_figure(curves)
    for name, curve in curves.items():
        dots, line = named(figure, f"{name}, 50 ms"), named(figure, f"{name}, median")
        assert (dots.mode, line.mode) == ("markers", "lines")
        np.testing.assert_allclose(drawn(dots), [curve.input_db, curve.output_db], rtol=1e-6)
        np.testing.assert_allclose(drawn(line), [curve.middles_db, curve.medians_db])
        assert dots.marker.color == line.line.color
    assert named(figure, "Target, median").line.color != named(figure, "Output, median").line.color
    unity = drawn(named(figure, "gain of 0 dB"))
    ends = [min(curve.input_db.min() for curve in curves.values()), max(levels(1).input_db.max(), -20)]
    np.testing.assert_allclose(unity[0], unity[1])
    assert unity[0, 0] == pytest.approx(ends[0])
    assert unity[0, 1] == pytest.approx(max(curve.input_db.max() for curve in curves.values()))


def test_levels_of_silence_are_an_empty_figure():
    nothing = level_curve(np.zeros(RATE), np.zeros(RATE), RATE)
    figure = level_figure({"Target": nothing})
    assert [trace.name for trace in figure.data] == ["Target, 50 ms", "Target, median"]
    page_of(figure)


def test_steps_are_drawn_from_their_rest():
    responses = steps(-30.4, -20)
    figure = step_figure(responses)
    for place, (name, response) in enumerate(zip(("-40 to -30 dB", "-40 to -20 dB"), responses, strict=True)):
        up, down = named(figure, name), named(figure, name, 1)
        np.testing.assert_allclose(drawn(up), [response.seconds, response.up_db + 2], atol=1e-3)
        np.testing.assert_allclose(drawn(down), [response.seconds, response.down_db + 2], atol=1e-3)
        assert drawn(down)[1, -1] == 0
        assert (up.xaxis or "x", down.xaxis) == ("x", "x2")
        assert up.line.color == down.line.color == figure.data[2 * place].line.color
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert figure.layout.yaxis2.matches == "y"
    left, right = figure.layout.annotations
    assert (left.text, right.text) == ("Step up (attack)", "Step down (release)")
    assert (left.x, right.x) == (figure.layout.xaxis.domain[0], figure.layout.xaxis2.domain[0])


def test_onsets_are_in_milliseconds():
    found = onsets_of()
    figure = onset_figure(found)
    assert [trace.name for trace in figure.data] == ["Target", "Output"]
    for trace, gain_db in zip(figure.data, found.gains_db.values(), strict=True):
        np.testing.assert_allclose(drawn(trace), [1000 * found.seconds, gain_db], rtol=1e-6)


# Harmonics


def test_harmonics_are_stems_and_the_rest_is_a_line():
    spectra = sines()
    figure = harmonics_figure(spectra, RATE)
    for row, found in enumerate(spectra):
        x, y = drawn(named(figure, "harmonics", row)).reshape(2, -1, 3)
        floor = found.harmonics_db.max() - 120
        kept = found.harmonics_db > floor
        assert kept.sum() > 3
        np.testing.assert_allclose(x, np.repeat(found.harmonics_hz[kept, None] / 1000, 3, axis=1), rtol=1e-6)
        np.testing.assert_allclose(y[:, 0], floor, rtol=1e-6)
        np.testing.assert_allclose(y[:, 1], found.harmonics_db[kept], rtol=1e-6)
        assert np.isnan(y[:, 2]).all(), "stems do not hang together"
        x, y = drawn(named(figure, "between them: aliasing", row))
        edges = np.searchsorted(found.between_hz / 1000, x - 1e-6)
        columns = np.split(found.between_db, edges[1:])
        np.testing.assert_allclose(y, [max(column.max(), floor) for column in columns], rtol=1e-6)
        assert y.max() > floor
        low, high = figure.layout[f"yaxis{row + 1 if row else ''}"].range
        assert low == pytest.approx(floor)
        assert high > found.harmonics_db.max()
    assert figure.layout.xaxis.range == (0, RATE / 2000)
    assert [note.text for note in figure.layout.annotations] == [
        f"{spectra[0].frequency_hz} Hz at {level} dB" for level in (-6, -20)
    ]


@pytest.mark.parametrize("level_db", [-np.inf, np.nan])
def test_a_model_that_is_silent_or_diverged_is_drawn(level_db):
    nothing = np.full(3, level_db)
    spectrum = SineSpectrum(440, -6.0, np.arange(3.0), nothing, np.arange(3.0), nothing)
    figure = harmonics_figure([spectrum], RATE)
    page_of(figure)
    assert named(figure, "harmonics").x.size == 0


# Inside


def test_every_channel_has_a_panel_for_its_curve():
    figure = curves_figure(X, CURVES)
    assert [note.text for note in figure.layout.annotations] == CHANNELS
    assert len(figure.data) == 10
    for place, (trace, curve) in enumerate(zip(figure.data, CURVES.values(), strict=True)):
        np.testing.assert_allclose(drawn(trace), [X, curve], atol=1e-7)
        note, axis = figure.layout.annotations[place], figure.layout[f"xaxis{trace.xaxis[1:]}"]
        assert note.x == pytest.approx(sum(axis.domain) / 2), "its name is above it"
        assert note.y == pytest.approx(figure.layout[f"yaxis{trace.yaxis[1:]}"].domain[1])
        assert axis.range == (-1, 1)


def test_filters_are_magnitude_and_phase():
    magnitudes = {**MAGNITUDES, "channel 10": np.where(HZ > 100, -np.inf, -7.0)}
    figure = filters_figure(HZ, magnitudes, PHASES)
    styles = set()
    for name in CHANNELS:
        magnitude, phase = named(figure, name), named(figure, name, 1)
        expected = np.where(np.isfinite(magnitudes[name]), magnitudes[name], np.nan)
        np.testing.assert_allclose(drawn(magnitude), [HZ, expected], rtol=1e-6)
        np.testing.assert_allclose(drawn(phase), [HZ, PHASES[name]], rtol=1e-5, atol=1e-5)
        assert (magnitude.xaxis or "x", phase.yaxis) == ("x", "y2")
        assert magnitude.line == phase.line
        styles.add((magnitude.line.color, magnitude.line.dash))
    assert len(styles) == 10, "ten channels are told apart"
    assert {dash for _, dash in styles} == {*DASHES[:2]}
    top_db = MAGNITUDES["channel 1"].max()
    assert figure.layout.yaxis.range == pytest.approx((top_db - 83, top_db + 3), abs=0.01)
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert figure.layout.xaxis.range == pytest.approx((-1, math.log10(4000)))


def test_flat_filters_fill_their_panel():
    figure = filters_figure(HZ, {"channel 1": np.full(400, -6.0)}, {"channel 1": np.zeros(400)})
    assert figure.layout.yaxis.range == (-9, -3)


def test_poles_are_crosses_and_zeros_circles():
    figure = poles_figure(POLES, ZEROS)
    for name in POLES:
        for place, (values, symbol) in enumerate(((POLES[name], "x"), (ZEROS[name], "circle-open")) * 2):
            trace = named(figure, name, place)
            np.testing.assert_array_equal(drawn(trace), [np.real(values), np.imag(values)])
            assert (trace.marker.symbol, trace.marker.color) == (symbol, named(figure, name).marker.color)
            assert (trace.xaxis or "x") == ("x" if place < 2 else "x2"), "in both panels"


def test_both_planes_are_round_and_show_the_circle():
    figure = poles_figure(POLES, ZEROS)
    whole, near = (figure.layout[axis] for axis in ("xaxis", "xaxis2"))
    assert whole.range[0] < -1 < 1 < whole.range[1]
    assert 0.9 < near.range[0] < 1 - NEAR_ONE < 1 < near.range[1] < 1.1
    assert (figure.layout.yaxis.scaleanchor, figure.layout.yaxis2.scaleanchor) == ("x", "x2")
    for place, (axis, least) in enumerate(((whole, 200), (near, 10))):
        x, y = drawn(named(figure, "unit circle", place))
        np.testing.assert_allclose(np.hypot(x, y), 1, rtol=1e-6)
        assert np.count_nonzero((x > axis.range[0]) & (np.abs(y) < np.ptp(axis.range) / 2)) >= least


def test_costs_are_bars():
    (bars,) = costs_figure({"channel 1": 3.0, "channel 2": -0.01}).data
    assert (bars.type, list(bars.x), list(bars.y)) == ("bar", ["channel 1", "channel 2"], [3.0, -0.01])
