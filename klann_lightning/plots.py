"""Figures of what a model does: arrays in, matplotlib Figure or PNG out; touches no global state."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from klann_lightning.files import replacing

Signal = NDArray[np.floating[Any]]

# Okabe and Ito's blue, vermilion and black: far apart with every kind of colour vision.
COLORS = {"Target": "#0072B2", "Output": "#D55E00", "Residual": "#000000"}
FIGURE_INCHES = (12, 8)  # 1200 x 800 pixels at matplotlib's 100 dots an inch
WAVEFORM_COLUMNS = 2000  # more than the pixels of a panel
ZOOM_SECONDS = 0.030
SPECTROGRAM_COLUMNS = 1500
WINDOW_SECONDS = 0.09  # a compromise: bins of about 11 Hz, and attacks that stay sharp
SPECTROGRAM_RANGE_DB = 90.0
SHADES = "magma"
PICTURE_ROWS = 256
RESPONSE_RANGE_DB = 80.0
# Okabe and Ito's, with a grey in place of their yellow, which is too pale for a line on white.
LINE_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")


class Spectrograms(NamedTuple):
    """Target, output and residual on one scale."""

    levels_db: dict[str, NDArray[np.float64]]  # by name: [rows, columns], 0 to -90 dB re `unit`
    hz_edges: Signal  # [rows + 1]
    second_edges: Signal  # [columns + 1]
    unit: str


def waveform_figure(target: Signal, output: Signal, sample_rate: float, title: str = "") -> Figure:
    """Target, output and residual (output - target), each [T]: the whole file and the target's loudest 30 ms.

    The title gives the ESR in dB over all that is passed in: cut the opening context off for the scores' ESR.
    """
    _check_pair(target, output)
    signals = {"Target": target, "Output": output, "Residual": output - target}
    figure = Figure(FIGURE_INCHES, layout="constrained")
    figure.suptitle(f"{title}    {_esr_text(target, signals['Residual'])}".strip(), parse_math=False)
    *whole, zoom = figure.subplots(4, 1, height_ratios=[1, 1, 1, 2])
    for axes in whole[1:]:  # before anything is drawn, or only the target would set the limits
        axes.sharex(whole[0])
        axes.sharey(whole[0])
    for axes in whole[:-1]:
        axes.tick_params(labelbottom=False)

    start, stop = _zoom_range(target, round(ZOOM_SECONDS * sample_rate))
    for axes, (name, signal) in zip(whole, signals.items(), strict=True):
        indices, values = envelope(signal, WAVEFORM_COLUMNS)
        axes.plot(indices / sample_rate, values, color=COLORS[name], linewidth=0.8)
        axes.axvspan(start / sample_rate, stop / sample_rate, color="0.5", alpha=0.45, zorder=3)
        axes.set_ylabel(name, color=COLORS[name])
    whole[0].set_xlim(0, target.size / sample_rate)
    whole[-1].set_xlabel("Time (s)")

    milliseconds = 1000 * np.arange(stop - start) / sample_rate
    for name, signal in signals.items():
        width = 2.8 if name == "Target" else 1.2  # the target shows at both sides of an output upon it
        zoom.plot(milliseconds, signal[start:stop], color=COLORS[name], linewidth=width, label=name)
    zoom.set_xlim(0, max(1, stop - start - 1) * 1000 / sample_rate)
    zoom.set_xlabel(f"Time (ms) from {start / sample_rate:.3f} s, the grey band above")
    figure.legend(*zoom.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.supylabel("Amplitude (full scale = 1)", fontsize="medium")
    for axes in (*whole, zoom):
        axes.grid(alpha=0.3)
    return figure


def spectrogram_figure(target: Signal, output: Signal, sample_rate: float, title: str = "") -> Figure:
    """Spectrograms of target, output and residual (output - target), each [T], on one colour scale:
    0 to -90 dB re the target's highest bin (re a full-scale sine where the target is silent).

    The work is bounded: a file of any length gives at most 1500 columns, so in long files
    (beyond 139 s at 44.1 kHz) what happens between two columns' windows is not seen.
    """
    spectra = spectrograms(target, output, sample_rate)
    figure = Figure(FIGURE_INCHES, layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(3, 1, sharex=True, sharey=True)
    for axes, (name, level_db) in zip(panels, spectra.levels_db.items(), strict=True):
        hz_edges, second_edges = spectra.hz_edges, spectra.second_edges
        mesh = axes.pcolormesh(second_edges, hz_edges / 1000, level_db, cmap=SHADES, rasterized=True)
        mesh.set_clim(-SPECTROGRAM_RANGE_DB, 0)
        axes.set_title(name, loc="left", color=COLORS[name])
        axes.set_ylabel("Frequency (kHz)")
    panels[0].set_yscale("log")
    _label_decades(panels[0].yaxis, lambda khz, _: f"{khz:g}")
    panels[0].set_ylim(0.02, sample_rate / 2000)
    panels[0].set_xlim(0, min(target.size / sample_rate, second_edges[-1]))
    panels[-1].set_xlabel("Time (s)")
    figure.colorbar(mesh, ax=panels, label=f"Level (dB re {spectra.unit})", pad=0.01, fraction=0.03)
    return figure


def spectrograms(target: Signal, output: Signal, sample_rate: float) -> Spectrograms:
    """Levels of target, output and residual (output - target), each [T], floored at -90 dB; see there."""
    _check_pair(target, output)
    n_fft = 2 ** round(math.log2(WINDOW_SECONDS * sample_rate))
    hop = max(n_fft // 8, math.ceil(target.size / SPECTROGRAM_COLUMNS))
    spectra = {"Target": _stft(target, n_fft, hop), "Output": _stft(output, n_fft, hop)}
    spectra["Residual"] = spectra["Output"] - spectra["Target"]
    loudest = float(np.abs(spectra["Target"]).max())
    reference, unit = (loudest, "the target's maximum") if loudest > 0 else (1.0, "a full-scale sine")

    # One row a bin at the bottom, several higher up, where bins are finer than a log axis can show.
    rows = np.unique(np.geomspace(1, n_fft // 2, 300).round().astype(int))
    hz_edges = (np.append(rows, n_fft // 2 + 1) - 0.5) * sample_rate / n_fft
    second_edges = (np.arange(spectra["Target"].shape[1] + 1) - 0.5) * hop / sample_rate
    floor = reference * 10 ** (-SPECTROGRAM_RANGE_DB / 20)
    levels_db = {}
    for name, spectrum in spectra.items():
        # The maximum and not the mean: a lone harmonic keeps its level however many bins share its row.
        magnitude = np.maximum.reduceat(np.abs(spectrum), rows, axis=0)
        levels_db[name] = 20 * np.log10(np.maximum(magnitude, floor) / reference)
    return Spectrograms(levels_db, hz_edges, second_edges, unit)


def save_spectrogram(path: Path, spectra: Spectrograms, name: str, lowest_hz: float) -> None:
    """One of them as a bare PNG without axes: from `lowest_hz` to Nyquist in equal ratios, same colours."""
    grid_hz = np.geomspace(lowest_hz, spectra.hz_edges[-1], PICTURE_ROWS + 1)
    middles_hz = np.sqrt(grid_hz[1:] * grid_hz[:-1])
    rows = np.clip(np.searchsorted(spectra.hz_edges, middles_hz) - 1, 0, len(spectra.levels_db[name]) - 1)
    passed = np.minimum(np.append(rows[0], rows[:-1] + 1), rows)  # a narrow row that has no middle in it
    picture = np.maximum(spectra.levels_db[name][rows], spectra.levels_db[name][passed])
    with replacing(path) as aside:
        imsave(aside, picture, cmap=SHADES, vmin=-SPECTROGRAM_RANGE_DB, vmax=0, origin="lower")


def response_figure(
    frequencies_hz: Signal, magnitude_db: NDArray[np.floating[Any]], labels: Sequence[str], title: str = ""
) -> Figure:
    """Magnitude responses in dB of F filters, [F, N], over `frequencies_hz` [N]; one label a filter.

    Colours run from dark to light in the order of the labels, so give filters sorted by cutoff.
    The axis ends 80 dB below the highest value, because a notch is -inf dB deep.
    """
    if magnitude_db.shape != (len(labels), frequencies_hz.size):
        raise ValueError(
            f"magnitude_db has shape {magnitude_db.shape}, but there are {len(labels)} labels "
            f"and {frequencies_hz.size} frequencies. Give one row a label and one column a frequency."
        )
    figure = Figure(FIGURE_INCHES, layout="constrained")
    figure.suptitle(title, parse_math=False)
    axes = figure.subplots()
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(labels)))
    for index, (row, shade) in enumerate(zip(magnitude_db, shades, strict=True)):
        axes.plot(frequencies_hz, row, color=shade, linewidth=1.6, linestyle=("-", "--", "-.")[index % 3])
    axes.set_xscale("log")
    _label_decades(axes.xaxis, lambda hz, _: f"{hz:g}" if hz < 1000 else f"{hz / 1000:g}k")
    positive = frequencies_hz[frequencies_hz > 0]
    axes.set_xlim(positive.min(), positive.max())
    finite = magnitude_db[np.isfinite(magnitude_db)]
    top, bottom = (finite.max(), finite.min()) if finite.size else (0.0, 0.0)
    axes.set_ylim(max(bottom, top - RESPONSE_RANGE_DB) - 3, top + 3)
    axes.set_xlabel("Frequency (Hz)")
    axes.set_ylabel("Magnitude (dB)")
    axes.grid(alpha=0.3)
    columns = 1 + len(labels) // 31
    figure.legend(axes.lines, labels, loc="outside right center", fontsize="small", ncols=columns)
    return figure


def esr_over_time_figure(
    times_s: Signal, lines: dict[str, Signal], level_db: Signal, title: str = ""
) -> Figure:
    """ESR in dB of several systems by name, over the target's level in dB: each [windows], like `times_s`.

    `times_s` are the middles of the windows. The legend names the lines from the worst median down, which
    is about as they lie. What is not finite (a window without error is at -inf dB) is a gap. Eight lines of
    up to about 100 windows can be told apart: measure longer recordings in longer windows.
    """
    for name, values in {**lines, "the target's level": level_db}.items():
        if values.shape != times_s.shape:
            raise ValueError(f"{name} has shape {values.shape}, but the times {times_s.shape}.")
    figure = Figure(FIGURE_INCHES, layout="constrained")
    figure.suptitle(title, parse_math=False)
    errors, level = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
    for index, values in enumerate(lines.values()):
        turn, color = divmod(index, len(LINE_COLORS))
        style = {"color": LINE_COLORS[color], "linestyle": ("-", "--", ":")[turn % 3]}
        errors.plot(times_s, finite(values), linewidth=1.4, **style)
    errors.axhline(0, color="0.5", linewidth=0.8, zorder=1)  # where silence would be
    level.plot(times_s, finite(level_db), color=COLORS["Target"], linewidth=1)
    level.set_xlim(times_s.min(), times_s.max())
    level.set_xlabel("Time (s)")
    level.set_ylabel("Target (dB)", color=COLORS["Target"])
    errors.set_ylabel("ESR (dB)")
    for axes in (errors, level):
        axes.grid(alpha=0.3)
    medians = [np.sort(values)[values.size // 2] for values in lines.values()]  # nan comes last, as the worst
    order = np.argsort(medians)[::-1]
    handles, names = [errors.lines[index] for index in order], [list(lines)[index] for index in order]
    columns = 1 + len(lines) // 31
    legend = figure.legend(handles, names, loc="outside right center", fontsize="small", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def front_figure(
    places: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    named: dict[str, tuple[float, float]],
    size_label: str,
    error_label: str,
    title: str = "",
) -> Figure:
    """Error against size, each place (size, error): all models, those on the front, and some with names."""
    figure = Figure((8, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, parse_math=False)
    sizes, errors = zip(*places, strict=True)
    axes.scatter(sizes, errors, s=16, color="0.7", label="trials")
    blue = COLORS["Target"]
    axes.step(*zip(*front, strict=True), where="post", color=blue, marker="o", markersize=5, label="front")
    for place, (name, (size, error)) in enumerate(named.items()):
        label = "given" if place == 0 else None
        axes.scatter([size], [error], s=70, marker="D", color=COLORS["Output"], zorder=3, label=label)
        axes.annotate(
            name.replace("_", " "),
            (size, error),
            xytext=(8, 6),
            textcoords="offset points",
            parse_math=False,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    axes.set_xscale("log")
    axes.set_xlim(right=3.5 * max(sizes))  # room for names
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.tick_params(axis="x", which="minor", labelsize="small")
    axes.set_xlabel(size_label)
    axes.set_ylabel(error_label)
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    return figure


def _check_pair(target: Signal, output: Signal) -> None:
    if target.ndim != 1 or target.shape != output.shape or target.size == 0:
        raise ValueError(f"target {target.shape} and output {output.shape} must be [T], alike, not empty.")


def _energy(signal: Signal) -> float:
    """Sum of squares in float64, a piece at a time: a float64 copy of an hour would not be small."""
    pieces = np.array_split(signal, 1 + signal.size // 2**20)
    return sum(float(np.square(piece, dtype=np.float64).sum()) for piece in pieces)


def _esr_text(target: Signal, residual: Signal) -> str:
    error, reference = _energy(residual), _energy(target)
    if reference == 0:
        return "ESR undefined: the target is silent"
    return f"ESR {10 * math.log10(error / reference):.1f} dB" if error else "ESR -inf dB"


def _zoom_range(signal: Signal, length: int) -> tuple[int, int]:
    """First and last + 1 sample of that stretch of `length` samples, on a grid, with the most energy."""
    starts = np.arange(0, signal.size, length)
    loudest = int(starts[np.add.reduceat(np.square(signal), starts).argmax()])
    start = max(0, min(loudest, signal.size - length))
    return start, min(start + length, signal.size)


def finite(values: Signal) -> Signal:
    """With nan, which is not drawn, for infinity."""
    return np.where(np.isfinite(values), values, np.nan)


def envelope(signal: Signal, columns: int) -> tuple[NDArray[np.intp], Signal]:
    """Sample indices and values to draw: minimum, maximum of each column, or a short signal as it is."""
    if signal.size <= 2 * columns:
        return np.arange(signal.size), signal
    starts = np.arange(columns) * signal.size // columns
    extremes = [np.minimum.reduceat(signal, starts), np.maximum.reduceat(signal, starts)]
    return np.repeat(starts, 2), np.stack(extremes, axis=1).ravel()


def _stft(signal: Signal, n_fft: int, hop: int) -> NDArray[np.complex128]:
    """[T] -> [n_fft // 2 + 1, columns]; Hann windows centred on 0, hop, ...; a full-scale sine gives 1.

    Windows are gathered, because padding would copy a signal that may be an hour long; what they
    reach beyond its ends is its mirror image, where zeros would draw a click.
    """
    period = max(1, 2 * (signal.size - 1))
    indices = (np.arange(0, signal.size, hop)[:, None] + np.arange(n_fft) - n_fft // 2) % period
    frames = signal[np.minimum(indices, period - indices)].astype(np.float64)
    frames[~np.isfinite(frames)] = np.nan  # draws as a gap, where inf would make the FFT warn
    window = np.hanning(n_fft + 1)[:-1]
    return np.asarray(np.fft.rfft(frames * window).T * (2 / window.sum()), dtype=np.complex128)


def _label_decades(axis: Axis, label: Callable[[float, int], str]) -> None:
    """Ticks of a log axis at 1, 2, 5, 10, 20 ..., named by `label(value, position)`."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=30))
    axis.set_major_formatter(FuncFormatter(label))
    axis.set_minor_locator(NullLocator())
