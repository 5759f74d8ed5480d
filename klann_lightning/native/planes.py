"""One pass over the audio instead of one a layer: a model as a list of operations for native/planes.cpp."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from klann_lightning.native.build import call, library

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


class Program:
    """What happens to one sample, written down once: which plane comes from which.

    A plane is one channel of one row; plane 0 is the input, the last one written is the output.
    """

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
        """nn.Linear, and where `gated` its first half times the sigmoid of the second; the planes written."""
        width = linear.out_features // 2 if gated else linear.out_features
        weight, bias = self.offsets[id(linear.weight)], self.offsets[id(linear.bias)]
        return self._write("gated" if gated else "linear", inputs, width, weight, bias)

    def filter(self, plane: int, index: int) -> int:
        """Biquad `index` of the flattened bank over one plane; the plane written."""
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

    def run(self, x: Tensor, state: Tensor, input_scale: float, output_scale: float) -> tuple[Tensor, Tensor]:
        """x [B, T], state [B, F, 2] -> (y [B, T], state after).

        y = model(x * input_scale) * output_scale. Differentiable once in x, state and parameters.
        """
        return FusedPass.apply(self, input_scale, output_scale, x, state, *self.program.parameters())

    def header(self, x: Tensor, input_scale: float, output_scale: float) -> Header:
        """What the library wants to know of a call."""
        program, (rows, samples) = self.program, x.shape
        return Header(
            *(program.count, program.planes, program.widest, program.filters, self.bank),
            *(torch.get_num_threads(), program.size, rows, samples, input_scale, output_scale),
        )

    def call(self, direction: str, header: Header, *tensors: Tensor | None) -> None:
        """One of the library's functions on contiguous tensors of one type."""
        dtype = next(part.dtype for part in tensors if part is not None)
        call(direction, dtype, ctypes.byref(header), self.operations, self.inputs, *tensors)


def compiled(program: Program) -> CompiledProgram | None:
    """The program ready to run; None where nothing can be compiled."""
    native = library()
    return None if native is None else CompiledProgram(program, int(native.klann_chunk()))


class FusedPass(torch.autograd.Function):
    """The model's pass over x, of which only the filters' states every `chunk` samples are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        compiled: CompiledProgram,
        input_scale: float,
        output_scale: float,
        x: Tensor,
        state: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor]:
        x, state = x.contiguous(), state.contiguous()
        flat = torch.cat([part.reshape(-1) for part in parameters])
        header = compiled.header(x, input_scale, output_scale)
        output, after, marks = torch.empty_like(x), torch.empty_like(state), None
        if any(ctx.needs_input_grad):
            chunks = -(-x.shape[1] // compiled.chunk)
            marks = x.new_empty(len(x), chunks, state.shape[1], 2)
            ctx.compiled, ctx.header, ctx.shapes = compiled, header, [part.shape for part in parameters]
            ctx.save_for_backward(x, flat, marks)
        compiled.call("forward", header, flat, x, state, output, after, marks)
        return output, after

    @staticmethod
    def backward(ctx: Any, output_grad: Tensor, after_grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the compiled pass has no second derivatives; set model.fused = False for them"
            )
        x, flat, marks = ctx.saved_tensors
        x_grad = torch.empty_like(x) if ctx.needs_input_grad[3] else None
        before_grad, flat_grad = torch.empty_like(after_grad), torch.empty_like(flat)
        grads = (output_grad.contiguous(), after_grad.contiguous())
        ctx.compiled.call("backward", ctx.header, flat, x, marks, *grads, x_grad, before_grad, flat_grad)
        parts = flat_grad.split([shape.numel() for shape in ctx.shapes])
        shaped = [part.view(shape) for part, shape in zip(parts, ctx.shapes, strict=True)]
        return None, None, None, x_grad, before_grad, *shaped
