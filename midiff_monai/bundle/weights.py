"""Loads the weights of a bundle after a check of their hash, and saves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from monai.networks.utils import copy_model_state
from torch import nn

from midiff_monai.bundle.resources import available_bundles, bundle_root, metadata_path, read_metadata
from midiff_monai.errors import BundleError
from midiff_monai.io.paths import atomic_write
from midiff_monai.provenance import sha256

WEIGHTS = Path("models") / "model.pt"


def load_weights(network: nn.Module, root: str | Path, trusted: bool = False) -> str:
    """Load the weights of a bundle into its network, after a check of their hash.

    Args:
        network: `network_def` of the bundle.
        root: folder of the bundle.
        trusted: accept weights whose hash differs from that in the metadata. They may still hold tensors only.

    Returns:
        SHA-256 of the weights.

    Raises:
        BundleError: the weights are missing, have another hash, hold more than tensors, or do not fit the network.
    """
    path, expected = Path(root) / WEIGHTS, read_metadata(root, ["weights_sha256"])["weights_sha256"]
    if not path.is_file():
        shipped = Path(root).name in available_bundles() and bundle_root(Path(root).name) == Path(root)
        hint = f"Train the bundle with `midiff train {Path(root).name if shipped else root}`"
        raise BundleError(path, "does not exist", f"{hint}, or install the package again" if expected else hint)
    found = sha256(path)
    if found != expected and not trusted:
        raise BundleError(
            path,
            f"has SHA-256 {found[:12]}…, not {expected[:12]}…",
            "Restore the file, or use --trust-weights",
        )
    return load_state(network, path)


def load_state(network: nn.Module, path: Path) -> str:
    """Load a state dict into a network, and set the network to evaluation mode.

    Returns:
        SHA-256 of the file.

    Raises:
        BundleError: the file is damaged, holds more than tensors, or does not fit the network.
    """
    try:
        state = load_plain(path)
    except UnpicklingError as error:
        fault = "is damaged, or holds more than tensors"
        raise BundleError(path, fault, "Store a state dict with `torch.save`") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        hint = "Restore models/ and configs/ from the same version"
        raise BundleError(path, "does not fit the network of the bundle", hint) from error
    network.eval()
    return sha256(path)


def load_plain(path: Path) -> Any:
    """Load a file of torch that holds tensors and plain values alone, without running code.

    Raises:
        UnpicklingError: the file is damaged, of another format, or holds more.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError, UnpicklingError):
        raise
    except Exception as error:  # torch raises errors of many types for a file that is damaged or of another format
        raise UnpicklingError(str(error)) from error


def load_matching_weights(network: nn.Module, root: str | Path) -> None:
    """Load those weights of a bundle whose name and shape a network shares; its other weights stay as they are.

    Args:
        network: a U-Net with or without its wrappers. Names are compared without the prefixes of the wrappers.
        root: folder of the bundle.
    """
    stored = torch.load(Path(root) / WEIGHTS, map_location="cpu", weights_only=True)
    unwrapped = {name.rpartition("network.")[2]: value.float() for name, value in stored.items()}
    names = {name: name.rpartition("network.")[2] for name in network.state_dict()}
    copy_model_state(network, {name: unwrapped[bare] for name, bare in names.items() if bare in unwrapped})


def save_weights(state: Mapping[str, torch.Tensor], root: str | Path) -> str:
    """Store weights as those of a bundle, and record their SHA-256 and a new version in its metadata.

    The previous weights are kept beside the new ones as model_HASH.pt. Version 1.2.3 becomes 1.2.3+HASH, so that the
    new weights are not mistaken for the published ones.

    Args:
        state: state dict of the network. It is stored in half precision, see `save_state`.
        root: folder of the bundle.

    Returns:
        SHA-256 of the new weights.
    """
    path = Path(root) / WEIGHTS
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as temporary:
        save_state(state, temporary)
        if path.exists():
            path.rename(path.with_name(f"model_{sha256(path)[:12]}.pt"))
    metadata, digest = read_metadata(root, ["version"]), sha256(path)
    metadata |= {"version": f"{metadata['version'].partition('+')[0]}+{digest[:7]}", "weights_sha256": digest}
    with atomic_write(metadata_path(root)) as temporary:
        temporary.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    return digest


def save_state(state: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Store a state dict in half precision.

    Several names may share a tensor, as most names in a `DynUNet` do. Such a tensor is stored once.
    """
    places = {name: (value.data_ptr(), value.shape) for name, value in state.items()}
    halves = {places[name]: (v.half() if v.is_floating_point() else v).cpu() for name, v in state.items()}
    torch.save({name: halves[place] for name, place in places.items()}, path)
