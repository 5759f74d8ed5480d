"""Simulated devices, to train and test on where no recording is at hand.

They are written in NumPy alone and share no code with the models, so a model cannot be right about them by
construction. Both are causal, deterministic and, like the dry signal, the same on every machine.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.lowpass import low_pass
from klann_lightning.data.signals import Samples, dry_signal, round_to_24_bit
from klann_lightning.errors import ConfigError

# Fuzz. Drive and bias are in units of the clipper's input, where 1 is its knee.
COUPLING_HZ, DC_BLOCK_HZ, TONE_HZ = 60.0, 20.0, 3500.0
DRIVE = 12.0
REST_BIAS = -0.4
BIAS_PER_CHARGE = 1.0
CHARGE_SECONDS = (0.1, 0.5)
FUZZ_LEVEL = 0.45

# Compressor.
CONTROL_SECONDS = 32 / 44100  # the cell's state moves this often
ATTACK_SECONDS, FAST_RELEASE_SECONDS = 0.010, 0.060
MEMORY_CHARGE_SECONDS = 2.0
MEMORY_RELEASE_SECONDS = (0.5, 2.5)  # of an unexposed and of a fully exposed cell
KNEE_POWER = 0.035**2  # mean square at the cell's output that would halve the gain
MAKE_UP = 2.0


def fuzz(x: Samples, sample_rate: int) -> Samples:
    """Clip hard, with a bias that recent loud playing drives into cut-off. [T] -> [T], |y| < 0.9.

        v = DRIVE * highpass(x)                    coupling capacitor
        charge = mean over CHARGE_SECONDS of lowpass(max(v, 0))
        w = v + REST_BIAS - BIAS_PER_CHARGE * charge
        y = FUZZ_LEVEL * lowpass(highpass(w / sqrt(1 + w**2)))

    As in a germanium fuzz, positive half-waves charge the coupling capacitor, which then holds the
    transistor near cut-off for some tenths of a second: what follows is more asymmetric, and if it is
    quiet, it is gated. The clipper's values span less than 2, so the DC-blocked output stays below 2 too.
    """
    v = DRIVE * (x - low_pass(x, COUPLING_HZ, sample_rate))
    charges = [low_pass(np.maximum(v, 0), 1 / (2 * math.pi * s), sample_rate) for s in CHARGE_SECONDS]
    w = v + REST_BIAS - BIAS_PER_CHARGE * (charges[0] + charges[1]) / 2
    clipped = _clip(w, REST_BIAS) - _clip(np.array([REST_BIAS]), REST_BIAS)  # silence gives exact zeros
    blocked = clipped - low_pass(clipped, DC_BLOCK_HZ, sample_rate)
    return FUZZ_LEVEL * low_pass(blocked, TONE_HZ, sample_rate)


def _clip(w: Samples, before: float) -> Samples:
    """Soft clipper w / sqrt(1 + w**2), averaged between neighbouring samples. [T] -> [T].

    The average is (F(w[n]) - F(w[n-1])) / (w[n] - w[n-1]) with F = sqrt(1 + w**2), which aliases less than
    the clipper itself (Parker, Zavalishin and Le Bivic, DAFx-16). Expanding by the sum of the two roots
    removes the difference, and with it the division by zero where the signal stands still.
    `before` stands for w[-1].
    """
    earlier = np.concatenate([[before], w[:-1]])
    return np.asarray((w + earlier) / (np.sqrt(1 + w**2) + np.sqrt(1 + earlier**2)), dtype=np.float64)


def optical_compressor(x: Samples, sample_rate: int) -> Samples:
    """Compress as an opto-electrical leveller (Teletronix LA-2A) does. [T] -> [T], |y| < 1.

        u = gain * x                               the cell, see `_cell_gain`
        y = MAKE_UP * u / (1 + (MAKE_UP * u)**4)**(1/4)

    The last line is a valve output stage: nearly linear up to 0.5, and never beyond 1.
    """
    block = max(1, round(CONTROL_SECONDS * sample_rate))
    padded = np.pad(x, (0, -len(x) % block)).reshape(-1, block)
    power = np.mean(padded**2, axis=1)
    gains = _cell_gain(power, block / sample_rate)
    ramp = np.arange(block) / block
    gain = gains[:-1, None] + (gains[1:] - gains[:-1])[:, None] * ramp
    u = MAKE_UP * (gain * padded).reshape(-1)[: len(x)]
    return np.asarray(u / np.sqrt(np.sqrt(1 + (u**2) ** 2)), dtype=np.float64)


def _cell_gain(power: Samples, step: float) -> Samples:
    """The light-dependent cell in its feedback loop. Mean squares of blocks [N] -> gains [N + 1], in (0, 1].

        light = gain**2 * power / KNEE_POWER       the lamp sees the compressed output
        fast' = (light - fast) / (ATTACK_SECONDS or FAST_RELEASE_SECONDS)
        slow' = (fast - slow) / (MEMORY_CHARGE_SECONDS or a release that grows with slow itself)
        gain  = 1 / (1 + (fast + slow) / 2)

    `step` is a block's length in seconds. Block k is played with gains[k] at its start and gains[k+1] at its
    end; both answer blocks before k, so nothing is looked at that has not been played. Far above the knee
    gain**3 ~ 1 / power, hence three dB in give one dB out.
    """
    attack, release = (1 - math.exp(-step / s) for s in (ATTACK_SECONDS, FAST_RELEASE_SECONDS))
    shortest, longest = MEMORY_RELEASE_SECONDS
    fast = slow = 0.0
    gains = [1.0, 1.0]
    for open_light in (power / KNEE_POWER).tolist():
        played = (gains[-2] + gains[-1]) / 2
        light = played * played * open_light
        fast += (attack if light > fast else release) * (light - fast)
        seconds = shortest + (longest - shortest) * slow / (1 + slow)
        slow += step / (MEMORY_CHARGE_SECONDS if fast > slow else seconds) * (fast - slow)
        gains.append(1 / (1 + (fast + slow) / 2))
    return np.array(gains[:-1])


DEVICES: dict[str, Callable[[Samples, int], Samples]] = {"fuzz": fuzz, "compressor": optical_compressor}


def simulate(
    device: str, seconds: float, sample_rate: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Play the dry signal of `seed` through a device. Returns (input, target), both [T], |.| < 1.

    The dry signal is rounded to multiples of 2**-23 before it enters the device, and the device's output
    after it, because mathematics libraries differ in the last bit and the samples shall not
    (`round_to_24_bit`). float32 holds these values exactly.
    """
    if device not in DEVICES:
        raise ConfigError(f"no simulated device is called {device!r}. There are: {', '.join(DEVICES)}.")
    dry = dry_signal(seconds, sample_rate, seed)
    wet = round_to_24_bit(DEVICES[device](dry, sample_rate))
    return dry.astype(np.float32), wet.astype(np.float32)
