"""Calls of the compiled passes with tensors, which C knows only as addresses: checked here."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from klann_lightning.native.build import library

DTYPES = {torch.float32: "float32", torch.float64: "float64"}  # that every pass is compiled for


def callable_with(*tensors: Tensor) -> bool:
    """Whether the passes can take these: plain CPU tensors of one type, outside torch's transforms."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    dtype = tensors[0].dtype
    alike = dtype in DTYPES and all(
        part.dtype == dtype and part.device.type == "cpu" and type(part) in (Tensor, nn.Parameter)
        for part in tensors
    )
    return alike and library() is not None  # asked last: nothing is built for what it cannot take


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """A function of the library for one type: int as int64, float as double, tensors as pointers.

    Raises ValueError for a tensor of another type or device, or with gaps between its samples.
    """
    function = getattr(library(), f"klann_{name}_{DTYPES[dtype]}")
    function(*(_as_c(argument, dtype) for argument in arguments))


def refuse_second_derivatives() -> None:
    """For a backward that is not differentiable itself; torch would take its result as constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the compiled passes have no second derivatives; set model.fused = False, and KLANN_COMPILE=0 "
            "in the environment for those of the losses"
        )


def _as_c(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        if (
            value.dtype not in (dtype, torch.float64)
            or value.device.type != "cpu"
            or not value.is_contiguous()
        ):
            raise ValueError(f"a compiled pass of {dtype} cannot read {value.dtype} on {value.device}")
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_double(value) if isinstance(value, float) else value
