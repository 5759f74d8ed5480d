"""What is read beside ESR and MR-STFT: spectrum, loudness, dynamics, and the error as time goes by.

All functions take whole mono recordings [T] that lie in memory, compute in float64 and change nothing
they are given. They raise ValueError for arrays that do not match. Single figures are nan where they
are undefined, and where a value is not finite.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyloudnorm import Meter

from klann_lightning.losses import ESR_FLOOR

Signal = NDArray[np.floating[Any]]
Samples = NDArray[np.float64]

N_FFT = 2048
HOP = 512
FRAMES_AT_ONCE = 512  # 8 MiB a spectrum
SPECTRAL_FLOOR = 1e-6  # -60 dB: below lies mostly hiss, which no model predicts and any two of which differ
SILENCE = 1e-6  # -60 dB, the decay after which sound counts as gone (reverberation time, ISO 3382)
CREST_SECONDS = 1.0
ENVELOPE_SECONDS = 0.01
PAUSE_SECONDS = 0.1


class Fidelity(NamedTuple):
    """How output differs from target; 0 everywhere for an output that equals it."""

    log_spectral_distance_db: float  # >= 0
    loudness_error_lu: float  # output minus target
    crest_error_db: float  # >= 0
    envelope_error_db: float  # >= 0


def fidelity(output: Signal, target: Signal, sample_rate: int) -> Fidelity:
    """All single figures of a pair, each [T]. Memory: 32 bytes a sample beside the arrays given."""
    return Fidelity(
        log_spectral_distance(output, target),
        loudness_error(output, target, sample_rate),
        crest_error(output, target, sample_rate),
        envelope_error(output, target, sample_rate),
    )


def log_spectral_distance(output: Signal, target: Signal) -> float:
    """Root mean square over the bins of the difference of two log power spectra, mean over frames, in dB.

        d = sqrt(mean_k (10 log10 P_output[k] - 10 log10 P_target[k])^2)
    Gray and Markel 1976 (Distance measures for speech processing, IEEE Trans. ASSP 24(5)), their rms log
    spectral measure d_2. Hann window, 2048 samples, hop 512; whole frames only, so up to 511 samples at
    the end are not seen. Powers are floored at those of white noise 60 dB below the target's loudest
    frame: where the target is digitally silent, whatever an output leaves below counts as silence too.
    Noise above that counts: two noises of the same spectrum are 7.9 dB apart, so a lower floor would let
    the hiss of a recording, which no model can predict, drown what models do differ in.

    nan for fewer than 2048 samples and for a silent target. Memory: 16 bytes a sample, and 40 MiB.
    """
    pair = _pair(output, target)
    if pair.shape[-1] < N_FFT or not np.isfinite(pair).all():
        return math.nan
    floor = SPECTRAL_FLOOR * max(float(power.mean(-1).max()) for power in _power_spectra(pair[1]))
    if floor == 0:
        return math.nan
    distances = []
    for powers in zip(*map(_power_spectra, pair), strict=True):
        ours_db, theirs_db = (10 * np.log10(np.maximum(power, floor)) for power in powers)
        distances.append(np.sqrt(np.square(ours_db - theirs_db).mean(-1)))
    return float(np.concatenate(distances).mean())


def loudness_error(output: Signal, target: Signal, sample_rate: int) -> float:
    """Integrated loudness (ITU-R BS.1770-4) of output minus that of target, each [T], in LU.

    Amplitude 1 is full scale: the absolute gate lies at -70 LUFS, so unlike the other figures this one
    depends on the level of both. nan for less than 0.4 s, and where either never rises above that gate.
    """
    pair = _pair(output, target)
    if not np.isfinite(pair).all():
        return math.nan
    ours, theirs = (_loudness(x, sample_rate) for x in pair)
    return ours - theirs


def crest_error(output: Signal, target: Signal, sample_rate: int) -> float:
    """Mean over windows of |crest(output) - crest(target)|, where crest is peak over RMS, in dB.

    The windows are equal parts of the recording, as near to 1 s as they go. Those are left out where
    output or target lies 60 dB or more below the target's loudest; nan where none is left.
    """
    pair = _pair(output, target)
    if not np.isfinite(pair).all():
        return math.nan
    count = max(1, round(pair.shape[-1] / (CREST_SECONDS * sample_rate)))
    starts = np.arange(count) * pair.shape[-1] // count
    powers = _mean_powers(pair, starts)
    heard = (powers > SILENCE * powers[1].max()).all(0)
    if not heard.any():
        return math.nan
    peaks = np.maximum.reduceat(np.abs(pair), starts, axis=-1)
    crests_db = 20 * np.log10(peaks[:, heard]) - 10 * np.log10(powers[:, heard])
    return float(np.abs(crests_db[0] - crests_db[1]).mean())


def envelope_error(output: Signal, target: Signal, sample_rate: int) -> float:
    """RMS of the difference between the RMS envelopes in dB, windows of 10 ms: what a compressor acts on.

    Counted where the target's envelope is within 60 dB of its maximum; the output's is floored there.
    A constant gain counts. nan for a silent target.
    """
    pair = _pair(output, target)
    if not np.isfinite(pair).all():
        return math.nan
    powers = _mean_powers(pair, _starts(pair.shape[-1], ENVELOPE_SECONDS, sample_rate))
    floor = SILENCE * powers[1].max()
    heard = powers[1] > floor
    if not heard.any():
        return math.nan
    ours, theirs = np.maximum(powers[:, heard], floor)
    return float(np.sqrt(np.square(10 * np.log10(ours / theirs)).mean()))


def esr_over_time(output: Signal, target: Signal, sample_rate: int, window_s: float = 0.1) -> Samples:
    """ESR in dB of each `window_s` seconds: [T], [T] -> [windows]. Window k starts at k * window_s.

    The power under the divisor is at least 1e-2 of the target's mean power, as in losses.esr: without
    that, pauses would tower above the music. -inf where there is no error; inf or nan over a target that
    is silent throughout, and where a value is not finite.
    """
    ours, theirs = _pair(output, target)
    starts = _starts(theirs.size, window_s, sample_rate)
    power = _mean_powers(theirs, starts)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = _mean_powers(ours - theirs, starts)
        return 10 * np.log10(error / np.maximum(power, ESR_FLOOR * np.square(theirs).mean()))


def level_over_time(signal: Signal, sample_rate: int, window_s: float = 0.1) -> Samples:
    """RMS level in dB of the windows of `esr_over_time`, [T] -> [windows]; -inf for digital silence.

    0 dB is the RMS of a square wave at full scale; a full-scale sine has -3.01 dB.
    """
    x = _mono(signal)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_mean_powers(x, _starts(x.size, window_s, sample_rate)))


def noise_floor(recording: Signal, sample_rate: int) -> float:
    """Power of the quietest 100 ms over that of the whole recording [T], in dB; found in steps of 10 ms.

    A target's noise cannot be predicted from the input, so an ESR below this figure is not to be expected.
    Where music never pauses the quietest 100 ms are still music, and the figure is only an upper estimate
    of the noise; where noise was gated, or silence pasted in, it is too low: -inf for digital silence.
    nan for less than 100 ms, and where all is silent.
    """
    x = _mono(recording)
    step, steps = round(PAUSE_SECONDS * sample_rate / 10), 10
    if x.size < step * steps or not np.isfinite(x).all() or not x.any():
        return math.nan
    powers = np.square(x[: x.size // step * step]).reshape(-1, step).mean(-1)
    # each sum by itself: a running one would round at the level of the music
    quietest = np.lib.stride_tricks.sliding_window_view(powers, steps).mean(-1).min()
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(quietest / np.square(x).mean()))


def _mono(signal: Signal) -> Samples:
    if signal.ndim != 1 or signal.size == 0:
        raise ValueError(f"a recording of shape {signal.shape} must be [T] and not empty.")
    return np.asarray(signal, dtype=np.float64)


def _pair(output: Signal, target: Signal) -> Samples:
    """Both as float64, [2, T]: output, target."""
    if target.ndim != 1 or target.shape != output.shape or target.size == 0:
        raise ValueError(f"output {output.shape} and target {target.shape} must be [T], alike, not empty.")
    return np.stack([output, target], dtype=np.float64)


def _starts(samples: int, window_s: float, sample_rate: int) -> NDArray[np.intp]:
    """The first samples of consecutive windows."""
    size = round(window_s * sample_rate)
    if size < 1:
        raise ValueError(f"a window of {window_s} s at {sample_rate} Hz holds no sample.")
    return np.arange(0, samples, size)


def _mean_powers(x: Samples, starts: NDArray[np.intp]) -> Samples:
    """Mean squares of the windows that begin at `starts`, [..., T] -> [..., windows]."""
    sums = np.add.reduceat(np.square(x), starts, axis=-1)
    return np.asarray(sums / np.diff(starts, append=x.shape[-1]), dtype=np.float64)


def _power_spectra(x: Samples) -> Iterator[Samples]:
    """Hann-windowed power spectra [frames, bins] of consecutive groups of frames."""
    frames = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::HOP]
    window = np.hanning(N_FFT + 1)[:-1]
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        spectrum = np.fft.rfft(frames[start : start + FRAMES_AT_ONCE] * window)
        yield np.square(spectrum.real) + np.square(spectrum.imag)


def _loudness(x: Samples, sample_rate: int) -> float:
    """Integrated loudness in LUFS, [T] -> []; nan where no gating block of 0.4 s is loud enough."""
    # Blocks start every 0.1 s. The meter would count one that the recording's end cuts short, as if
    # silence followed; BS.1770 does not.
    steps = 10 * x.size // sample_rate
    if steps < 4:
        return math.nan
    whole = x[: math.ceil(steps * sample_rate / 10)]
    # De Man's are the filters of BS.1770; those that the meter takes unasked are 0.04 dB away from them.
    loudness = float(Meter(sample_rate, filter_class="DeMan").integrated_loudness(whole))
    return loudness if math.isfinite(loudness) else math.nan
