"""The bundles of a run: opened once, described in every manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.pipeline.options import PRECISIONS, Settings, Task

TRANSLATION, SEGMENTATION = "t1_lmi_translation", "t1_brain_segmentation"


@dataclass
class Models:
    """The bundles of a run.

    Attributes:
        segmentation: segments a T1w. The translation also uses it, to find the brain in a whole head.
        translation: makes a synthetic T1w; None if nothing is translated.
    """

    segmentation: Bundle
    translation: Bundle | None = None

    @property
    def _bundles(self) -> list[Bundle]:
        return [bundle for bundle in (self.translation, self.segmentation) if bundle]

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the weights, by bundle name."""
        return {bundle.root.name: bundle.weights_sha256 for bundle in self._bundles}

    @property
    def configurations(self) -> dict[str, str]:
        """SHA-256 of the configurations, by bundle name."""
        return {bundle.root.name: bundle.configuration_sha256 for bundle in self._bundles}


def load_models(task: Task, progress: bool = False) -> Models:
    """Open the bundles that a task needs.

    Args:
        task: the mode and the settings.
        progress: show a progress bar of the slices of each volume.

    Raises:
        BundleError: a bundle is not intact.
    """
    settings = task.settings
    device = f"$torch.device('{settings.device}')" if settings.device else None
    amp = PRECISIONS[settings.precision]
    common: dict[str, Any] = {"trusted": settings.trust_weights, "device": device, "amp": amp}
    segmentation = open_bundle(SEGMENTATION, **common, fast=settings.fast)
    if not task.mode.translates:
        return Models(segmentation)
    sampling = {name: getattr(settings, name) for name in ("steps", "samples", "seed")}
    overlays = [settings.modality] if settings.modality else []
    if settings.fast:
        sampling["detail_radius"] = 0
    return Models(segmentation, open_bundle(TRANSLATION, overlays, **common, **sampling, progress=progress))


def used_settings(settings: Settings, models: Models) -> dict[str, str | int | None]:
    """The settings, with the bundle's own values filled in. Those of the sampler are None without a translation."""
    used = asdict(settings)
    if models.translation:
        used |= {name: models.translation.setting(name) for name in ("samples", "seed")}
        used["steps"] = models.translation.setting("inferer").set_timesteps()
    used["fast"] = models.segmentation.setting("fast")
    bundle = models.translation or models.segmentation
    device, amp = (bundle.setting(name) for name in ("device", "amp"))
    precision = "bfloat16" if amp else "float32"
    return used | {"device": str(device), "precision": precision, "translated": models.translation is not None}
