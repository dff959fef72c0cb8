"""A device that computes on the CPU, with limits of a GPU: tensors of its own, no float64 (as `mps`), little memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "meta"
"""The one name that torch takes to dispatch without a backend of its own."""
ALLOWED_FROM_CPU = ("aten.copy_", "aten._to_copy", "aten.index", "aten.index_put")
"""Operations that take tensors of both devices."""


class TensorOnDevice(torch.Tensor):
    """A tensor that says that it lies on the device. Its voxels are those of a tensor on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> TensorOnDevice:
        if held.dtype == torch.float64:
            raise TypeError("the device has no float64")
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        wrapper: Any = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
        with torch.inference_mode(False):  # a view of an ordinary tensor has to be one
            made: TensorOnDevice = wrapper(cls, held.shape, **layout, device=NAME)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        return _computed(function, arguments, options or {})

    def tolist(self) -> Any:
        """The values; torch itself refuses to give those of a subclass."""
        return self.held.tolist()

    def __getitem__(self, index: Any) -> torch.Tensor:
        """A part of the tensor. Of a list of indices torch itself would make a tensor without values."""
        parts = index if isinstance(index, tuple) else (index,)
        made = tuple(torch.tensor(part).to(NAME) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(made)


class FakeDevice(TorchDispatchMode):
    """Makes tensors on the device, also those that no tensor of the device takes part in.

    Args:
        most: number of values of the largest tensor for which there is memory.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = _computed(function, arguments, options or {})
        if any(isinstance(leaf, TensorOnDevice) and leaf.numel() > self.most for leaf in tree_leaves(result)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return result


@contextmanager
def fake_device(most: float = math.inf) -> Iterator[str]:
    """A context in which the device can be used by the yielded name, and autocast changes nothing.

    There, float64 on the device raises TypeError, an operation of tensors on different devices RuntimeError, and a
    tensor of more than `most` values `torch.OutOfMemoryError`.
    """
    changed: dict[str, Any] = {name: _moving(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    changed["autocast"] = lambda *_, **__: nullcontext()
    with FakeDevice(most), mock.patch.multiple(torch, **changed):
        yield NAME


def _moving(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function that makes a tensor on the CPU and moves it. On this device torch would make one without values."""

    def make(*arguments: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = factory(*arguments, **options)
        return made if device is None else made.to(device)

    return make


def _computed(function: Any, arguments: Any, options: dict[str, Any]) -> Any:
    leaves = tree_leaves((arguments, options))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if any(tensor.device.type == NAME and not isinstance(tensor, TensorOnDevice) for tensor in tensors):
        raise RuntimeError(f"{function}: a tensor without values")
    here = any(isinstance(tensor, TensorOnDevice) for tensor in tensors)
    elsewhere = any(tensor.ndim and not isinstance(tensor, TensorOnDevice) for tensor in tensors)
    if here and elsewhere and not str(function).startswith(ALLOWED_FROM_CPU):
        raise RuntimeError(f"{function}: tensors on different devices")
    named = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    here = named[0].type == NAME if named else here
    held = tree_map(_on_cpu, (arguments, options))
    result = function(*held[0], **held[1])
    if not here:
        return result
    # an operation in place returns its argument
    known = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, TensorOnDevice)}
    return tree_map(lambda leaf: _on_device(leaf, known), result)


def _on_device(leaf: Any, known: Mapping[int, TensorOnDevice]) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return known[id(leaf)] if id(leaf) in known else TensorOnDevice(leaf)


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    return leaf.held if isinstance(leaf, TensorOnDevice) else leaf
