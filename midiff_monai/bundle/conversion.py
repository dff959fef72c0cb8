"""Converts weights of MONAI Generative's diffusion U-Net into weights of MONAI core's.

Both networks are called `DiffusionModelUNet`. They differ in the names of some weights, and in one computation: the
attention blocks of MONAI Generative have a projection `proj_attn` that their forward pass never applies
(https://github.com/Project-MONAI/MONAI/issues/7991). Those of core apply theirs, `out_proj`. Core's own
`load_old_state_dict` copies the unused projection into it, so an untrained layer changes the outputs. The conversion
makes it the identity instead. The cross-attention blocks apply their projection in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from midiff_monai.bundle.weights import load_plain
from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.paths import atomic_write

PROJECTION = ".attn.out_proj."
"""Part of the names in core whose counterpart in MONAI Generative is not applied."""

OLD_PARTS = ((PROJECTION, ".proj_attn."), (".attn.", "."), (".out_proj.", ".to_out.0."), (".postconv.", ".conv."))
"""Parts of the names in core, and what they are in MONAI Generative."""

SAVE_HINT = "Save the weights of the network with torch.save(network.state_dict(), FILE)"


def convert_checkpoint(old: Path, new: Path, entry: str | None = None) -> dict[str, Any]:
    """Convert a checkpoint of MONAI Generative's `DiffusionModelUNet` into a state dict for that of MONAI core.

    Args:
        old: a state dict, or a dictionary that holds one. It may hold tensors and plain values only.
        new: the file to write. It does not exist yet.
        entry: the key of the state dict in that dictionary.

    Returns:
        The arguments of the network in core, see `unet_arguments`.

    Raises:
        InputError: the old file holds no weights of such a network.
        OutputError: the new file exists, or has no folder. Nothing is written in any of these cases.
    """
    if new.exists():
        raise OutputError(new, "exists already", "Choose another name, or remove it")
    if not new.absolute().parent.is_dir():
        raise OutputError(new.parent, "is not a folder", "Create it, or choose another name")
    state = _state_dict(old, _load(old), entry)
    try:
        arguments, converted = unet_arguments(state), convert_state(state)
    except ValueError as error:
        raise InputError(old, str(error), "Give a DiffusionModelUNet of MONAI Generative") from error
    with atomic_write(new) as temporary, temporary.open("wb") as file:
        torch.save(converted, file)
    return arguments


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(path, "is a folder" if path.is_dir() else "does not exist", "Name the file of a checkpoint")
    try:
        return load_plain(path)
    except UnpicklingError as error:
        raise InputError(path, "is damaged, or holds more than tensors and plain values", SAVE_HINT) from error


def _state_dict(path: Path, loaded: Any, entry: str | None) -> dict[str, torch.Tensor]:
    """The state dict among what a file holds, without the prefix of parallel training."""
    entries = [str(key) for key, value in loaded.items() if isinstance(value, Mapping)] if _is_mapping(loaded) else []
    if entry is not None and entry not in entries:
        raise InputError(path, f"has no dictionary {entry!r}", f"It has: {', '.join(entries) or 'none'}")
    found = loaded if entry is None else loaded[entry]
    if not _is_mapping(found) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        hint = f"Name one of its dictionaries with --entry: {', '.join(entries)}" if entries else SAVE_HINT
        raise InputError(path, "is not a state dict" if entry is None else f"{entry!r} is not a state dict", hint)
    state = dict(found)
    consume_prefix_in_state_dict_if_present(state, "module.")
    return state


def _is_mapping(loaded: Any) -> bool:
    return isinstance(loaded, Mapping) and all(isinstance(key, str) for key in loaded)


def convert_state(old: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Convert a state dict of MONAI Generative's `DiffusionModelUNet` into one for MONAI core's.

    The networks then compute the same function. Data types are kept. Core's network must have its default
    `include_fc=True`.

    Raises:
        ValueError: the state dict is of another network, or weights are missing, unknown or of another shape.
    """
    expected = _core_shapes(unet_arguments(old))
    _check_shapes(old, {_old_name(name): shape for name, shape in expected.items()})
    values = {name: old[_old_name(name)] for name in expected}
    return {name: _identity(value) if PROJECTION in name else value for name, value in values.items()}


def unet_arguments(old: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Arguments of MONAI core's `DiffusionModelUNet`, read from the weights of MONAI Generative's.

    Weights do not tell `num_head_channels`, `norm_num_groups`, `norm_eps`, `dropout_cattn` and `upcast_attention`.
    These have the same defaults in both packages.

    Raises:
        ValueError: the state dict is of another network, or weights that are needed here are missing.
    """
    first = _shape(old, "conv_in.conv.weight", dimensions=(4, 5))
    if any(_old_name(name) != name for name in old):
        raise ValueError("holds names of MONAI core, so it needs no conversion")
    levels = _count(old, "down_blocks.") or 1  # without any, the first weight of the first one is missing
    blocks = [f"down_blocks.{level}." for level in range(levels)]
    arguments = {
        "spatial_dims": len(first) - 2,
        "in_channels": first[1],
        "out_channels": _shape(old, "out.2.conv.bias")[0],
        "num_res_blocks": tuple(_count(old, f"{block}resnets.") for block in blocks),
        "channels": tuple(_shape(old, f"{block}resnets.0.conv1.conv.bias")[0] for block in blocks),
        "attention_levels": tuple(_count(old, f"{block}attentions.") > 0 for block in blocks),
        "resblock_updown": _count(old, "down_blocks.0.downsampler.conv1.") > 0,
    }
    return arguments | _conditioning(old)


def _conditioning(old: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The arguments of cross-attention and of class embeddings, as far as a network has any."""
    arguments: dict[str, Any] = {}
    transformers = "middle_block.attention.transformer_blocks."
    if layers := _count(old, transformers):
        context = _shape(old, f"{transformers}0.attn2.to_k.weight", dimensions=(2,))[1]
        arguments |= {"with_conditioning": True, "transformer_num_layers": layers, "cross_attention_dim": context}
    if "class_embedding.weight" in old:
        arguments["num_class_embeds"] = len(old["class_embedding.weight"])
    return arguments


def _count(old: Mapping[str, torch.Tensor], prefix: str) -> int:
    """The number of different parts that follow a prefix in the names."""
    return len({name[len(prefix) :].partition(".")[0] for name in old if name.startswith(prefix)})


def _shape(old: Mapping[str, torch.Tensor], name: str, dimensions: tuple[int, ...] = (1,)) -> torch.Size:
    if name not in old:
        raise ValueError(f"lacks {name}")
    if old[name].ndim not in dimensions:
        raise ValueError(f"has {name} with {old[name].ndim} dimensions")
    return old[name].shape


def _core_shapes(arguments: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes of the weights of the network in core. The arguments that are left open change none of them."""
    with torch.device("meta"):
        network = DiffusionModelUNet(**arguments, num_head_channels=arguments["channels"], norm_num_groups=1)
    return {name: value.shape for name, value in network.state_dict().items()}


def _check_shapes(old: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Size]) -> None:
    faults = [f"lacks {name}" for name in expected if name not in old]
    faults += [f"has {name}, which is unknown" for name in old if name not in expected]
    faults += [
        f"has {name} in the shape {tuple(old[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in old and old[name].shape != shape
    ]
    if faults:
        more = f" (and {len(faults) - 1} more differences)" if len(faults) > 1 else ""
        raise ValueError(faults[0] + more)


def _old_name(name: str) -> str:
    for new, old in OLD_PARTS:
        name = name.replace(new, old)
    return name


def _identity(value: torch.Tensor) -> torch.Tensor:
    """A projection that changes nothing: the identity as its weight, zero as its bias."""
    return torch.eye(len(value), dtype=value.dtype) if value.ndim == 2 else torch.zeros_like(value)
