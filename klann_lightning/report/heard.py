"""What is heard of a recording: its versions as sounds, each with the figures that go with it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.signal import fftconvolve, firwin, kaiserord

import klann_lightning.report.contents as contents
from klann_lightning.charts import LOWEST_HZ, track_figure
from klann_lightning.comparison.scoring import Recordings, Samples, Take
from klann_lightning.fidelity import Signal, esr_over_time, loudness_error
from klann_lightning.losses import StftResolutions
from klann_lightning.metrics import FileScores
from klann_lightning.plots import save_spectrogram, spectrograms
from klann_lightning.portrait import Drawn, of_output
from klann_lightning.report.assets import PICTURES, write_figure, write_sound

FULL_SCALE = 0.99  # that no sound exceeds
LOUDER = 10.0  # times the target's peak: what is louder still is clipped, or it would silence all others
ESR_SECONDS, ESR_WINDOWS = 0.1, 300  # the windows of longer excerpts are longer
ANCHOR_HZ, ANCHOR_STOP_HZ, ANCHOR_DB = 3500.0, 4500.0, 60.0
Namer = Callable[..., str]  # a key for names


@dataclass(frozen=True)
class Output:
    """What a model, or somebody else, has made of a device's takes."""

    system: str
    stage: str  # or what else tells it from others of the same group
    kind: Literal["model", "extra"]
    played: Mapping[str, Samples]  # by take: its opening, as much of it as is looked at
    scores: Mapping[str, tuple[float, float]]  # the same: ESR in dB and MR-STFT of all of it
    last: bool = True  # of its run's stages
    charts: Sequence[contents.Chart] = ()  # of the model itself
    note: str = ""
    keys: dict[str, str] = field(default_factory=dict)  # of the versions made of it, by take's key

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.system, self.stage)))


def write_take(
    out: Path,
    take: Take,
    outputs: Sequence[Output],
    device: str,
    recordings: Recordings,
    seconds: float,
    key: Namer,
) -> contents.Take:
    """A take after its context, at most so many seconds of it: sounds, spectrograms, figures."""
    rate, start = recordings.sample_rate, recordings.context
    excerpt = slice(start, min(len(take.target), start + round(seconds * rate)))
    source, target = take.input[excerpt], take.target[excerpt]
    own = [output for output in outputs if take.name in output.played]
    sounds = [output.played[take.name][excerpt] for output in own]
    anchor = low_anchor(target, rate)
    gain = common_gain([source, target, *([] if anchor is None else [anchor]), *sounds], target, rate)
    take_key = key(take.name)

    def version(
        name: str, label: str, kind: contents.Kind, sound: Signal, **more: object
    ) -> contents.Version:
        found = key(take.name, name)
        write_sound(out, found, np.nan_to_num(np.clip(gain * sound, -1, 1)), rate)
        return contents.Version(found, label, kind, match_db(sound, target, rate), **more)  # type: ignore[arg-type]

    versions = [version("input", "Input", "input", source), version("target", "Target", "target", target)]
    for output, sound in zip(own, sounds, strict=True):
        esr_db, mr_stft = output.scores[take.name]
        made = version(output.label, output.label, output.kind, sound, esr_db=esr_db, mr_stft=mr_stft)
        track = _write_track(out, made.key, target, sound, rate)
        drawn = of_output(source, target, sound, rate)
        charts = [track, *write_charts(out, made.key, drawn), *output.charts]
        made.charts.extend(charts)
        output.keys[take_key] = made.key
        versions.append(made)
    if anchor is not None:
        versions.append(version("anchor", "Anchor", "anchor", anchor))
    lowered_db = -20 * math.log10(gain)
    return contents.Take(take_key, take.name, device, len(target) / rate, rate, lowered_db, versions)


def write_charts(out: Path, key: str, drawn: Mapping[str, Drawn]) -> list[contents.Chart]:
    """Figures as files."""
    charts = []
    for name, (title, note, figure) in drawn.items():
        chart = contents.Chart(f"{key}-{name}", title, note, int(figure.layout.height))
        write_figure(out, chart.key, figure)
        charts.append(chart)
    return charts


def match_db(sound: Signal, target: Signal, sample_rate: int) -> float:
    """Gain that makes a sound [T] as loud as the target (ITU-R BS.1770); of its RMS where that is nan."""
    difference = -loudness_error(sound, target, sample_rate)
    if math.isfinite(difference):
        return difference
    powers = [float(np.mean(np.square(x, dtype=np.float64))) for x in (target, sound)]
    return (
        10 * math.log10(powers[0] / powers[1]) if min(powers) > 0 and all(map(math.isfinite, powers)) else 0.0
    )


def common_gain(sounds: Sequence[Signal], target: Signal, sample_rate: int) -> float:
    """What all sounds of a take are lowered by, so that none clips, nor when it is as loud as the target.

    A sound that is not finite, or more than 20 dB above the target, does not count: it is clipped.
    """
    most = LOUDER * float(np.abs(target).max())
    peaks = []
    for sound in sounds:
        peak = float(np.abs(sound).max()) * max(1.0, 10 ** (match_db(sound, target, sample_rate) / 20))
        peaks.append(min(peak, most) if most > 0 else peak)
    loudest = max(peak for peak in peaks if math.isfinite(peak))
    return min(1.0, FULL_SCALE / loudest) if loudest > 0 else 1.0


def low_anchor(target: Signal, sample_rate: int) -> Signal | None:
    """The low anchor of ITU-R BS.1534-3: [T] low-passed at 3.5 kHz, in phase with the target.

    At least 25 dB down at 4 kHz and 50 dB at 4.5 kHz, within 0.1 dB up to 3.5 kHz. None where the sample rate
    leaves nothing above.
    """
    if sample_rate <= 2 * ANCHOR_STOP_HZ:
        return None
    taps, beta = kaiserord(ANCHOR_DB, (ANCHOR_STOP_HZ - ANCHOR_HZ) / 2 / (sample_rate / 2))
    middle_hz = ANCHOR_HZ + (ANCHOR_STOP_HZ - ANCHOR_HZ) / 4
    kernel = firwin(taps | 1, middle_hz, window=("kaiser", beta), fs=sample_rate)
    filtered: Signal = fftconvolve(target, kernel, "same").astype(np.float32)
    return filtered


def _write_track(out: Path, key: str, target: Signal, sound: Signal, rate: int) -> contents.Chart:
    finite = np.nan_to_num(sound)
    spectra = spectrograms(target, finite, rate)
    pictures = {}
    for name in spectra.levels_db:
        pictures[name] = f"{PICTURES}/{key}-{name.lower()}.png"
        save_spectrogram(out / pictures[name], spectra, name, LOWEST_HZ)
    window_s = max(ESR_SECONDS, len(target) / rate / ESR_WINDOWS)
    esr_db = esr_over_time(finite, target, rate, window_s)
    figure = track_figure(target, finite, rate, esr_db, window_s, pictures, spectra)
    note = (
        f"Waveforms, residual, ESR in windows of {window_s:.2g} s, and spectrograms with one scale: dB re "
        f"{spectra.unit}."
    )
    drawn = {"track": Drawn("As time goes by", note, figure)}
    return write_charts(out, key, drawn)[0]


def take_scores(output: Signal, target: Signal) -> tuple[float, float]:
    """ESR in dB and MR-STFT of one take, [T] each."""
    metric = FileScores(StftResolutions(), shared=False)
    metric.update(torch.from_numpy(output)[None], torch.from_numpy(target)[None])
    scores = metric.compute()
    return float(scores["esr_db"]), float(scores["mr_stft"])
