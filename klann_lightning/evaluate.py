"""How good is it, and beside what: a model's whole-file scores next to what no model is needed for."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from scipy.linalg import solve_toeplitz
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from klann_lightning.losses import StftResolutions
from klann_lightning.metrics import ErrorRatios, FileScores, decibels
from klann_lightning.models.base import AudioModel, State

Batches = Iterable[dict[str, Any]]  # whole files, block after block, as PairedDataModule feeds them
WIENER_TAPS = 512


class Row(NamedTuple):
    """One line of the table; a model far better on the training recordings has learnt those by heart."""

    name: str
    esr_db: float
    mr_stft: float
    train_esr_db: float | None = None


class Fir(AudioModel):
    """A fixed linear filter y[n] = sum_k taps[k] x[n-k], as a model."""

    taps: Tensor

    def __init__(self, taps: Tensor) -> None:
        super().__init__()
        self.register_buffer("taps", taps)

    def init_state(self, batch: int) -> State:
        """One tensor [B, taps - 1]: the samples before."""
        return (self.taps.new_zeros(batch, len(self.taps) - 1),)

    def multiply_adds(self) -> int:
        return len(self.taps)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        joined = torch.cat([state[0], x], -1)
        y = functional.conv1d(joined[:, None], self.taps.flip(0)[None, None])[:, 0]
        return y, (joined[:, x.shape[-1] :],)


@torch.no_grad()
def score(model: AudioModel, batches: Batches, resolutions: StftResolutions) -> dict[str, float]:
    """Every score of FileScores over whole files, in bounded memory."""
    scores = _measured(model, batches, FileScores(resolutions, shared=False))
    return {name: float(value) for name, value in scores.items()}


@torch.no_grad()
def esr_db(model: AudioModel, batches: Batches) -> float:
    """ESR over whole files of any length, without the spectra; nan where nothing is scored."""
    return float(decibels(_measured(model, batches, ErrorRatios(shared=False))["esr"]))


def _measured(model: AudioModel, batches: Batches, metric: Metric) -> dict[str, Tensor]:
    state = None
    for batch in batches:
        output, state = model.advance(batch["input"].to(model.input_level), batch["fresh"], state)
        scored = slice(batch["skip"], None)
        metric.update(output[:, scored], batch["target"][:, scored], last=batch["last"])
    result: dict[str, Tensor] = metric.compute()
    return result


def best_taps(batches: Batches, count: int) -> Tensor:
    """The causal filter of `count` taps with the least squared error on these very samples: [count].

    Wiener's solution: autocorrelation r and cross-correlation p up to lag count - 1, summed over the
    scored samples, then the Toeplitz system R w = p. One tap is the best single gain.
    """
    auto, cross = torch.zeros(2, count, dtype=torch.float64)
    past = torch.zeros(1, count - 1, dtype=torch.float64)
    for batch in batches:
        past = past * (not batch["fresh"][0])
        joined = torch.cat([past, batch["input"].double()], -1)
        scored = slice(batch["skip"], None)
        history = joined[:, scored]  # count - 1 samples longer than what is scored
        x, y = batch["input"][:, scored].double(), batch["target"][:, scored].double()
        auto += _lagged_products(x, history, count)
        cross += _lagged_products(y, history, count)
        past = joined[:, joined.shape[-1] - (count - 1) :]
    auto[0] *= 1 + 1e-9  # keeps the system solvable where the input lacks whole bands
    return torch.from_numpy(solve_toeplitz(auto.numpy(), cross.numpy())).float()


def baselines(batches: Batches, resolutions: StftResolutions) -> list[Row]:
    """Doing nothing, the best single gain and the best linear filter, each fitted to the scored samples."""
    return [row(name, score(filter, batches, resolutions)) for name, filter in fixed_filters(batches).items()]


def fixed_filters(batches: Batches) -> dict[str, Fir]:
    """What needs no model, by name; the gain and the filter are fitted to these very samples."""
    taps = {
        "input as it is": torch.ones(1),
        "best gain": best_taps(batches, 1),
        f"best {WIENER_TAPS}-tap filter": best_taps(batches, WIENER_TAPS),
    }
    return {name: Fir(own) for name, own in taps.items()}


def row(name: str, scores: dict[str, float], train_esr_db: float | None = None) -> Row:
    """The table's part of the scores."""
    return Row(name, scores["esr_db"], scores["mr_stft"], train_esr_db)


def table(title: str, rows: Iterable[Row]) -> str:
    """Rows as aligned text.

    >>> print(table("la2a, test", [Row("best gain", -7.03, 0.9), Row("stage-1-time", -15.8, 0.73, -17.2)]))
    la2a, test                    ESR dB   MR-STFT  train ESR
    best gain                      -7.03     0.900
    stage-1-time                  -15.80     0.730     -17.20
    """
    lines = [f"{title:<28}{'ESR dB':>8}{'MR-STFT':>10}{'train ESR':>11}"]
    for name, ratio_db, mr_stft, train_db in rows:
        train = "" if train_db is None else f"{train_db:>11.2f}"
        lines.append(f"{name:<28}{ratio_db:>8.2f}{mr_stft:>10.3f}{train}")
    return "\n".join(lines)


def _lagged_products(x: Tensor, history: Tensor, count: int) -> Tensor:
    """sum_n x[n] h[n - k] for k = 0 .. count - 1, where history starts count - 1 samples before x."""
    size = x.shape[-1] + count - 1
    n_fft = 1 << (size - 1).bit_length()
    spectrum = torch.fft.rfft(x, n_fft).conj() * torch.fft.rfft(history, n_fft)
    return torch.fft.irfft(spectrum, n_fft)[:, :count].flip(-1).sum(0)
