"""Figures are tested by what they draw: the numbers in their lines and meshes, their limits and units."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib import colormaps, pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from numpy.typing import NDArray

from klann_lightning.plots import (
    COLORS,
    PICTURE_ROWS,
    SHADES,
    Spectrograms,
    esr_over_time_figure,
    front_figure,
    response_figure,
    save_spectrogram,
    spectrogram_figure,
    spectrograms,
    waveform_figure,
)

RATE = 44100
NAMES = ["Target", "Output", "Residual"]
PAIR_FIGURES = [waveform_figure, spectrogram_figure]


@pytest.fixture
def pair() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Half a second of a decaying 1 kHz sine and a model that is 1 dB too quiet."""
    time = np.arange(RATE // 2) / RATE
    target = (0.5 * np.sin(2 * np.pi * 1000 * time) * np.exp(-4 * time)).astype(np.float32)
    return target, np.float32(10 ** (-1 / 20)) * target


def render(figure: Figure) -> None:
    """Draw it as a PNG in memory: some warnings, and every layout conflict, come only here."""
    figure.savefig(BytesIO(), format="png")


def drawn(axes: Axes) -> NDArray[np.floating]:
    return np.asarray(axes.lines[0].get_ydata())


def levels_db(figure: Figure) -> list[np.ma.MaskedArray]:
    """The three meshes of a spectrogram figure, each [rows, columns]."""
    return [np.ma.asarray(axes.collections[0].get_array()) for axes in figure.axes[:3]]


def biquad_responses(count: int, notch_db: float = -np.inf) -> tuple[NDArray, NDArray, list[str]]:
    cutoffs_hz = np.geomspace(20, 16000, count)
    hz = np.geomspace(10, RATE / 2, 400)
    magnitude_db = -10 * np.log10(1 + (hz / cutoffs_hz[:, None]) ** 4)
    magnitude_db[:, 200] = notch_db
    return hz, magnitude_db, [f"{cutoff:.0f} Hz" for cutoff in cutoffs_hz]


def test_waveform_draws_target_output_and_their_difference(pair):
    target, output = pair
    *whole, zoom = waveform_figure(target[:3000], output[:3000], RATE).axes
    for axes, zoomed, expected in zip(whole, zoom.lines, (target, output, output - target), strict=True):
        np.testing.assert_array_equal(drawn(axes), expected[:3000])  # short enough to be drawn as it is
        np.testing.assert_array_equal(zoomed.get_ydata(), expected[: round(0.03 * RATE)])


@pytest.mark.parametrize("gain", [0.5, -3.0])
def test_one_amplitude_scale_holds_all_three(pair, gain):
    target, _ = pair
    whole = waveform_figure(target, gain * target, RATE).axes[:3]
    ((bottom, top),) = {axes.get_ylim() for axes in whole}
    assert bottom < min(drawn(axes).min() for axes in whole)
    assert top > max(drawn(axes).max() for axes in whole)


def test_residual_of_a_perfect_model_is_zero(pair):
    target, _ = pair
    waveform = waveform_figure(target, target.copy(), RATE, "perfect")
    assert not drawn(waveform.axes[2]).any()
    assert waveform.get_suptitle() == "perfect    ESR -inf dB"
    _, _, residual = levels_db(spectrogram_figure(target, target.copy(), RATE))
    assert (residual == -90).all()


def test_title_gives_esr_in_db(pair):
    target, output = pair
    expected = 20 * np.log10(1 - 10 ** (-1 / 20))
    assert waveform_figure(target, output, RATE, "la2a").get_suptitle() == f"la2a    ESR {expected:.1f} dB"


def test_peaks_survive_decimation():
    target = np.zeros(60 * RATE, np.float32)
    target[1_234_567], target[2_000_001] = 0.9, -0.8
    axes = waveform_figure(target, np.zeros_like(target), RATE).axes[0]
    seconds, values = axes.lines[0].get_data()
    assert len(values) == 4000, "two values a column"
    assert values.max() == np.float32(0.9)
    assert values.min() == np.float32(-0.8)
    assert seconds[values.argmax()] == pytest.approx(1_234_567 / RATE, abs=60 / 2000)
    assert axes.get_xlim() == (0, 60)


def test_zoom_shows_the_loudest_30_ms():
    target = np.full(2 * RATE, 0.01)
    burst = slice(RATE + 100, RATE + 1300)
    target[burst] = np.sin(np.arange(1200))
    zoom = waveform_figure(target, target, RATE).axes[3]
    energy = np.square(drawn(zoom)).sum()
    assert len(drawn(zoom)) == round(0.03 * RATE)
    assert energy > 0.5 * np.square(target[burst]).sum()
    assert zoom.get_xlabel() == "Time (ms) from 0.990 s, the grey band above"


def test_sine_lies_at_its_frequency_and_level(pair):
    target, output = pair
    figure = spectrogram_figure(target, output, RATE)
    panels_db = levels_db(figure)
    khz_edges = figure.axes[0].collections[0].get_coordinates()[:, 0, 1]
    row = panels_db[0].max(axis=1).argmax()
    assert khz_edges[row] < 1 < khz_edges[row + 1]
    # 1 dB too quiet everywhere, so the residual is 20 log10(1 - 10^(-1/20)) below the target.
    for panel_db, expected in zip(panels_db, (0, -1, -19.27), strict=True):
        assert panel_db.max() == pytest.approx(expected, abs=0.01)


def test_rows_cover_all_frequencies_without_gaps(pair):
    axes = spectrogram_figure(*pair, RATE).axes[0]
    khz_edges = axes.collections[0].get_coordinates()[:, 0, 1]
    assert (np.diff(khz_edges) > 0).all()
    np.testing.assert_allclose(khz_edges[:3], np.array([0.5, 1.5, 2.5]) * RATE / 4096 / 1000)  # around bins
    assert khz_edges[0] < axes.get_ylim()[0] == 0.02
    assert khz_edges[-1] > axes.get_ylim()[1] == RATE / 2000


def test_spectrogram_panels_share_one_colour_scale(pair):
    figure = spectrogram_figure(*pair, RATE)
    meshes = [axes.collections[0] for axes in figure.axes[:3]]
    assert {mesh.get_clim() for mesh in meshes} == {(-90, 0)}
    assert len({mesh.get_cmap().name for mesh in meshes}) == 1
    assert figure.axes[3].get_ylabel() == "Level (dB re the target's maximum)"


@pytest.mark.parametrize("hz", [200, 1000, 8000])
def test_spectrograms_are_levels_over_hertz_and_seconds(hz):
    """A tone from 1 s on, and an output that is 20 dB too loud: so is the residual, less 10 %."""
    time = np.arange(3 * RATE) / RATE
    target = np.where(time < 1, 0, 0.05 * np.sin(2 * np.pi * hz * time))
    spectra = spectrograms(target, 10 * target, RATE)
    assert spectra.unit == "the target's maximum"
    assert list(spectra.levels_db) == NAMES
    for name, peak_db in zip(NAMES, (0, 20, 20 * np.log10(9)), strict=True):
        level_db = spectra.levels_db[name]
        assert level_db.shape == (len(spectra.hz_edges) - 1, len(spectra.second_edges) - 1)
        assert level_db.max() == pytest.approx(peak_db, abs=0.01)
        assert level_db.min() == -90
        row = level_db.max(axis=1).argmax()
        assert spectra.hz_edges[row] <= hz <= spectra.hz_edges[row + 1]
        sounding = level_db[row] > peak_db - 6.1  # half of the window
        assert spectra.second_edges[sounding.argmax()] == pytest.approx(1, abs=0.02)
    assert spectra.second_edges[-1] >= 3


def test_a_spectrogram_figure_draws_the_spectrograms(pair):
    target, output = pair
    spectra = spectrograms(target, output, RATE)
    for drawn_db, level_db in zip(
        levels_db(spectrogram_figure(target, output, RATE)), spectra.levels_db.values(), strict=True
    ):
        np.testing.assert_array_equal(drawn_db, level_db)


def row_of(hz: float, lowest_hz: float, highest_hz: float) -> float:
    """From the top of a picture."""
    return PICTURE_ROWS * np.log(highest_hz / hz) / np.log(highest_hz / lowest_hz)


@pytest.mark.parametrize("lowest_hz", [20.0, 40.0])
@pytest.mark.parametrize("hz", [100, 440, 1000, 5000, 15000])
def test_a_sine_is_a_bright_row_at_its_place(hz, lowest_hz, tmp_path):
    sine = 0.5 * np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)
    spectra = spectrograms(sine, 10 ** (-30 / 20) * sine, RATE)
    for name, peak_db in (("Target", 0), ("Output", -30)):
        save_spectrogram(tmp_path / "new" / f"{name}.png", spectra, name, lowest_hz)
        picture = imread(tmp_path / "new" / f"{name}.png")
        assert picture.shape[:2] == (PICTURE_ROWS, spectra.levels_db[name].shape[1])
        brightness = picture[..., :3].sum(-1)[:, picture.shape[1] // 2]
        bright = np.flatnonzero(brightness == brightness.max())
        shown = colormaps[SHADES](1 + peak_db / 90)
        np.testing.assert_allclose(picture[bright[0], picture.shape[1] // 2], shown, atol=0.02)
        above = np.searchsorted(spectra.hz_edges, hz)
        highest, lowest = (
            row_of(edge_hz, lowest_hz, spectra.hz_edges[-1])
            for edge_hz in spectra.hz_edges[[above, above - 1]]
        )
        assert highest - 0.5 <= bright.min() <= bright.max() <= lowest - 0.5, (
            "rows with their middle in there"
        )
    assert [path.name for path in (tmp_path / "new").iterdir() if path.suffix != ".png"] == []


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
def test_a_picture_passes_no_line_over(rate, tmp_path):
    """One line a column, each in another row."""
    hz_edges = spectrograms(np.ones(rate), np.ones(rate), rate).hz_edges
    lines = np.where(np.eye(len(hz_edges) - 1), 0.0, -90.0)
    spectra = Spectrograms({"Target": lines}, hz_edges, np.arange(len(hz_edges)), "")
    save_spectrogram(tmp_path / "lines.png", spectra, "Target", 40.0)
    brightness = imread(tmp_path / "lines.png")[..., :3].sum(-1)
    places = brightness.argmax(axis=0)
    shown = (hz_edges[:-1] > 42) & (hz_edges[1:] < hz_edges[-1])
    np.testing.assert_allclose(brightness.max(axis=0)[shown], brightness.max(), atol=0.01)
    expected = row_of(np.sqrt(hz_edges[:-1] * hz_edges[1:]), 40.0, hz_edges[-1])
    assert (np.diff(places[shown]) <= 0).all()
    widths = PICTURE_ROWS * np.log(hz_edges[1:] / hz_edges[:-1]) / np.log(hz_edges[-1] / 40.0)
    assert (np.abs(places + 0.5 - expected) <= widths / 2 + 1)[shown].all()


def test_a_picture_goes_from_left_to_right(tmp_path):
    time = np.arange(2 * RATE) / RATE
    late = np.where(time < 1, 0, np.sin(2 * np.pi * 1000 * time))
    spectra = spectrograms(late, late, RATE)
    save_spectrogram(tmp_path / "late.png", spectra, "Target", 40.0)
    save_spectrogram(tmp_path / "nothing.png", spectra, "Residual", 40.0)
    picture, nothing = (imread(tmp_path / f"{name}.png") for name in ("late", "nothing"))
    halves = np.array_split(picture[..., :3].sum(-1).max(0), 2)
    assert halves[0][:-10].max() < 0.5 < 2 < halves[1][10:].min()
    np.testing.assert_allclose(nothing, np.broadcast_to(colormaps[SHADES](0), nothing.shape), atol=0.01)


@pytest.mark.parametrize("seconds", [0.5, 60, 300])
def test_spectrogram_columns_are_bounded_and_span_the_file(seconds):
    signal = np.random.default_rng(0).standard_normal(int(seconds * 8000), dtype=np.float32)
    figure = spectrogram_figure(signal, signal, 8000)
    second_edges = figure.axes[0].collections[0].get_coordinates()[0, :, 0]
    assert all(panel.shape[1] <= 1500 for panel in levels_db(figure))
    assert second_edges[0] <= 0
    assert second_edges[-1] >= figure.axes[0].get_xlim()[1] == pytest.approx(seconds, rel=0.01)


def test_a_file_that_starts_loud_draws_no_click():
    steady = np.cos(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    target_db = levels_db(spectrogram_figure(steady, steady, RATE))[0]
    assert target_db[-50:, 0].max() < -80, "the first column has nothing at the top of the band"


@pytest.mark.parametrize("figure_of", PAIR_FIGURES)
def test_silence_draws_without_warnings(figure_of):
    silence = np.zeros(RATE // 4, np.float32)
    figure = figure_of(silence, silence, RATE, "$ilence_")
    render(figure)
    if figure_of is waveform_figure:
        assert figure.get_suptitle() == "$ilence_    ESR undefined: the target is silent"
        assert not any(drawn(axes).any() for axes in figure.axes)
    else:
        assert all((panel == -90).all() for panel in levels_db(figure))
        assert figure.axes[3].get_ylabel() == "Level (dB re a full-scale sine)"


@pytest.mark.parametrize("figure_of", PAIR_FIGURES)
@pytest.mark.parametrize("length", [1, 2, 100, 5000])
def test_any_length_draws(figure_of, length):
    signal = np.linspace(-1, 1, length)
    figure = figure_of(signal, 0.5 * signal, RATE)
    render(figure)
    if figure_of is waveform_figure:
        assert figure.get_suptitle() == "ESR -6.0 dB"
        *whole, zoom = figure.axes
        for axes, zoomed, gain in zip(whole, zoom.lines, (1, 0.5, -0.5), strict=True):
            np.testing.assert_allclose(drawn(axes)[[0, -1]], gain * signal[[0, -1]], atol=1e-3)
            assert len(zoomed.get_ydata()) == min(length, 1323)
        assert whole[0].get_xlim() == (0, length / RATE)
    else:
        target_db, output_db, residual_db = levels_db(figure)
        assert target_db.shape[1] == -(-length // 512)
        assert -7 < target_db.max() <= 0  # of a ramp the highest bin may be that of 0 Hz, which has no row
        for level_db in (output_db, residual_db):
            np.testing.assert_allclose(level_db, np.maximum(target_db - 6.02, -90), atol=0.01)


@pytest.mark.parametrize("figure_of", PAIR_FIGURES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_diverged_still_draws(figure_of, bad, pair):
    target, output = pair
    output[10_000:] = bad
    figure = figure_of(target, output, RATE)
    render(figure)
    if figure_of is spectrogram_figure:
        target_db, output_db, _ = levels_db(figure)
        gap = np.ma.getmaskarray(output_db).all(axis=0)
        assert gap[-1]
        assert not gap[0]
        assert target_db.max() == 0
    else:
        assert figure.get_suptitle() == f"ESR {bad} dB"
        for axes in figure.axes[1:3]:  # 2000 columns, two points each
            shown = np.isfinite(drawn(axes))
            assert shown.sum() == pytest.approx(4000 * 10_000 / len(target), abs=2)
            assert shown[: shown.sum()].all()
        assert np.isfinite(drawn(figure.axes[0])).all()


@pytest.mark.parametrize("figure_of", PAIR_FIGURES)
@pytest.mark.parametrize("shape", [(99,), (1, 100), (0,)])
def test_arrays_that_do_not_match_are_named(figure_of, shape):
    with pytest.raises(ValueError, match=r"target \(100,\) and output \(.*\) must be \[T\]"):
        figure_of(np.zeros(100), np.zeros(shape), RATE)


def test_each_signal_keeps_its_colour(pair):
    waveform, spectrogram = (figure_of(*pair, RATE) for figure_of in PAIR_FIGURES)
    colors = [COLORS[name] for name in NAMES]
    assert [axes.lines[0].get_color() for axes in waveform.axes[:3]] == colors
    assert [line.get_color() for line in waveform.axes[3].lines] == colors
    assert [text.get_text() for text in waveform.legends[0].get_texts()] == NAMES
    for axes, name in zip(spectrogram.axes[:3], NAMES, strict=True):
        (title,) = axes.findobj(
            lambda artist, name=name: isinstance(artist, Text) and artist.get_text() == name
        )
        assert title.get_color() == COLORS[name]


def test_axes_state_their_units(pair):
    waveform, spectrogram = (figure_of(*pair, RATE) for figure_of in PAIR_FIGURES)
    assert waveform.axes[2].get_xlabel() == spectrogram.axes[2].get_xlabel() == "Time (s)"
    assert waveform.get_supylabel() == "Amplitude (full scale = 1)"
    assert {axes.get_ylabel() for axes in spectrogram.axes[:3]} == {"Frequency (kHz)"}
    assert spectrogram.axes[0].get_yscale() == "log"
    response = response_figure(*biquad_responses(2)).axes[0]
    assert (response.get_xlabel(), response.get_ylabel()) == ("Frequency (Hz)", "Magnitude (dB)")
    assert response.get_xscale() == "log"
    label = response.xaxis.get_major_formatter()
    assert [label(hz) for hz in (0.5, 20, 1000, 20000)] == ["0.5", "20", "1k", "20k"]


def test_fifteen_responses_are_told_apart():
    hz, magnitude_db, labels = biquad_responses(15)
    figure = response_figure(hz, magnitude_db, labels, "filters")
    render(figure)
    axes = figure.axes[0]
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], magnitude_db)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    luminance = [np.dot(line.get_color()[:3], (0.2126, 0.7152, 0.0722)) for line in axes.lines]
    assert (np.diff(luminance) > 0).all(), "dark to light in the order of the labels"
    box = figure.legends[0].get_window_extent()
    assert not box.overlaps(axes.get_window_extent())
    assert figure.bbox.containsx(box.x1)


@pytest.mark.parametrize("notch_db", [-np.inf, -300.0])
def test_deep_notches_do_not_flatten_the_rest(notch_db):
    figure = response_figure(*biquad_responses(3, notch_db))
    render(figure)
    bottom, top = figure.axes[0].get_ylim()
    assert (bottom, top) == pytest.approx((-83, 3), abs=0.2)


def test_response_at_0_hz_stays_off_the_log_axis():
    figure = response_figure(np.array([0.0, 10.0, 1000.0]), np.array([[-6.0, -6.0, 0.0]]), ["_one"])
    render(figure)
    assert figure.axes[0].get_xlim() == (10, 1000)


def test_responses_without_a_label_each_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 400\), but there are 3 labels and 400 frequencies"):
        response_figure(*biquad_responses(2)[:2], ["a", "b", "c"])


def test_no_figure_is_kept_by_pyplot(pair):
    for figure_of in PAIR_FIGURES:
        figure_of(*pair, RATE)
    response_figure(*biquad_responses(2))
    assert pyplot.get_fignums() == []


def test_front_marks_what_has_a_name():
    places = [(100.0, -10.0), (200.0, -12.0), (300.0, -11.0), (2000.0, -13.0)]
    named = {"small_one": places[1], "large": places[3]}
    axes = front_figure(places, [places[0], places[1], places[3]], named, "size", "error", "a_b").axes[0]
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [list(place) for place in (places[0], places[1], places[3])]
    assert [text.get_text() for text in axes.texts] == ["small one", "large"]
    drawn = [dots.get_offsets().data.tolist() for dots in axes.collections]
    assert drawn == [[list(place) for place in places], [list(places[1])], [list(places[3])]]
    assert axes.get_xlim()[1] > 2000
    assert axes.get_xscale() == "log"


def systems(count: int, windows: int = 50) -> tuple[NDArray, dict[str, NDArray], NDArray]:
    """Times, ESR in dB of systems that are worse the later they come, and the target's level."""
    ripple_db = 3 * np.sin(np.arange(windows))
    lines = {f"_system_{index}": 4 * index - 40 + ripple_db for index in range(count)}
    return (np.arange(windows) + 0.5) / 10, lines, ripple_db - 20


def test_esr_over_time_draws_the_systems_over_the_target():
    times_s, lines, level_db = systems(3)
    figure = esr_over_time_figure(times_s, lines, level_db, "la2a_$")
    render(figure)
    errors, level = figure.axes
    for line, expected in zip(errors.lines, lines.values(), strict=False):
        np.testing.assert_array_equal(line.get_xydata().T, [times_s, expected])
    np.testing.assert_array_equal(level.lines[0].get_xydata().T, [times_s, level_db])
    assert errors.get_position().height > 3 * level.get_position().height
    assert errors.get_xlim() == level.get_xlim() == (times_s[0], times_s[-1])
    assert (errors.get_ylabel(), level.get_ylabel()) == ("ESR (dB)", "Target (dB)")
    assert level.get_xlabel() == "Time (s)"
    assert figure.get_suptitle() == "la2a_$"
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize("count", [8, 20])
def test_systems_over_time_are_told_apart(count):
    figure = esr_over_time_figure(*systems(count))
    render(figure)
    axes = figure.axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines[:count]}) == count
    assert len({line.get_color() for line in axes.lines[:count]}) == 8
    legend = figure.legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [f"_system_{index}" for index in reversed(range(count))], "from the worst down"
    colors = [line.get_color() for line in legend.get_lines()]
    assert colors == [line.get_color() for line in axes.lines[:count]][::-1]
    box = legend.get_window_extent()
    assert not box.overlaps(axes.get_window_extent())
    assert figure.bbox.containsx(box.x1)


def test_systems_over_time_keep_their_names():
    times_s, lines, level_db = systems(1)
    figure = esr_over_time_figure(times_s, {r"$\no$ <b>": lines["_system_0"]}, level_db)
    render(figure)
    assert not figure.legends[0].get_texts()[0].get_parse_math()


def test_windows_without_error_or_level_are_gaps():
    times_s, lines, level_db = systems(2)
    lines["perfect"], lines["diverged"] = np.full(50, -np.inf), np.where(times_s < 1, -20.0, np.nan)
    level_db[:10] = -np.inf
    figure = esr_over_time_figure(times_s, lines, level_db)
    render(figure)
    errors, level = figure.axes
    assert np.isnan(errors.lines[2].get_ydata()).all()
    assert np.isnan(level.lines[0].get_ydata()).sum() == 10
    assert np.isfinite([*errors.get_ylim(), *level.get_ylim()]).all()
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["diverged", "_system_1", "_system_0", "perfect"]


def test_systems_without_a_value_a_window_are_refused():
    times_s, lines, level_db = systems(2)
    with pytest.raises(ValueError, match=r"short has shape \(49,\), but the times \(50,\)"):
        esr_over_time_figure(times_s, {**lines, "short": level_db[1:]}, level_db)
    with pytest.raises(ValueError, match=r"the target's level has shape \(49,\)"):
        esr_over_time_figure(times_s, lines, level_db[1:])
