"""Loss terms by name; every term compares output and target [B, T] and is differentiable in the output.

Each gives one number a row, [B]; its third argument is the mean power [] of the training target. Equations:
docs/mathematics.md, "Losses".
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import auraloss
import torch
from torch import Tensor
from torch.nn import functional

from klann_lightning.native.losses import Energies, SpectralSums, compilable

PRE_EMPHASIS = 0.85  # 1 - 0.85 z^-1, Wright and Valimaki 2020 (Perceptual loss function for neural modelling)
ESR_WINDOW = 8192  # samples
ESR_FLOOR = 1e-2  # a segment's power counts as at least this part of the training power

Term = Callable[[Tensor, Tensor, Tensor], Tensor]  # output [B, T], target [B, T], training power [] -> [B]
Total = Callable[[Tensor], Tensor]  # sums over a process's own rows -> over those of all processes, alike [N]


@dataclass(frozen=True)
class StftResolutions:
    """The spectrograms of MR-STFT, in samples; the defaults are the paper's."""

    fft_sizes: list[int] = field(default_factory=lambda: [1024, 512, 256])
    hop_sizes: list[int] = field(default_factory=lambda: [120, 50, 25])
    win_lengths: list[int] = field(default_factory=lambda: [600, 240, 100])


def pre_emphasised(x: Tensor) -> Tensor:
    """x[n] - 0.85 x[n-1], [B, T] -> [B, T-1]: high frequencies weigh more, as they do to the ear."""
    return x[..., 1:] - PRE_EMPHASIS * x[..., :-1]


def mse(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Mean squared error, [B, T], [B, T] -> [B], in units of full scale squared."""
    return (output - target).square().mean(-1)


def l1(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Mean absolute error, [B, T], [B, T] -> [B], in full scale."""
    return (output - target).abs().mean(-1)


def esr(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Error-to-signal ratio: error energy over target energy, the latter floored. [B, T], [B, T] -> [B].

    Wright, Damskägg, Välimäki 2019 (Real-time black-box modelling with recurrent neural networks, DAFx).
    Rows longer than 8192 samples count as the mean over equal parts of at most that length, so that
    quiet passages matter. Without the floor of 1e-2 of the training power silence would outweigh all.
    """
    samples = output.shape[-1]
    parts = -(-samples // ESR_WINDOW)
    size = -(-samples // parts)
    energies = Energies.apply if compilable(output, target) else part_energies
    error, signal = energies(output, target, size)
    return (error / signal.clamp(min=ESR_FLOOR * power * samples / parts)).mean(-1)


def esr_pre(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """ESR after pre-emphasis, [B, T], [B, T] -> [B] (Wright and Välimäki 2020, Perceptual loss function)."""
    return esr(pre_emphasised(output), pre_emphasised(target), power)


def dc(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Squared mean of the error over the target's power, floored as in esr. [B, T], [B, T] -> [B]."""
    return (output - target).mean(-1).square() / target.square().mean(-1).clamp(min=ESR_FLOOR * power)


def part_energies(output: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Energies of output - target and of target [B, T], in parts of `size` samples -> two of [B, parts]."""
    parts = -(-output.shape[-1] // size)
    both = torch.stack(torch.broadcast_tensors(output - target, target))
    padded = functional.pad(both, (0, parts * size - output.shape[-1]))
    error, signal = padded.unflatten(-1, (parts, size)).square().sum(-1)
    return error, signal


TERMS: dict[str, Term] = {"mse": mse, "esr": esr, "esr_pre": esr_pre, "l1": l1, "dc": dc}


class MagnitudeStft(auraloss.freq.STFTLoss):
    """auraloss's STFT loss taken apart into sums; without the phase, which it computes and never uses."""

    def sums(self, output: Tensor, target: Tensor, center: bool = True) -> Tensor:
        """What `mr_stft` needs, adding up over rows and over files: [B, T], [B, T] -> [4], float64.

        Energy of the magnitudes' difference, energy of the target's magnitudes, sum of |log magnitude
        difference|, bins. Uncentred, the first frame starts at the first sample. On the CPU a compiled pass,
        five times faster.
        """
        long_enough = output.shape[-1] > self.fft_size // 2 if center else output.shape[-1] >= self.fft_size
        if long_enough and self.fft_size % 2 == 0 and compilable(output, target):
            around = self.fft_size - self.win_length
            window = functional.pad(self.window.to(output), (around // 2, around - around // 2))
            return SpectralSums.apply(output, target, window, self.hop_size, self.eps, center)
        ours, theirs = (self._magnitudes(x, center) for x in (output, target))
        parts = (theirs - ours).square(), theirs.square(), (ours.log() - theirs.log()).abs()
        sums = [part.sum(dtype=torch.float64) for part in parts]
        return torch.stack([*sums, sums[0].new_full((), ours.numel())])

    def _magnitudes(self, x: Tensor, center: bool) -> Tensor:
        """Magnitudes [B, bins, frames] of x [B, T]."""
        spectrum = torch.stft(
            x,
            self.fft_size,
            self.hop_size,
            self.win_length,
            self.window.to(x),
            center=center,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return power.clamp(min=self.eps).sqrt()


def magnitude_stfts(resolutions: StftResolutions) -> list[MagnitudeStft]:
    """One a resolution."""
    sizes = zip(resolutions.fft_sizes, resolutions.hop_sizes, resolutions.win_lengths, strict=True)
    return [MagnitudeStft(*size) for size in sizes]


def mr_stft(sums: Tensor) -> Tensor:
    """MR-STFT of Yamamoto et al. 2020 as auraloss computes it, from MagnitudeStft's sums: [R, 4] -> [].

    Mean over the resolutions of spectral convergence (one norm over everything) and the mean absolute
    difference of the log magnitudes. At equal spectra, where the norm has no gradient, it is 0.
    """
    difference, target, logs, bins = sums.unbind(-1)
    equal = difference == 0
    norm = difference.masked_fill(equal, 1).sqrt().masked_fill(equal, 0)
    return (norm / target.sqrt() + logs / bins).mean()


def batch_terms(
    names: Collection[str],
    output: Tensor,
    target: Tensor,
    weight: Tensor,
    power: Tensor,
    stfts: Sequence[MagnitudeStft],
    total: Total,
) -> dict[str, Tensor]:
    """Loss terms by name, [B, T], [B, T] -> [] each, float64: over the rows of all processes together.

    Each is a function of sums over the rows, to which `total` adds those of the other processes' rows.
    Rows weigh `weight` [B] in all terms but mr_stft, and must be longer than half its largest FFT there.
    """
    plain, weights = [name for name in names if name in TERMS], weight.double()
    rows = [TERMS[name](output, target, power).double() @ weights for name in plain]
    spectra = [stft.sums(output, target) for stft in stfts] if "mr_stft" in names else []
    sums = total(torch.cat([torch.stack([weights.sum(), *rows]), *spectra]))
    (weighing, *weighed), spectral = sums.tensor_split([1 + len(rows)])
    terms = {name: value / weighing for name, value in zip(plain, weighed, strict=True)}
    if "mr_stft" in names:
        terms["mr_stft"] = mr_stft(spectral.unflatten(0, (-1, 4)))
    return terms


class AddedUp(torch.autograd.Function):
    """Sums [N] over a process's own rows -> over those of all `ranks` processes, by `add_up`.

    The gradient in the own ones is `ranks` times the result's: averaged over the processes, as DDP does, the
    parameters' gradients are those of the rows of all. The value is the same to the bit everywhere, which
    `own + (all - own).detach()` would not be.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, add_up: Total, ranks: int) -> Tensor:
        ctx.ranks = ranks
        return add_up(own)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None, None]:
        return ctx.ranks * given, None, None
