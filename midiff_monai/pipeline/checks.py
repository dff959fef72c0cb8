"""Checks of a task before anything is read: settings out of range, or without effect in its mode."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields

import torch

from midiff_monai.bundle.resources import available_overlays, available_samplers
from midiff_monai.errors import InputError
from midiff_monai.pipeline.options import (
    OF_SEGMENTATION,
    PRECISIONS,
    SAMPLING,
    SPACINGS,
    STARTS,
    Settings,
    Task,
    flag_of,
    option_of,
)


def check_settings(task: Task) -> None:
    """Check a task before anything is read.

    Raises:
        InputError: a setting is out of range, or belongs to a translation or a segmentation that is not made.
        BundleError: a bundle is not usable in this task, see `Task.choose_bundles`.
    """
    chosen = task.choose_bundles()
    if task.together:
        chosen.check_volumes()
    if not task.mode.translates:
        _refuse(_of_translation(task), "translation", "Leave it out, or --no-translate")
    if not task.mode.segments:
        _refuse(_of_segmentation(task.settings), "a segmentation", "Leave it out")
    _check_choices(task.settings)
    _check_numbers(task.settings)
    _check_device(task.settings.device or "cpu")


def _of_translation(task: Task) -> dict[str, bool]:
    """The options that need a translation, and whether they are given."""
    settings = task.settings
    given = {"--together": task.together, "--error-map": settings.error_map}
    return given | {option_of(name): getattr(settings, name) is not None for name in ("modality", "sampler", *SAMPLING)}


def _of_segmentation(settings: Settings) -> dict[str, bool]:
    """The options that need a segmentation, and whether they are given."""
    return {
        flag_of(setting): getattr(settings, setting.name) != setting.default
        for setting in fields(Settings)
        if setting.name in OF_SEGMENTATION
    }


def _refuse(options: dict[str, bool], missing: str, hint: str) -> None:
    for option, given in options.items():
        if given:
            raise InputError(option, f"has no effect without {missing}", hint)


def _check_choices(settings: Settings) -> None:
    overlays = available_overlays()
    if settings.modality and settings.modality not in overlays:
        hint = f"Choose one of {', '.join(overlays)}, or leave --modality out"
        raise InputError(settings.modality, "is not a known modality", hint)
    choices: dict[str, Collection[str]]
    choices = {"precision": PRECISIONS, "sampler": available_samplers(), "skip": SPACINGS, "start": STARTS}
    for name, allowed in choices.items():
        if (value := getattr(settings, name)) is not None and value not in allowed:
            raise InputError(option_of(name), f"is {value}", f"Choose one of {', '.join(allowed)}")


def _check_numbers(settings: Settings) -> None:
    for name, most in (("steps", 1000), ("samples", 1000), ("noise_level", 999)):
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= most:
            raise InputError(option_of(name), f"is {value}", f"Give a whole number from 1 to {most}")
    if settings.eta is not None and not 0 <= settings.eta <= 1:
        raise InputError("--eta", f"is {settings.eta}", "Give a number from 0 to 1")


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {device}", "is no device of this machine", "Use cpu, or see `midiff info`"
        ) from error
