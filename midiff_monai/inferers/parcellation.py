"""From a segmentation to the parcels of its cortex and white matter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from numpy.typing import NDArray

from midiff_monai.transforms.hemispheres import CEREBRUM, assign_parcels, template_to_world, tissues_of_hemispheres
from midiff_monai.transforms.meta import Data, as_plain_tensor, with_meta_of


class HemisphereInferer(Inferer):
    """Run a network on each hemisphere of a batch."""

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Map tissue fractions (B, 2, C, …) to logits (B, 2, regions, …)."""
        hemispheres = as_plain_tensor(inputs).unbind(dim=1)
        return torch.stack([network(hemisphere, *args, **kwargs) for hemisphere in hemispheres], dim=1)


@torch.inference_mode()
def parcellate(
    labels: NDArray[np.integer],
    affine: NDArray[np.float64],
    network: Callable[..., torch.Tensor],
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """Divide cortex and white matter of a segmentation into the regions of MUSE.

    Args:
        labels: (X, Y, Z), FreeSurfer ids.
        affine: voxel to RAS mm.
        network: maps tissue fractions (1, C, …) to logits of the regions.
        device: where the network computes.

    Returns:
        (X, Y, Z), ids of `parcels.PARCELS`, 0 outside cortex and white matter.
    """
    if not np.isin(labels, CEREBRUM).any():
        return np.zeros(labels.shape, dtype=np.uint8)
    mapping = template_to_world(labels, affine)
    hemispheres = tissues_of_hemispheres(labels, affine, mapping)[None].to(device)
    return assign_parcels(labels, affine, mapping, HemisphereInferer()(hemispheres, network)[0].cpu())


class HemispheresOfLabelsd(MapTransform):
    """Turn label maps (1, X, Y, Z) in FreeSurfer ids into `transforms.hemispheres.tissues_of_hemispheres`.

    Raises:
        ValueError: a label map shows no cerebrum.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the label maps of a sample."""
        result = dict(data)
        for key in self.key_iterator(result):
            labels, affine = label_map_of(result[key])
            if not np.isin(labels, CEREBRUM).any():
                raise ValueError("the label map shows no cerebrum in FreeSurfer ids")
            hemispheres = tissues_of_hemispheres(labels, affine, template_to_world(labels, affine))
            result[key] = with_meta_of(hemispheres, result[key])
        return result


class AssignParcelsd(MapTransform):
    """Turn logits into parcels on the grid of their label map, see `transforms.hemispheres.assign_parcels`.

    Args:
        keys: logits (2, regions, …). They become (1, X, Y, Z), uint8.
        label_keys: label maps (1, X, Y, Z) in FreeSurfer ids.
    """

    def __init__(self, keys: KeysCollection, label_keys: KeysCollection) -> None:
        super().__init__(keys)
        self.label_keys = ensure_tuple_rep(label_keys, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Convert the logits of a sample."""
        result = dict(data)
        for key, label_key in zip(self.key_iterator(result), self.label_keys, strict=True):
            labels, affine = label_map_of(result[label_key])
            logits = as_plain_tensor(result[key]).float().cpu()
            parcels = assign_parcels(labels, affine, template_to_world(labels, affine), logits)
            result[key] = MetaTensor(torch.from_numpy(parcels)[None], meta=result[label_key].meta)
        return result


def label_map_of(image: MetaTensor) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The labels (X, Y, Z) and the affine of a label map (1, X, Y, Z)."""
    affine = np.asarray(image.affine.cpu(), dtype=np.float64)
    return np.asarray(as_plain_tensor(image[0]).cpu()).round().astype(np.int32), affine
