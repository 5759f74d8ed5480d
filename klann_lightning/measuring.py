"""How anything here is timed and weighed: medians with their spread, peak memory, this machine."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.profiler import ProfilerActivity, profile

from klann_lightning.errors import ConfigError
from klann_lightning.native.host import after_torch

Action = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """Several runs of one measurement."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    runs: int


@dataclass(frozen=True)
class Machine:
    """What a measurement holds for."""

    device: str  # the processor's name
    threads: int  # of the host that a computation is spread over
    torch: str
    load_average: float | None  # of the last minute before the measurement, where the system tells it
    date: str  # UTC, ISO 8601


def figure(values: Sequence[float]) -> Figure:
    """Median and quartiles, interpolated between the values.

    >>> figure([4.0, 1.0, 2.0, 3.0, 100.0])
    Figure(median=3.0, low=2.0, high=4.0, runs=5)
    """
    several = values if len(values) > 1 else [*values, *values]
    low, median, high = statistics.quantiles(several, n=4, method="inclusive")
    return Figure(median, low, high, len(values))


def prepare(device: str, threads: int | None) -> torch.device:
    """Set this process up as `process` does, with so many threads; ConfigError if there is no such device."""
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device here; leave --device out to measure the processor")
    after_torch()
    return torch.device(device)


def machine(device: torch.device) -> Machine:
    """This one, as it stands now."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Machine(name, torch.get_num_threads(), torch.__version__, load, now)


def seconds(action: Action, device: torch.device, calls: int = 1) -> float:
    """Wall time of one call, as the mean of several, from an idle device to an idle device."""
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(calls):
        action()
    _wait_for(device)
    return (time.perf_counter() - start) / calls


def calls_in(least: float, action: Action, device: torch.device) -> int:
    """How many calls take at least so many seconds, after one that warms up."""
    action()
    return math.ceil(least / min(seconds(action, device) for _ in range(3))) or 1


def repeated(action: Action, runs: int, device: torch.device, least: float) -> list[float]:
    """Seconds that a call takes, in so many runs that last at least `least` seconds each."""
    calls = calls_in(least, action, device)
    return [seconds(action, device, calls) for _ in range(runs)]


def copy_speed(size: int, runs: int, device: torch.device, least: float) -> Figure:
    """Memory bandwidth in bytes a second: a copy of `size` bytes reads as many and writes as many."""
    source = torch.ones(size // 4, device=device)
    target = torch.zeros_like(source)
    moved = source.nbytes + target.nbytes
    return figure([moved / taken for taken in repeated(lambda: target.copy_(source), runs, device, least)])


def peak_bytes(action: Action, device: torch.device) -> int:
    """The most bytes that tensors made during one call hold at a time.

    On the CPU it counts what torch's allocator hands out: not what a library takes by itself.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    moments = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    return _peak([(e["args"]["Addr"], e["args"]["Bytes"]) for e in moments])


def synchronises(action: Action, device: torch.device) -> bool | None:
    """Whether one call makes the host wait for a CUDA device; None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        action()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _peak(events: Sequence[tuple[int, int]]) -> int:
    """Of allocations (address, bytes) and releases (address, -bytes), in the order of their happening.

    The profiler's own running total is of no use: it also takes off what was made before it started.
    """
    live: dict[int, int] = {}
    total = peak = 0
    for address, size in events:
        if size > 0:
            live[address] = size
            total += size
        else:
            total -= live.pop(address, 0)
        peak = max(peak, total)
    return peak


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    description = Path("/proc/cpuinfo")
    lines = description.read_text().splitlines() if description.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
