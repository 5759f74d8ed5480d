"""A figure of a pair: an attack as recorded and as mended, delay against time, level out against level in."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from klann_lightning.doctor.blocks import powers
from klann_lightning.doctor.diagnose import Diagnosis, excerpt
from klann_lightning.errors import PairError
from klann_lightning.files import replacing
from klann_lightning.plots import COLORS

Samples = NDArray[np.float64]

SHOWN_SECONDS = 0.03
WINDOW_SECONDS = 0.01
FAINT_DB = -90.0


def save_figure(diagnosis: Diagnosis, path: Path) -> None:
    """Write a PNG, PDF or SVG, as the name ends. PairError where the files could not be aligned."""
    if diagnosis.recipe is None:
        raise PairError(f"no figure of {diagnosis.input}: how it and its target lie is not known.")
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise PairError(f"cannot draw {path}: name it .png, .pdf or .svg.")
    figure = pair_figure(diagnosis)
    with replacing(path) as aside:
        figure.savefig(aside, format=path.suffix.lower()[1:])


def pair_figure(diagnosis: Diagnosis) -> Figure:
    """Four panels of a diagnosis that has a recipe."""
    recorded, mended = excerpt(diagnosis, mended=False), excerpt(diagnosis, mended=True)
    rate = diagnosis.dry.sample_rate if diagnosis.dry else 1
    at = _attack(mended[0], rate)
    figure = Figure((12, 8), layout="constrained")
    figure.suptitle(f"{diagnosis.input.name} and {diagnosis.target.name}", parse_math=False)
    panels = figure.subplots(2, 2)
    _waves(panels[0, 0], recorded, at, rate, "As recorded")
    _waves(panels[0, 1], mended, at, rate, "Mended")
    _delays(panels[1, 0], diagnosis, rate)
    _levels(panels[1, 1], mended, rate)
    return figure


def _attack(x: Samples, rate: int) -> int:
    """The sample where the level rises most, a third of what is shown before it."""
    window = max(round(0.003 * rate), 1)
    power = np.add.reduceat(np.square(x), np.arange(0, len(x), window))
    rises = np.diff(np.sqrt(power))
    first = int(np.argmax(rises)) * window if len(rises) else 0
    return max(min(first - round(SHOWN_SECONDS * rate / 3), len(x) - round(SHOWN_SECONDS * rate)), 0)


def _waves(axes: Axes, pair: tuple[Samples, Samples], at: int, rate: int, title: str) -> None:
    frames = round(SHOWN_SECONDS * rate)
    for name, samples, color in zip(("input", "target"), pair, COLORS.values(), strict=False):
        part = samples[at : at + frames]
        time = 1000 * np.arange(len(part)) / rate
        axes.plot(time, part / (np.abs(part).max(initial=0) or 1), label=name, color=color, linewidth=1)
    axes.set(title=f"{title}, each to its own scale", xlabel="Time (ms)", ylabel="Amplitude")
    axes.legend(loc="upper right")


def _delays(axes: Axes, diagnosis: Diagnosis, rate: int) -> None:
    axes.set(title="How late the target is", xlabel="Time (s)", ylabel="Delay (samples)")
    aligned = diagnosis.aligned
    if aligned is None or diagnosis.dry is None:
        return
    soundings = aligned.clock.soundings if aligned.clock else ()
    axes.errorbar(
        [one.at / rate for one in soundings],
        [one.delay for one in soundings],
        [one.sd for one in soundings],
        fmt="o",
        color=COLORS["Target"],
        markersize=4,
        label="measured",
    )
    n = np.linspace(0, diagnosis.dry.frames, 500)
    axes.plot(n / rate, aligned.alignment.at(n) - n, color=COLORS["Output"], label="taken")
    low, high = axes.get_ylim()
    if high - low < 2:  # a hundredth of a sample is not to look like a mountain
        axes.set_ylim((low + high) / 2 - 1, (low + high) / 2 + 1)
    axes.ticklabel_format(useOffset=False)
    axes.legend()


def _levels(axes: Axes, pair: tuple[Samples, Samples], rate: int) -> None:
    window = max(round(WINDOW_SECONDS * rate), 1)
    levels = [10 * np.log10(powers(samples, window) + 1e-20) for samples in pair]
    heard = (levels[0] > FAINT_DB) & (levels[1] > FAINT_DB)
    axes.plot(levels[0][heard], levels[1][heard], ".", color=COLORS["Target"], markersize=2, alpha=0.4)
    axes.set(title="Level of every 10 ms", xlabel="Input (dB of full scale)", ylabel="Target (dB)")
