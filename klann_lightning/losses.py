"""Loss terms by name; every term compares output and target [B, T] and is differentiable in the output."""

from collections.abc import Callable
from dataclasses import dataclass, field

import auraloss
import torch
from torch import Tensor, nn
from torch.nn import functional

from klann_lightning.native.losses import Energies, SpectralDistance, compilable, spectral_sums

PRE_EMPHASIS = 0.85  # 1 - 0.85 z^-1, Wright and Valimaki 2020 (Perceptual loss function for neural modelling)
ESR_WINDOW = 8192  # samples
ESR_FLOOR = 1e-2  # a segment's power counts as at least this part of the training power

Term = Callable[[Tensor, Tensor, Tensor], Tensor]  # output [B, T], target [B, T], training power [] -> [B]


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
    """Mean squared error."""
    return (output - target).square().mean(-1)


def l1(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Mean absolute error."""
    return (output - target).abs().mean(-1)


def esr(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Error-to-signal ratio: error energy over target energy, the latter floored.

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
    """ESR after pre-emphasis (Wright and Valimaki 2020)."""
    return esr(pre_emphasised(output), pre_emphasised(target), power)


def dc(output: Tensor, target: Tensor, power: Tensor) -> Tensor:
    """Squared mean of the error over the target's power, floored as in esr."""
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
    """auraloss's STFT loss without the phase, which it computes and never uses: a third faster."""

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss, [B, T], [B, T] -> []; on the CPU as a compiled pass, five times faster again."""
        long_enough = output.shape[-1] > self.fft_size // 2 and self.fft_size % 2 == 0
        if not (long_enough and compilable(output, target)):
            return self(output[:, None], target[:, None])
        around = self.fft_size - self.win_length
        window = functional.pad(self.window.to(output), (around // 2, around - around // 2))
        return SpectralDistance.apply(output, target, window, self.hop_size, self.eps)

    def stft(self, x: Tensor) -> tuple[Tensor, None]:
        return self.magnitudes(x), None

    def sums(self, output: Tensor, target: Tensor) -> Tensor:
        """Of the frames from the first sample on, [B, T], [B, T] -> [3], float64.

        Energy of the magnitudes' difference, energy of the target's magnitudes, sum of |log magnitude
        difference|.
        """
        if compilable(output, target):
            # in memory a spectrum lies frame by frame
            spectra = [torch.view_as_real(self._spectrum(x, False).mT) for x in (output, target)]
            return spectral_sums(spectra[0], spectra[1], self.eps)
        ours, theirs = (self.magnitudes(x, center=False).double() for x in (output, target))
        logs = (ours.log() - theirs.log()).abs().sum()
        return torch.stack([(theirs - ours).square().sum(), theirs.square().sum(), logs])

    def magnitudes(self, x: Tensor, center: bool = True) -> Tensor:
        """Magnitudes [B, bins, frames] of x [B, T]; uncentred, the first frame starts at x[0]."""
        spectrum = self._spectrum(x, center)
        power = spectrum.real.square() + spectrum.imag.square()
        return power.clamp(min=self.eps).sqrt()

    def _spectrum(self, x: Tensor, center: bool) -> Tensor:
        return torch.stft(
            x,
            self.fft_size,
            self.hop_size,
            self.win_length,
            self.window.to(x),
            center=center,
            return_complex=True,
        )


def magnitude_stfts(resolutions: StftResolutions) -> list[MagnitudeStft]:
    """One a resolution."""
    sizes = zip(resolutions.fft_sizes, resolutions.hop_sizes, resolutions.win_lengths, strict=True)
    return [MagnitudeStft(*size) for size in sizes]


class MultiResolutionStft(nn.Module):
    """MR-STFT of Yamamoto et al. 2020 as auraloss computes it: [B, T], [B, T] -> [].

    Mean over the resolutions of spectral convergence (one norm over the whole batch) and the mean
    absolute difference of the log magnitudes. Segments must be longer than half the largest FFT.
    """

    def __init__(self, resolutions: StftResolutions) -> None:
        super().__init__()
        self.stfts = magnitude_stfts(resolutions)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.stack([stft.distance(output, target) for stft in self.stfts]).mean()
