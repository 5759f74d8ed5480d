"""The compiled sums of losses.py: the energies of ESR, and the distance between two spectrograms.

Each takes contiguous CPU tensors of float32 or float64 and is differentiable once, in the output.
"""

from typing import Any

import torch
from torch import Tensor

from klann_lightning.native.build import DTYPES, call, library


def compilable(output: Tensor, target: Tensor) -> bool:
    """Whether the functions below can take these; else their plain twins do."""
    alike = output.device.type == target.device.type == "cpu" and output.dtype == target.dtype
    known = str(output.dtype) in DTYPES and output.numel() > 0
    plain = target.requires_grad or torch.compiler.is_compiling()
    return alike and known and not plain and library() is not None


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
        _refuse_second_derivatives()
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
        bins = ours.numel() // 2
        pieces = torch.empty(3, library().klann_pieces(bins), dtype=torch.float64)  # type: ignore[union-attr]
        sums = torch.empty(3, dtype=torch.float64)
        call("distances", output.dtype, ours, theirs, bins, float(eps), sizes[5], pieces, sums)
        difference, reference, logs = sums.tolist()
        ctx.save_for_backward(ours, theirs, window)
        ctx.sizes, ctx.eps = sizes, float(eps)
        ctx.scales = (difference * reference) ** -0.5 if difference else 0.0, 1 / bins
        return output.new_tensor((difference / reference) ** 0.5 + logs / bins)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
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


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("compiled losses have no second derivatives; KLANN_COMPILE=0 leaves them out")
