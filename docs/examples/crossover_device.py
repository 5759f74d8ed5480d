"""A simulated device: a class-B output stage. As a program it is klann_lightning that can simulate it."""

import numpy as np
from scipy.signal import butter, sosfilt

from klann_lightning.cli import run
from klann_lightning.data.devices import DEVICES
from klann_lightning.data.signals import Samples

DEAD_ZONE = 0.02  # of full scale: the transistors' base voltage, as feedback leaves it
HIGHEST_HZ = 12000


def crossover(x: Samples, sample_rate: int) -> Samples:
    """Crossover distortion: nothing flows until one transistor takes over from the other. [T] -> [T].

    y = lowpass(x - DEAD_ZONE tanh(x / DEAD_ZONE)), a slope of 0 at rest and of 1 far from it.
    """
    bent = x - DEAD_ZONE * np.tanh(x / DEAD_ZONE)
    return np.asarray(sosfilt(butter(2, HIGHEST_HZ, fs=sample_rate, output="sos"), bent), dtype=np.float64)


DEVICES["crossover"] = crossover

if __name__ == "__main__":
    run()
