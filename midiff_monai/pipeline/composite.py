"""Translation and segmentation as one network, for the composite bundle."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from torch import nn

from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.lesions import separate_lesions
from midiff_monai.pipeline.models import load_models
from midiff_monai.pipeline.options import Settings, Task
from midiff_monai.pipeline.volume import foreground_of, segment_volume, translate_volume
from midiff_monai.transforms.meta import as_plain_tensor


class AnyContrastSegmenter(nn.Module):
    """Scans in, labels out: both bundles as one network, with the results of `midiff segment`.

    It has no parameters of its own. It opens the two bundles, whose weights are checked against their hashes, and its
    device is that of its argument.

    Args:
        translation: name or folder of the translation bundle.
        segmentation: name or folder of the segmentation bundle.
        device: where the networks compute.
        amp: compute in bfloat16.
        scale_intensity: transform that takes the place of the `scale_intensity` of the translation bundle; None keeps
            that one.
        settings: further fields of `Settings`. None keeps the bundle's own value.

    Raises:
        BundleError: a bundle does not exist, is not intact, or does not fit the other one.
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        translation: str,
        segmentation: str,
        device: str | torch.device = "cpu",
        amp: bool = False,
        scale_intensity: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        precision = "bfloat16" if amp else "float32"
        chosen = Settings(bundle=[translation, segmentation], device=str(device), precision=precision, **settings)
        self.task = Task(settings=chosen)
        check_settings(self.task)
        self.models = load_models(self.task, scale_intensity=scale_intensity)
        self.eval()

    @torch.inference_mode()
    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        """Segment a batch of scans, one by one.

        Args:
            scans: (B, 1, X, Y, Z) as read, with a background of 0. A tensor without metadata has voxels of 1 mm in RAS.

        Returns:
            (B, 1, X, Y, Z) FreeSurfer ids, int16; a MetaTensor for a MetaTensor.
        """
        affines = torch.as_tensor(getattr(scans, "affine", torch.eye(4))).expand(len(scans), 4, 4)
        volumes = as_plain_tensor(scans).cpu()
        labels = torch.stack([self._segment(MetaTensor(*pair)) for pair in zip(volumes, affines, strict=True)])
        return MetaTensor(labels).copy_meta_from(scans) if isinstance(scans, MetaTensor) else labels

    def _segment(self, image: MetaTensor) -> torch.Tensor:
        """The labels (1, X, Y, Z) of one image (1, X, Y, Z)."""
        foreground = foreground_of(image)
        translated = translate_volume(image, foreground, self.models)
        labels = segment_volume(image, foreground, self.models, translated).labels
        if self.task.settings.lesions:
            affine = image.affine.numpy()
            labels = torch.from_numpy(separate_lesions(image[0].numpy(), labels.numpy(), affine, self.task).labels)
        return labels[None]
