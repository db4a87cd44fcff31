"""What comes in as tensors, and how gradients go out: once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cpu_tensor(x: Any, name: str) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(x).__name__}; the functions of ragfast take arrays"
        )
    if x.device.type != "cpu":
        raise ValueError(
            f"{name}: expected a tensor in CPU memory, got one on {x.device}: ragfast calculates on the CPU. "
            f"Pass {name}.cpu(), through which gradients flow back"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {x.layout}")
    return x


def single_or_double(x: Tensor, name: str) -> Tensor:
    """A tensor as float32 or float64, with its gradient."""
    x = cpu_tensor(x, name)
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def as_double(x: Any, name: str) -> Tensor:
    x = cpu_tensor(x, name)
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {x.dtype}")
    return x.double()


class _Twice(torch.autograd.Function):
    """A gradient, which has none itself."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, anchor: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("ragfast.torch: the gradients of these functions cannot be differentiated again")


def once_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """As torch's once_differentiable, which keeps silent where the gradient that comes in is a constant: the second
    derivative would then count as 0."""

    @functools.wraps(backward)
    def once(ctx: Any, *grads: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *(x if x is None else x.detach() for x in grads))
        if not torch.is_grad_enabled():  # it is under create_graph=True
            return found
        anchor = torch.zeros((), requires_grad=True)
        return tuple(_Twice.apply(x, anchor) if isinstance(x, Tensor) else x for x in found)

    return once


def as_array(x: Tensor) -> NDArray[Any]:
    """The tensor's own memory if it is contiguous."""
    array: NDArray[Any] = x.detach().contiguous().numpy(force=True)
    return array


def floating(x: Any, name: str) -> Tensor:
    x = cpu_tensor(x, name)
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {x.dtype}")
    return x


def logits_array(x: Tensor) -> tuple[NDArray[Any], bool]:
    """A contiguous tensor's memory, the bits of 16-bit floats as uint16; and whether these are bfloat16."""
    if x.element_size() == 2:
        return x.detach().view(torch.int16).numpy(force=True).view(np.uint16), x.dtype == torch.bfloat16
    return as_array(x), False
