"""Tensors with and without meta data."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from monai.data import MetaTensor

Data = dict[Hashable, Any]


def as_plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """A MetaTensor without its meta data."""
    return torch.as_tensor(tensor).as_subclass(torch.Tensor)


def with_meta_of(array: torch.Tensor, reference: Any) -> torch.Tensor:
    """An array with the meta data of the reference, if that has any."""
    if isinstance(reference, MetaTensor):
        return MetaTensor(array, meta=reference.meta)
    return array
