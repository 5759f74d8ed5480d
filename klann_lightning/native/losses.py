"""The compiled sums of losses.py: the energies of ESR, and the distance between two spectrograms.

Each takes contiguous CPU tensors of float32 or float64 and is differentiable once, in the output.
"""

from typing import Any

import torch
from torch import Tensor

from klann_lightning.native.calls import call, callable_with, refuse_second_derivatives

PIECE = 4096  # bins that are summed in the spectra's type, before their sums are added in double


def compilable(output: Tensor, target: Tensor) -> bool:
    """Whether the functions below can take these; else their plain twins do."""
    shaped = output.shape == target.shape and output.ndim == 2 and output.numel() > 0
    return shaped and not target.requires_grad and callable_with(output, target)


def spectral_sums(output: Tensor, target: Tensor, eps: float) -> Tensor:
    """Spectra [..., 2] of real and imaginary parts -> [3], float64.

    Energy of the magnitudes' difference, energy of the target's magnitudes, sum of |log magnitude
    difference|; powers are floored at `eps`.
    """
    bins, threads = output.numel() // 2, torch.get_num_threads()
    pieces = torch.empty(-(-bins // PIECE), 3, dtype=torch.float64)
    call("distances", output.dtype, output, target, bins, PIECE, float(eps), threads, pieces)
    return pieces.sum(0)


class Energies(torch.autograd.Function):
    """Energies of output - target and of target [B, T], in parts of `size` samples -> two of [B, parts]."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor]:
        output, target = output.contiguous(), target.contiguous()
        rows, samples = output.shape
        error, signal = output.new_empty(2, rows, -(-samples // size))
        call("energies", output.dtype, output, target, rows, samples, size, error, signal)
        ctx.save_for_backward(output, target)
        ctx.size = size
        ctx.mark_non_differentiable(signal)
        return error, signal

    @staticmethod
    def backward(ctx: Any, error_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        output, target = ctx.saved_tensors
        gradient = torch.empty_like(output)
        sizes = (*output.shape, ctx.size)
        call("energies_gradient", output.dtype, output, target, *sizes, error_grad.contiguous(), gradient)
        return gradient, None, None


class SpectralDistance(torch.autograd.Function):
    """Spectral convergence plus the mean difference of log magnitudes, [B, T], [B, T] -> [].

    As auraloss's STFTLoss: frames centred every `hop` samples, ends reflected, powers floored at `eps`.
    `window` has the FFT's length, an even one.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, target: Tensor, window: Tensor, hop: int, eps: float) -> Tensor:
        (rows, samples), length = output.shape, len(window)
        sizes = (rows, samples, length, hop, samples // hop + 1, torch.get_num_threads())
        framed = output.new_empty(2, rows, sizes[4], length)
        for side, frames in zip((output.contiguous(), target.contiguous()), framed, strict=True):
            call("frames", output.dtype, side, window, *sizes, frames)
        ours, theirs = torch.view_as_real(torch.fft.rfft(framed))
        difference, reference, logs = spectral_sums(ours, theirs, eps).tolist()
        ctx.save_for_backward(ours, theirs, window)
        ctx.sizes, ctx.eps = sizes, float(eps)
        bins = ours.numel() // 2
        ctx.scales = (difference * reference) ** -0.5 if difference else 0.0, 1 / bins
        return output.new_tensor((difference / reference) ** 0.5 + logs / bins)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        ours, theirs, window = ctx.saved_tensors
        gradient, scale = torch.empty_like(ours), float(given)
        rows, samples, length, _, frames, threads = ctx.sizes
        scales = [scale * part for part in ctx.scales]
        count = (rows * frames, ours.shape[-2])
        call("distances_gradient", ours.dtype, ours, theirs, *count, ctx.eps, *scales, threads, gradient)
        framed = torch.fft.irfft(torch.view_as_complex(gradient), length, norm="forward")
        output_grad = ours.new_zeros(rows, samples)
        call("frames_gradient", ours.dtype, framed, window, *ctx.sizes, output_grad)
        return output_grad, None, None, None, None
