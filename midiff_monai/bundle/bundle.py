"""Opens a bundle for inference in the current process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from yaml import YAMLError

from midiff_monai.bundle.resources import bundle_root, overlay_path
from midiff_monai.bundle.weights import load_state, load_weights
from midiff_monai.errors import BundleError, in_one_line
from midiff_monai.provenance import sha256
from midiff_monai.transforms.intensity import stack_sources
from midiff_monai.transforms.meta import as_plain_tensor


@dataclass(frozen=True)
class Bundle:
    """A bundle ready for inference.

    Attributes:
        root: folder of the bundle.
        parser: the configuration. It instantiates a component on first use.
        weights_sha256: SHA-256 of the loaded weights.
        configuration_sha256: SHA-256 of the configuration and its overlays.
    """

    root: Path
    parser: ConfigParser
    weights_sha256: str
    configuration_sha256: str

    def setting(self, name: str) -> Any:
        """Return the value of an id of the configuration."""
        return self.parser.get_parsed_content(name)

    def conform(self, volume: MetaTensor, key: str = "image") -> MetaTensor:
        """Resample volumes (S, X, Y, Z) to the grid of a network and normalise the intensities of each.

        Args:
            volume: one volume or several on one grid. The metadata of the result are those of the first.
            key: "image" for the network, "fine" for the detail branch.
        """
        transform = "conform" if key == "image" else f"conform_{key}"
        sources = [MetaTensor(source[None], meta=volume.meta) for source in as_plain_tensor(volume)]
        conformed = [self.setting(transform)({key: source})[key] for source in sources]
        return conformed[0] if len(conformed) == 1 else stack_sources(conformed)

    def infer(self, volume: MetaTensor, coarse: bool = False) -> torch.Tensor:
        """Send conformed volumes (S, X, Y, Z) through the network: (C, X, Y, Z), on the CPU; coarse at less cost."""
        network, inferer = self.setting("network"), self.setting("inferer")
        return inferer.infer(as_plain_tensor(volume).to(self.setting("device")), network, coarse).cpu()


def open_bundle(
    name: str | Path,
    overlays: Sequence[str | Path] = (),
    weights: Path | None = None,
    trusted: bool = False,
    **settings: Any,
) -> Bundle:
    """Open the inference configuration of a bundle.

    Args:
        name: name of a bundle that came with the package, or the folder of another one; see `resources.bundle_root`.
        overlays: configurations that are merged over it in this order. A string names one of
            `resources.available_overlays`; a path is a YAML file.
        weights: state dict to load instead of the bundle's own weights. Its hash is not checked.
        trusted: accept weights of the bundle whose hash is not the recorded one, see `load_weights`.
        settings: values that replace ids of the configuration. None keeps the bundle's value.

    Raises:
        BundleError: the bundle, an overlay or an id of `settings` does not exist, a configuration cannot be read, or
            the weights are refused, see `load_weights`.
    """
    root = bundle_root(name)
    files = [root / "configs" / "inference.yaml"]
    files += [overlay if isinstance(overlay, Path) else overlay_path(overlay) for overlay in overlays]
    parser = ConfigParser()
    try:
        parser.read_config([str(file) for file in files])
    except KeyError as error:
        hint = "Leave the option out, or choose another bundle"
        raise BundleError(root, f"lacks an id that an overlay changes ({error.args[0]})", hint) from error
    except (OSError, YAMLError) as error:
        fault = f"has a configuration that cannot be read ({in_one_line(error)})"
        raise BundleError(root, fault, "Correct it, or restore the file") from error
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key.isidentifier() and key not in parser:  # a nested id may add an argument
            hint = "Leave the option out, or choose a bundle or a sampler that has it"
            raise BundleError(root, f"has no setting `{key}`", hint)
    parser.update({"bundle_root": str(root)} | given)
    with torch.random.fork_rng():  # a new network draws its weights at random
        network = parser.get_parsed_content("network_def")
    digest = load_state(network, weights) if weights else load_weights(network, root, trusted)
    return Bundle(root, parser, digest, sha256(*files))
