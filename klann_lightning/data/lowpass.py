"""A low-pass of one pole: simulated instruments and devices have it, and the doctor knows devices by it."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Samples = NDArray[np.float64]


def low_pass(x: Samples, cutoff_hz: float, sample_rate: int) -> Samples:
    """An RC element; its weights are positive and add up to 1. [..., T] -> [..., T]."""
    pole = math.exp(-2 * math.pi * cutoff_hz / sample_rate)
    return np.asarray(lfilter([1 - pole], [1, -pole], x), dtype=np.float64)
