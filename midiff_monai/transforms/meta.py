"""Conversion between tensors with and without metadata."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import ImageMetaKey

Data = dict[Hashable, Any]
"""The items of a sample, by key, as MONAI's dictionary transforms pass them on."""


def as_plain_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor without its metadata."""
    return torch.as_tensor(tensor).as_subclass(torch.Tensor)


def with_meta_of(array: torch.Tensor, reference: Any) -> torch.Tensor:
    """The array with the metadata of a MetaTensor; unchanged if the reference is none."""
    if isinstance(reference, MetaTensor):
        return MetaTensor(array, meta=reference.meta)
    return array


def file_of(image: Any) -> Path:
    """The file that an image was read from; an empty path if its metadata name none."""
    return Path(str(getattr(image, "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ, "")))
