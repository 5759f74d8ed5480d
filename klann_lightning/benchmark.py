"""How fast the systems train and play on this machine, and how that grows with their sizes."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.profiler import ProfilerActivity, profile

from klann_lightning.errors import ConfigError
from klann_lightning.losses import esr, mse
from klann_lightning.manners import say, watched
from klann_lightning.measuring import (
    Action,
    Figure,
    calls_in,
    copy_speed,
    figure,
    machine,
    peak_bytes,
    prepare,
    repeated,
    seconds,
    synchronises,
)
from klann_lightning.models.base import AudioModel, State
from klann_lightning.models.klann import Klann, ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.runtime_speed import measure_runtime
from klann_lightning.speed_figures import LEAST_BYTES, BlockSpeed, Growth, Memory, Report, Sizes, SystemSpeed
from klann_lightning.speed_report import as_json, as_markdown, as_text, between_markers, refuse_unwritable
from klann_lightning.training.checkpoints import load_model

# As sweeps/systems/ has them.
SYSTEMS: dict[str, Callable[[], AudioModel]] = {
    "small_parallel": partial(ParallelKlann, [3, 4, 5], 5),
    "small_parallel_series": partial(ParallelSeriesKlann, [3, 4, 5], 5, 5),
    "small_stacked": partial(StackedKlann, [4], 5, 3, 4),
    "large_parallel": partial(ParallelKlann, [5, 10, 15], 15),
    "large_parallel_series": partial(ParallelSeriesKlann, [5, 10, 15], 15, 15),
    "large_stacked": partial(StackedKlann, [8], 8, 3, 12, 2),
}


def run(
    systems: str,
    checkpoints: Sequence[Path],
    runs: int,
    threads: int | None,
    device: str,
    json: Path | None,
    markdown: Path | None,
    trace: Path | None,
) -> None:
    """Measure, print, and write what is asked for; ConfigError before that for what cannot be written."""
    where, sizes, models = prepare(device, threads), Sizes(runs=runs), choose(systems, checkpoints)
    if markdown:
        between_markers(markdown, "")
    for path in filter(None, (json, markdown, trace)):
        refuse_unwritable(path)
    report = measure(models, sizes, where)
    print(as_text(report))
    if trace:
        write_profile(trace, sizes, where)
    if json:
        json.write_text(as_json(report), encoding="utf-8")
    if markdown:
        markdown.write_text(between_markers(markdown, as_markdown(report)), encoding="utf-8")


def choose(systems: str, checkpoints: Sequence[Path]) -> dict[str, AudioModel]:
    """Systems by a comma-separated list of names, checkpoints by their stem, or path where that is taken."""
    names = [name for name in systems.replace(" ", "").split(",") if name]
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise ConfigError(f"no system is called {', '.join(unknown)}; there are {', '.join(SYSTEMS)}")
    if not names and not checkpoints:
        raise ConfigError("nothing to measure: name systems or give a checkpoint")
    taken = [*names, *(path.stem for path in checkpoints)]
    titles = [path.stem if taken.count(path.stem) == 1 else str(path) for path in checkpoints]
    loaded = map(load_model, checkpoints)
    return {name: SYSTEMS[name]() for name in names} | dict(zip(titles, loaded, strict=True))


def measure(models: dict[str, AudioModel], sizes: Sizes, device: torch.device) -> Report:
    """Everything about the models; how speed grows only if the small parallel system is among them."""
    here = machine(device)
    _progress("copying")
    copying = copy_speed(sizes.copied, sizes.runs, device, sizes.run_seconds)
    best = copying.median / LEAST_BYTES
    _progress("the C++ runtime")
    runtime = measure_runtime(models if device.type == "cpu" else {}, sizes)
    systems = []
    for name, model in models.items():
        _progress(name)
        systems.append(measure_system(name, model.to(device), sizes, best, device))
    growth = list(measure_growth(sizes, device)) if "small_parallel" in models else []
    return Report(here, sizes, copying, best, systems, runtime, growth)


def measure_system(
    name: str, model: AudioModel, sizes: Sizes, best: float, device: torch.device
) -> SystemSpeed:
    """One model, which is trained a few steps by it."""
    x, _ = _audio(1, int(sizes.playing * model.sample_rate), device)
    playing = _playing(model, x, sizes, device)
    blocks = [_block_speed(model, samples, sizes.calls, device) for samples in sizes.blocks]
    memory = [_memory(model, sizes.batch, frames, device) for frames in (sizes.frames, 2 * sizes.frames)]
    step = scan_step(model, sizes.batch, sizes.frames, device)
    step()
    waits = synchronises(step, device)
    scan, paper, ratio, paper_memory = _training(model, step, sizes, device)
    trained = (scan, scan.median / best, paper, ratio, memory, paper_memory, waits)
    return SystemSpeed(name, model.parameter_count(), _channels(model), *trained, playing, blocks)


def measure_growth(sizes: Sizes, device: torch.device) -> Iterator[Growth]:
    """The small parallel system, one of T, B, D and sections changed at a time."""
    base = {"T": sizes.frames, "B": sizes.batch, "D": 5, "sections": 1}
    varied = {
        "T": sizes.grow_frames,
        "B": sizes.grow_batch,
        "D": sizes.grow_lift_dim,
        "sections": sizes.grow_sections,
    }
    for dimension, values in varied.items():
        _progress(f"small_parallel, growing {dimension}")
        for value in values:
            size = base | {dimension: value}
            model = ParallelKlann([3, 4, 5], size["D"], size["sections"]).to(device)
            playing = _playing(model, _audio(size["B"], size["T"], device)[0], sizes, device)
            memory = _memory(model, size["B"], size["T"], device)
            step = scan_step(model, size["B"], size["T"], device)
            times = repeated(step, sizes.runs, device, sizes.run_seconds)
            scan = _rates(size["B"] * size["T"], times)
            yield Growth(dimension, value, scan, memory, playing)


def scan_step(model: AudioModel, batch: int, frames: int, device: torch.device) -> Action:
    """A training step as sweeps/recipes/fast.yaml takes it: state carried, ESR, clipping, Adam.

    Without what a fit does around it: reading, logging, validation.
    """
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, target = _audio(batch, frames, device)
    power = target.square().mean()
    state: State | None = None

    def step() -> None:
        nonlocal state
        output, after = model.advance(x, [False] * batch, state)
        state = tuple(part.detach() for part in after)
        loss = esr(output, target, power).mean()
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def sampled_step(model: AudioModel, batch: int, frames: int, counted: int, device: torch.device) -> Action:
    """A training step as sweeps/recipes/paper.yaml takes it: filters sampled, MSE of each row's end, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, target = _audio(batch, frames, device)
    power, scored = target.square().mean(), slice(frames - counted, None)

    def step() -> None:
        loss = mse(model.forward_sampled(x)[:, scored], target[:, scored], power).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def write_profile(path: Path, sizes: Sizes, device: torch.device) -> None:
    """A torch profiler trace of three scan steps of the small parallel system, for chrome://tracing."""
    step = scan_step(SYSTEMS["small_parallel"]().to(device), sizes.batch, sizes.frames, device)
    step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as recorded:
        for _ in range(3):
            step()
    recorded.export_chrome_trace(str(path))


def _training(
    model: AudioModel, step: Action, sizes: Sizes, device: torch.device
) -> tuple[Figure, Figure | None, Figure | None, int | None]:
    """Throughput of the scan step and of the paper's, their ratio, and the peak memory of the paper's."""
    counted = sizes.batch * sizes.frames
    if type(model).forward_sampled is AudioModel.forward_sampled:
        times = repeated(step, sizes.runs, device, sizes.run_seconds)
        return _rates(counted, times), None, None, None
    paper_step = sampled_step(model, sizes.paper_batch, sizes.paper_frames, sizes.paper_counted, device)
    memory = peak_bytes(paper_step, device)  # its warm-up, too
    scan_s, paper_s = _in_turn(step, paper_step, sizes, device)
    scan, paper = (
        [samples / taken for taken in times]
        for samples, times in ((counted, scan_s), (sizes.paper_batch * sizes.paper_counted, paper_s))
    )
    ratios = [ours / theirs for ours, theirs in zip(scan, paper, strict=True)]
    return figure(scan), figure(paper), figure(ratios), memory


def _in_turn(
    scan: Action, paper: Action, sizes: Sizes, device: torch.device
) -> tuple[list[float], list[float]]:
    """Seconds of a step: a run of one, a step of the other, so that a busy machine slows both alike."""
    scan_s: list[float] = []
    paper_s: list[float] = []
    scans = calls_in(sizes.run_seconds, scan, device)
    while len(paper_s) < sizes.runs:
        if len(paper_s) >= sizes.paper_runs and sum(paper_s) > sizes.paper_seconds:
            break
        scan()  # the other's step has emptied the caches, as no training does
        scan_s.append(seconds(scan, device, scans))
        paper_s.append(seconds(paper, device))
    return scan_s, paper_s


@torch.no_grad()
def _playing(model: AudioModel, x: Tensor, sizes: Sizes, device: torch.device) -> Figure:
    """x [B, T] in one call, times real time."""
    return _rates(
        x.numel() / model.sample_rate, repeated(lambda: model(x), sizes.runs, device, sizes.run_seconds)
    )


@torch.no_grad()
def _block_speed(model: AudioModel, samples: int, calls: int, device: torch.device) -> BlockSpeed:
    """One block after another, the state carried on."""
    x, _ = _audio(1, samples, device)
    state = model.init_state(1)

    def step() -> None:
        nonlocal state
        _, state = model.step(x, state)

    latency = torch.tensor(repeated(step, calls, device, least=0), dtype=torch.float64) * 1e6
    us = figure(latency.tolist())
    duration_us = samples / model.sample_rate * 1e6
    return BlockSpeed(samples, us, float(latency.quantile(0.99)), duration_us / us.median)


def _memory(model: AudioModel, batch: int, frames: int, device: torch.device) -> Memory:
    step = scan_step(model, batch, frames, device)
    step()
    peak = peak_bytes(step, device)
    return Memory(batch * frames, peak, peak / (batch * frames * _channels(model)))


def _channels(model: AudioModel) -> int:
    return len(model.bank.cutoff) if isinstance(model, Klann) else 1


def _audio(batch: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Noise and the same through a soft clip, [B, T] each, equal in every run."""
    x = 0.2 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    return x.to(device), torch.tanh(4 * x).to(device)


def _rates(amount: float, times: Sequence[float]) -> Figure:
    return figure([amount / time for time in times])


def _progress(what: str) -> None:
    if watched():
        say(f"measuring {what}")
