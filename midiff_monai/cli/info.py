"""What is installed here, for `midiff info` and for reports of faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from midiff_monai.bundle.resources import available_bundles, available_overlays, bundle_root, check_metadata
from midiff_monai.bundle.weights import WEIGHTS, read_metadata
from midiff_monai.machine import usable_processors
from midiff_monai.provenance import environment, sha256


def describe_installation(own: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, bundles and whether their weights are intact, processors, GPUs and modalities, as JSON types.

    Args:
        own: folders of further bundles.

    Raises:
        BundleError: a folder is no bundle.
    """
    return environment() | {
        "bundles": {name: _bundle(name) for name in [*available_bundles(), *own]},
        "cpus": usable_processors(),
        "modalities": available_overlays(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def _bundle(name: str) -> dict[str, Any]:
    root = bundle_root(name)
    metadata, weights = read_metadata(root, ["version"]), root / WEIGHTS
    if "runs" in metadata:  # a composite bundle has no weights of its own
        return {"version": metadata["version"], "runs": metadata["runs"]}
    kinds = ("target", "segments", "parcellates", "anatomy", "image_size")
    does = {name: metadata[name] for name in kinds if name in metadata}
    facts = {"version": metadata["version"]} | does
    check_metadata(root, metadata, ["weights_sha256"])
    if not (expected := metadata["weights_sha256"]):
        return facts | {"trained": False}
    intact = weights.is_file() and sha256(weights) == expected
    return facts | {"weights_sha256": expected, "intact": intact}
