"""How a process of ours uses its machine, where the libraries' defaults are slow for small models."""

import ctypes
import os
import signal
from contextlib import suppress

from klann_lightning.native.build import start

SPINS = "1000"  # turns, some microseconds
KEPT_BLOCK = 2**25  # bytes, the most that glibc takes for M_MMAP_THRESHOLD
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
PR_SET_PDEATHSIG = 1  # of Linux' prctl.h


def before_torch() -> None:
    """For the start of a command: what only works before torch is imported, and what can go on meanwhile.

    A thread that waits for another one spins; by default for so long that on a busy machine it keeps
    the very one it waits for from running: steps took up to twenty times as long. OMP_WAIT_POLICY or
    GOMP_SPINCOUNT in the environment are the user's own choice.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    start()


def after_torch() -> None:
    """For the start of the work itself, in every process that trains or plays.

    Denormals count as zero: slow filters decay into them, and they are a hundred times slower. Memory
    that a step frees stays with the process, up to 32 MB a block: taking it anew from the system cost
    more than the spectra that it was for. Without a GPU none is looked for: torch would search for its
    driver in every optimizer step.
    """
    import torch

    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with suppress(OSError, AttributeError, TypeError):  # where the C library is not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def die_with_parent() -> None:
    """End this process when the one that has started it is killed: on a GPU it would wait for it for long."""
    with suppress(OSError, AttributeError, TypeError):  # where the system is not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
