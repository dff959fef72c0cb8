"""The bundles of a run: opened once, described in every manifest."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import INTRACRANIAL, PARCELLATION
from midiff_monai.bundle.resources import bundle_root, sampler_path
from midiff_monai.errors import BundleError, InputError, in_one_line
from midiff_monai.io.outputs import DEFAULT_TARGET
from midiff_monai.pipeline.options import PRECISIONS, SAMPLING, Settings, Task

CALIBRATION = "calibration"
"""Id of a segmenter: the `certainty.ConfidenceCalibration` of its probabilities."""

EXPECTED_ERROR = "expected_error"
"""Id of a translation: an `expected_error.ExpectedError` that was fitted to its results."""

_logger = logging.getLogger(__name__)


@dataclass
class Models:
    """The bundles of a run.

    Attributes:
        segmentation: segments a synthetic volume. The translation to T1w also uses it, to find the brain in a whole
            head. None if neither is wanted.
        translation: makes a synthetic volume of the target modality; None if nothing is translated.
        target: the target modality.
        finds_brain: translate the brain of a whole head a second time, alone.
        parcellation: divides a segmentation into parcels; None if they are not wanted.
        intracranial: finds the space inside the skull of a whole head; None without a segmenter of brains.
        warnings: sentences for the manifest of each volume.
    """

    segmentation: Bundle | None
    translation: Bundle | None = None
    target: str = DEFAULT_TARGET
    finds_brain: bool = True
    parcellation: Bundle | None = None
    intracranial: Bundle | None = None
    warnings: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        device: torch.device = self._bundles[0].setting("device")
        return device

    @property
    def _bundles(self) -> list[Bundle]:
        bundles = self.translation, self.segmentation, self.parcellation, self.intracranial
        return [bundle for bundle in bundles if bundle]

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of the weights, by bundle name."""
        return {bundle.root.name: bundle.weights_sha256 for bundle in self._bundles}

    @property
    def configurations(self) -> dict[str, str]:
        """SHA-256 of the configurations, by bundle name."""
        return {bundle.root.name: bundle.configuration_sha256 for bundle in self._bundles}


def load_models(task: Task, progress: bool = False, **ids: Any) -> Models:
    """Open the bundles that a task needs.

    Args:
        task: the mode and the settings.
        progress: show a progress bar of the slices of each volume.
        ids: values that replace ids of the translation bundle. None keeps the bundle's value.

    Raises:
        BundleError: a bundle is not intact, or not usable in this task, see `Task.choose_bundles`.
        InputError: the bundle of the translation cannot sample in this way.
    """
    settings, chosen = task.settings, task.choose_bundles()
    device = f"$torch.device('{settings.device}')" if settings.device else None
    amp = PRECISIONS[settings.precision]
    common: dict[str, Any] = {"trusted": settings.trust_weights, "device": device, "amp": amp}
    models = Models(None, target=chosen.target, finds_brain=chosen.finds_brain)
    if task.mode.segments or chosen.finds_brain:
        models.segmentation = _open_segmentation(chosen.segmentation, settings, common)
        models.intracranial = _open(bundle_root(INTRACRANIAL), **common) if chosen.labels_brain else None
    if settings.parcellation:
        models.parcellation = _open(bundle_root(PARCELLATION), **common)
    if task.mode.translates:
        models.translation = _open_translation(chosen.translation, settings, common | {"progress": progress} | ids)
    return models


def _open_segmentation(root: Path, settings: Settings, values: dict[str, Any]) -> Bundle:
    segmentation = _open(root, **values, fast=settings.fast)
    if settings.probability:
        _require(segmentation, CALIBRATION, "--probability", "the probability of labels")
    return segmentation


def _open_translation(root: Path, settings: Settings, values: dict[str, Any]) -> Bundle:
    sampling = {name: getattr(settings, name) for name in SAMPLING}
    if settings.fast:
        sampling["detail_radius"] = 0
    overlays: list[str | Path] = [settings.modality] if settings.modality else []
    overlays += [sampler_path(settings.sampler)] if settings.sampler else []
    translation = _open(root, overlays=overlays, **values, **sampling)
    _check_sampling(translation, settings)
    if settings.error_map:
        _require(translation, EXPECTED_ERROR, "--error-map", "the error map")
    return translation


def _open(root: Path, **options: Any) -> Bundle:
    bundle = open_bundle(root, **options)
    _logger.debug("opened %s, weights %s on %s", root, bundle.weights_sha256[:12], bundle.setting("device"))
    return bundle


def _require(bundle: Bundle, name: str, option: str, page: str) -> None:
    if name not in bundle.parser:
        raise BundleError(
            bundle.root, f"has no setting `{name}`", f"Leave {option} out, or fit one: see the page on {page}"
        )


def _check_sampling(translation: Bundle, settings: Settings) -> None:
    if settings.noise_level is not None and translation.setting("start") == "noise":
        raise InputError("--noise-level", "has no effect where sampling starts from noise", "Add --start source")
    try:
        translation.setting("inferer").set_timesteps()
    except (RuntimeError, ValueError) as error:  # MONAI raises RuntimeError for arguments that a class does not take
        hint = "Change --sampler, --steps, --start or --noise-level"
        reason = in_one_line(error.__cause__ or error)
        raise BundleError(translation.root, f"cannot sample so: {reason}", hint) from error


@lru_cache(maxsize=1)
def kept_models(task: Task) -> Models:
    """Open the bundles that a task needs, and keep them in memory until another task needs others.

    Changes of their files are not noticed meanwhile.

    Args:
        task: as for `load_models`. The bundles of its settings are None or a tuple.

    Raises:
        BundleError: as `load_models`.
    """
    return load_models(task)


def used_settings(settings: Settings, models: Models) -> dict[str, str | int | float | None]:
    """The settings, with the bundle's own values filled in. Those of the sampler are None without a translation.

    The bundles are not among them: a manifest names these with their hashes.
    """
    used = {name: value for name, value in asdict(settings).items() if name != "bundle"}
    if models.translation:
        used |= {name: models.translation.setting(name) for name in SAMPLING if name in models.translation.parser}
        used["steps"] = models.translation.setting("inferer").set_timesteps()
        if used["start"] == "noise":
            used["noise_level"] = None
    if models.segmentation:
        used["fast"] = models.segmentation.setting("fast")
    bundle = models.translation or models.segmentation
    assert bundle is not None
    precision = "bfloat16" if bundle.setting("amp") else "float32"
    return used | {"device": str(models.device), "precision": precision, "translated": models.translation is not None}
