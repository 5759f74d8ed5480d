"""What a benchmark finds, as data: `speed_report` shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from klann_lightning.errors import ConfigError
from klann_lightning.measuring import Figure, Machine

# Float32 that no step can do without: the input read forward and backward, the output written, output and
# target read by the loss, the output's gradient written and read.
LEAST_BYTES = 7 * 4  # a sample


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how often; the defaults are those of the command."""

    runs: int = 7
    run_seconds: float = 0.2  # what a run lasts at least: a step repeated, its time the mean
    batch: int = 8  # rows of a scan step
    frames: int = 8192  # samples a row, all counted
    paper_batch: int = 50
    paper_frames: int = 32768
    paper_counted: int = 1024  # at the end of each row
    paper_runs: int = 3  # enough, once they have taken
    paper_seconds: float = 20.0
    playing: float = 10.0  # seconds of audio
    blocks: Sequence[int] = (16, 64, 256, 1024)  # samples
    calls: int = 1000  # a block size
    copied: int = 2**28  # bytes, far more than caches hold
    grow_frames: Sequence[int] = (1024, 4096, 16384, 65536)
    grow_batch: Sequence[int] = (1, 4, 16, 64)
    grow_lift_dim: Sequence[int] = (1, 5, 10, 20)
    grow_sections: Sequence[int] = (1, 2, 4)
    runtime_block: int = 64  # samples
    runtime_blocks: int = 20_000
    runtime_repeats: int = 20

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ConfigError(f"runs must be at least 1, not {self.runs}")


@dataclass(frozen=True)
class Memory:
    """The most that the tensors which one training step makes hold, beside its input and the model."""

    samples: int  # of the step's input, B * T
    bytes: int
    bytes_per_value: float  # a sample and lifted channel


@dataclass(frozen=True)
class BlockSpeed:
    """Playing block by block, as an effect in real time does."""

    samples: int
    latency_us: Figure
    p99_us: float
    real_time: float  # the block's duration over the median latency


@dataclass(frozen=True)
class SystemSpeed:
    """One model. Throughput: samples that enter the loss per second of forward, backward, optimizer step."""

    name: str
    parameters: int
    channels: int  # lifted
    scan: Figure  # counted samples per second
    part_of_best: float  # of what the memory's bandwidth allows
    paper: Figure | None  # counted samples per second by the paper's recipe; None: the model has no such path
    ratio: Figure | None  # scan over paper, of neighbouring steps
    memory: Sequence[Memory]  # of a scan step, and of one twice as long
    paper_memory: int | None  # bytes
    synchronises: bool | None  # a scan step waits for the device; None on the CPU
    playing: Figure  # offline, times real time
    blocks: Sequence[BlockSpeed]


@dataclass(frozen=True)
class RuntimeSpeed:
    """One model, played by one build of the C++ runtime."""

    name: str
    built: str  # for which processors
    latency_us: Figure  # of a block: the medians of the repeats
    p999_us: float  # 99.9th percentile of all blocks of all repeats
    real_time: float  # the block's duration over the median latency
    worst: float  # each block with the quickest of its times: the worst over their median


@dataclass(frozen=True)
class Runtime:
    """The C++ runtime, float, on one core."""

    compiler: str | None
    missing: str | None  # why there are no figures, or not of every build
    speeds: Sequence[RuntimeSpeed]


@dataclass(frozen=True)
class Growth:
    """The small parallel system with one size changed."""

    dimension: str
    value: int
    scan: Figure  # counted samples per second
    memory: Memory
    playing: Figure  # [B, T] in one call, times real time


@dataclass(frozen=True)
class Report:
    """All that one run of the command measures."""

    machine: Machine
    sizes: Sizes
    copying: Figure  # bytes read and written per second
    best: float  # samples per second that copying at LEAST_BYTES a sample would allow
    systems: Sequence[SystemSpeed]
    runtime: Runtime
    growth: Sequence[Growth]
