"""Rivals with weights of their own: the bundles under other configurations, trained by the overlays in baselines/."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.utils import copy_model_state
from torch import nn

from midiff_monai.bundle.bundle import Bundle
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import WEIGHTS, halved
from midiff_monai.provenance import sha256

BASELINES = Path(__file__).parent / "baselines"


def open_baseline(bundle: str, rival: str, weights: str | None = None, **settings: Any) -> Bundle:
    """Open a bundle's inference configuration with the weights of a rival, and its overlay if it has one.

    Args:
        bundle: the bundle that the rival is a variant of.
        rival: its name: the overlay is baselines/RIVAL.yaml.
        weights: name of the weights, baselines/WEIGHTS.pt, if it is not the rival's.
        settings: ids of the configuration and the values that replace theirs.
    """
    path = BASELINES / f"{weights or rival}.pt"
    files = [bundle_root(bundle) / "configs" / "inference.yaml", *BASELINES.glob(f"{rival}.yaml")]
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(bundle_root(bundle))} | settings)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(path, weights_only=True))
    return Bundle(BASELINES / rival, parser, sha256(path), sha256(*files))


def save_baseline(state: Mapping[str, torch.Tensor], weights: str) -> None:
    """Store weights in half precision as baselines/WEIGHTS.pt; of several processes the first one does."""
    if os.environ.get("RANK", "0") == "0":
        torch.save(halved(state), BASELINES / f"{weights}.pt")


def begin_from_bundle(network: nn.Module, root: str | Path) -> None:
    """Give a U-Net those of a bundle's weights whose name and shape it has."""
    shipped = torch.load(Path(root) / WEIGHTS, weights_only=True)
    unet = {name.rpartition("network.")[2]: value.float() for name, value in shipped.items()}
    copy_model_state(network, unet)
