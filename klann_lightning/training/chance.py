"""The random generators of a process, as plain data that a checkpoint can hold."""

import random
from typing import Any

import numpy as np
import torch


def generators() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's own generators, on the CPU and on its GPU."""
    name, words, place, has_normal, normal = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(words).tolist(), int(place), int(has_normal), float(normal)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_generators(states: dict[str, Any]) -> None:
    """Go on from what `generators` gave."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
