"""The compiled sums of losses.py: the energies of ESR, and those of the distance between two spectrograms.

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


class SpectralSums(torch.autograd.Function):
    """The sums of MagnitudeStft, [B, T], [B, T] -> [4], float64; differences of magnitudes have a gradient.

    Frames lie every `hop` samples: with `center` in their middle, the ends reflected, else from there on.
    Powers are floored at `eps`. `window` has the FFT's length, an even one.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, target: Tensor, window: Tensor, hop: int, eps: float, center: bool
    ) -> Tensor:
        (rows, samples), length, threads = output.shape, len(window), torch.get_num_threads()
        before = length // 2 if center else 0  # samples of the first frame before the first sample
        frames = (samples + 2 * before - length) // hop + 1
        sizes = (rows, samples, length, hop, before, frames, threads)
        framed = output.new_empty(rows, frames, length)
        spectra = []
        for side in (output, target):
            call("frames", side.dtype, side.contiguous(), window, *sizes, framed)
            spectra.append(torch.view_as_real(torch.fft.rfft(framed)))
        ours, theirs = spectra
        bins = ours.numel() // 2
        pieces = torch.empty(-(-bins // PIECE), 3, dtype=torch.float64)
        call("distances", ours.dtype, ours, theirs, bins, PIECE, float(eps), threads, pieces)
        ctx.save_for_backward(ours, theirs, window)
        ctx.sizes, ctx.eps = sizes, float(eps)
        return torch.cat([pieces.sum(0), pieces.new_tensor([bins])])

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        ours, theirs, window = ctx.saved_tensors
        gradient = torch.empty_like(ours)
        rows, samples, length, _, _, frames, threads = ctx.sizes
        difference, _, logs, _ = given.tolist()
        scales = (2 * difference, logs)
        count = (rows * frames, ours.shape[-2])
        call("distances_gradient", ours.dtype, ours, theirs, *count, ctx.eps, *scales, threads, gradient)
        framed = torch.fft.irfft(torch.view_as_complex(gradient), length, norm="forward")
        output_grad = ours.new_zeros(rows, samples)
        call("frames_gradient", ours.dtype, framed, window, *ctx.sizes, output_grad)
        return output_grad, None, None, None, None, None
