"""One pass over the audio instead of one a layer: a model as a list of operations for native/planes.cpp."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from klann_lightning.native.build import library
from klann_lightning.native.calls import call, refuse_second_derivatives

KINDS = {"gated": 0, "linear": 1, "filter": 2}


class Header(ctypes.Structure):
    """As in planes.cpp."""

    _fields_ = (
        ("count", ctypes.c_int32),
        ("planes", ctypes.c_int32),
        ("widest", ctypes.c_int32),
        ("filters", ctypes.c_int32),
        ("bank", ctypes.c_int32 * 3),
        ("threads", ctypes.c_int32),
        ("parameters", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("input_scale", ctypes.c_double),
        ("output_scale", ctypes.c_double),
    )


class Operations(Protocol):
    """What a model's network is written down on, operation by operation.

    A plane is one channel of the sound; plane 0 is the input, the last one written is the output.
    """

    def layer(self, inputs: Sequence[int], linear: Any, gated: bool) -> list[int]:
        """nn.Linear, and where `gated` its first half times the sigmoid of the second; the planes written."""

    def filter(self, plane: int, index: int) -> int:
        """Biquad `index` of the flattened bank over one plane; the plane written."""


class Program:
    """Operations as native/planes.cpp takes them: which plane comes from which, and where its weights are."""

    def __init__(self, model: nn.Module, cutoff: Tensor, damping: Tensor, mix: Tensor) -> None:
        """`cutoff`, `damping` [.., F] and `mix` [.., F, 3]: the parameters of the model's filters."""
        self.slots = [
            (module, name) for module in model.modules() for name, _ in module.named_parameters(recurse=False)
        ]
        sizes = [parameter.numel() for parameter in self.parameters()]
        self.offsets = dict(zip(map(id, self.parameters()), accumulate(sizes, initial=0), strict=False))
        self.size = sum(sizes)
        self.bank = [self.offsets[id(part)] for part in (cutoff, damping, mix)]
        self.filters = cutoff.numel()
        self.planes = 1
        self.widest = 1
        self.operations: list[int] = []
        self.inputs: list[int] = []
        self.count = 0

    def parameters(self) -> list[Tensor]:
        """The model's own as they are now, in the order of the offsets."""
        return [getattr(module, name) for module, name in self.slots]

    def layer(self, inputs: Sequence[int], linear: Any, gated: bool) -> list[int]:
        """See Operations; LookupError if its weights are no parameters: pruned, or made from others."""
        width = linear.out_features // 2 if gated else linear.out_features
        weight, bias = self.offsets[id(linear.weight)], self.offsets[id(linear.bias)]
        return self._write("gated" if gated else "linear", inputs, width, weight, bias)

    def filter(self, plane: int, index: int) -> int:
        """See Operations."""
        return self._write("filter", [plane], 1, index, 0)[0]

    def _write(self, kind: str, inputs: Sequence[int], width: int, weight: int, bias: int) -> list[int]:
        self.operations += [KINDS[kind], len(inputs), width, self.planes, weight, bias, len(self.inputs)]
        self.inputs += inputs
        self.count += 1
        self.widest = max(self.widest, width)
        self.planes += width
        return list(range(self.planes - width, self.planes))


class CompiledProgram:
    """A program as the library takes it, which runs it in chunks of so many samples."""

    def __init__(self, program: Program, chunk: int) -> None:
        self.program = program
        self.chunk = chunk
        self.operations = (ctypes.c_int32 * len(program.operations))(*program.operations)
        self.inputs = (ctypes.c_int32 * len(program.inputs))(*program.inputs)
        self.bank = (ctypes.c_int32 * 3)(*program.bank)

    def run(
        self, x: Tensor, state: Tensor, parameters: Sequence[Tensor], input_scale: float, output_scale: float
    ) -> tuple[Tensor, Tensor]:
        """x [B, T], state [B, F, 2], parameters in the program's order -> (y [B, T], state after).

        y = model(x * input_scale) * output_scale. Differentiable once in x, state and parameters.
        """
        scales = (input_scale, output_scale)
        if torch.is_grad_enabled():
            return FusedPass.apply(self, scales, x, state, *parameters)
        return self.forward(x.contiguous(), state.contiguous(), flattened(parameters), scales, None)

    def forward(
        self, x: Tensor, state: Tensor, flat: Tensor, scales: tuple[float, float], marks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The same; `marks` [B, chunks, F, 2] takes the states at the chunks' starts."""
        output, after = torch.empty_like(x), torch.empty_like(state)
        self._call("forward", scales, flat, x, state, output, after, marks)
        return output, after

    def backward(
        self,
        *saved: Tensor,
        scales: tuple[float, float],
        given: tuple[Tensor, Tensor],
        x_wanted: bool,
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Saved are x, the parameters and the marks, given the gradients of y and of the state after.

        Those of x, where it is wanted, of the state and of the parameters.
        """
        x, flat, marks = saved
        y_grad, after_grad = (part.contiguous() for part in given)
        x_grad = torch.empty_like(x) if x_wanted else None
        state_grad, flat_grad = torch.empty_like(after_grad), torch.empty_like(flat)
        self._call("backward", scales, flat, x, marks, y_grad, after_grad, x_grad, state_grad, flat_grad)
        return x_grad, state_grad, flat_grad

    def _call(self, direction: str, scales: tuple[float, float], flat: Tensor, x: Tensor, *more: Any) -> None:
        program, (rows, samples) = self.program, x.shape
        header = Header(
            *(program.count, program.planes, program.widest, program.filters, self.bank),
            *(torch.get_num_threads(), program.size, rows, samples, *scales),
        )
        call(direction, x.dtype, ctypes.byref(header), self.operations, self.inputs, flat, x, *more)


def compiled(program: Program) -> CompiledProgram | None:
    """The program ready to run; None where nothing can be compiled."""
    native = library()
    return None if native is None else CompiledProgram(program, int(native.klann_chunk()))


def flattened(parameters: Sequence[Tensor]) -> Tensor:
    """All of them in one row."""
    return torch.cat([part.reshape(-1) for part in parameters])


class FusedPass(torch.autograd.Function):
    """The model's pass over x, of which only the filters' states every `chunk` samples are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        compiled: CompiledProgram,
        scales: tuple[float, float],
        x: Tensor,
        state: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x, flat = x.contiguous(), flattened(parameters)
        marks = x.new_empty(len(x), -(-x.shape[1] // compiled.chunk), *state.shape[1:])
        ctx.compiled, ctx.scales, ctx.shapes = compiled, scales, [part.shape for part in parameters]
        ctx.save_for_backward(x, flat, marks)
        return compiled.forward(x, state.contiguous(), flat, scales, marks)

    @staticmethod
    def backward(ctx: Any, output_grad: Tensor, after_grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        x_grad, state_grad, flat_grad = ctx.compiled.backward(
            *ctx.saved_tensors,
            scales=ctx.scales,
            given=(output_grad, after_grad),
            x_wanted=ctx.needs_input_grad[2],
        )
        parts = flat_grad.split([shape.numel() for shape in ctx.shapes])
        shaped = [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]
        return None, None, x_grad, state_grad, *shaped
