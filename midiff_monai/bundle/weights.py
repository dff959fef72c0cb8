"""Weights of a bundle: loaded with their hash checked, and saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from midiff_monai.errors import BundleError
from midiff_monai.io.paths import atomic_write
from midiff_monai.provenance import sha256

WEIGHTS = Path("models") / "model.pt"


def load_weights(network: nn.Module, root: str | Path, trusted: bool = False) -> str:
    """Load a bundle's weights into its network, after checking that they are the ones its metadata names.

    Args:
        network: the bundle's `network_def`.
        root: the bundle's folder.
        trusted: take weights whose hash is another one, too; they may still hold nothing but tensors.

    Returns:
        The SHA-256 of the weights.

    Raises:
        BundleError: the weights are missing, have another hash, are no mere tensors, or do not fit the network.
    """
    path = Path(root) / WEIGHTS
    if not path.is_file():
        raise BundleError(path, "does not exist", "Train the bundle with `midiff train`, or install the package again")
    found, expected = sha256(path), read_metadata(root)["weights_sha256"]
    if found != expected and not trusted:
        raise BundleError(
            path,
            f"has SHA-256 {found[:12]}…, not {expected[:12]}…",
            "Restore the file, or use --trust-weights",
        )
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except UnpicklingError as error:
        raise BundleError(path, "holds more than tensors", "Store a state dict with `torch.save`") from error
    except RuntimeError as error:
        raise BundleError(
            path, "does not fit the network of the bundle", "Restore models/ and configs/ alike"
        ) from error
    network.eval()
    return found


def save_weights(state: Mapping[str, torch.Tensor], root: str | Path) -> str:
    """Store a bundle's weights as `halved` and record their SHA-256, which is returned, in its metadata.

    The weights that were there are kept beside them, as model_HASH.pt. The version of the bundle, 1.2.3 say, becomes
    1.2.3+HASH, so that nobody takes the new weights for those that came with the package.
    """
    path = Path(root) / WEIGHTS
    with atomic_write(path) as temporary:
        torch.save(halved(state), temporary)
        if path.exists():
            path.rename(path.with_name(f"model_{sha256(path)[:12]}.pt"))
    metadata, digest = read_metadata(root), sha256(path)
    metadata |= {"version": f"{metadata['version'].partition('+')[0]}+{digest[:7]}", "weights_sha256": digest}
    with atomic_write(_metadata_path(root)) as temporary:
        temporary.write_text(json.dumps(metadata, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    return digest


def halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half precision on the CPU; a tensor of several names, as most in a `DynUNet`, is stored once."""
    places = {name: (value.data_ptr(), value.shape) for name, value in state.items()}
    halves = {places[name]: (v.half() if v.is_floating_point() else v).cpu() for name, v in state.items()}
    return {name: halves[place] for name, place in places.items()}


def read_metadata(root: str | Path) -> dict[str, Any]:
    """A bundle's `configs/metadata.json`."""
    return json.loads(_metadata_path(root).read_text(encoding="utf-8"))


def _metadata_path(root: str | Path) -> Path:
    return Path(root) / "configs" / "metadata.json"
