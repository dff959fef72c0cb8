"""A copy of the bundle of the published method with a small network and few timesteps."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from midiff_monai.bundle.resources import bundle_root
from midiff_monai.bundle.weights import save_weights

SMALLER = {
    "num_train_timesteps: 1000": "num_train_timesteps: 8",
    "\nsteps: 1000": "\nsteps: 8",
    "noise_level: 399": "noise_level: 3",
    "channels: [64, 128, 128, 128]": "channels: [8, 8]",
    "attention_levels: [false, false, false, true]": "attention_levels: [false, true]",
    "num_head_channels: 128": "num_head_channels: 8",
    "norm_num_groups: 32": "norm_num_groups: 4",
    "slice_size: [128, 128]": "slice_size: [48, 48]",
}


def copy_small(folder: Path, guided: bool = True) -> Path:
    """Copy the bundle with a small network. It has no weights."""
    shutil.copytree(bundle_root("lmi_published"), folder)
    for name in ("train", "inference"):
        path = folder / "configs" / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        text = text if guided else text.replace("\nguided: true", "\nguided: false")
        path.write_text(text, encoding="utf-8")
    return folder


def add_weights(root: Path) -> None:
    """Give a bundle random weights."""
    parser = ConfigParser()
    parser.read_config(root / "configs" / "inference.yaml")
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_weights(network.state_dict(), root)
