"""Whether all images of a series are there, as far as their headers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from midiff_monai.io.dicom.header import ImageHeader

MAX_GAPS = 4
"""InstanceNumber counts the images of a series if its range is at most this many times as long as their number."""

MAX_SLICE_GAP = 0.5
"""Largest usual gap between slices, as a fraction of their thickness."""

MOST_NAMES = 3
"""Number of file names that a warning lists."""


def missing_images(images: Sequence[ImageHeader]) -> str:
    """Return which images of a series are missing, as a verb phrase. Empty if none is known to be missing.

    Args:
        images: All images of one SeriesInstanceUID.
    """
    for image in images:
        parts = {other.path for other in images if other.multiframe == image.multiframe}
        if image.multiframe and len(parts) < image.declared_parts:
            return f"lacks {image.declared_parts - len(parts)} of the {image.declared_parts} files of a concatenation"
    numbers = sorted({image.instance for image in images if image.instance is not None and not image.multiframe})
    if len(numbers) < 2 or numbers[-1] - numbers[0] + 1 > MAX_GAPS * len(numbers):
        return ""
    absent = sorted(set(range(numbers[0], numbers[-1])) - set(numbers))
    if not absent or (len(set(np.diff(numbers))) == 1 and _has_declared_spacing(images)):
        return ""
    return f"lacks {len(absent)} images, those with InstanceNumber {_ranges(absent)} of {numbers[0]}-{numbers[-1]}"


def _has_declared_spacing(images: Sequence[ImageHeader]) -> bool:
    """Return whether the slices are as far apart as the headers say, so that none is missing in between."""
    distances = np.unique(np.round([image.positions[0, 3] for image in images], 3))
    if len(distances) < 2:
        return False
    spacing, first = float(np.median(np.diff(distances))), images[0]
    if first.declared_spacing:
        return abs(spacing - abs(first.declared_spacing)) < 0.1 * spacing
    return bool(first.thickness) and spacing <= (1 + MAX_SLICE_GAP) * first.thickness


def _ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as ranges: 2, 4-6."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(texts[:8]) + (" …" if len(texts) > 8 else "")


def completeness_warnings(images: Sequence[ImageHeader], left_out: Mapping[Path, str]) -> list[str]:
    """Return sentences for the report about files that were left out and images that the header declares.

    Args:
        images: All images of one SeriesInstanceUID.
        left_out: Files in the folders of the series that were not read, and why, as a verb phrase in the singular.
    """
    folders = {image.path.parent for image in images}
    relevant = {path: reason for path, reason in left_out.items() if path.parent in folders}
    reasons = sorted(set(relevant.values()))
    warnings = [_left_out(reason, (path for path in relevant if relevant[path] == reason)) for reason in reasons]
    declared = max(image.declared_images for image in images)
    if not any(image.multiframe for image in images) and len(images) < declared:
        warnings.append(
            f"The headers declare {declared} images (ImagesInAcquisition), but the series has {len(images)}."
        )
    return warnings


def _left_out(reason: str, paths: Iterable[Path]) -> str:
    names = sorted(path.name for path in paths)
    listed = ", ".join(names[:MOST_NAMES]) + (" …" if len(names) > MOST_NAMES else "")
    files = "1 file of the folder was" if len(names) == 1 else f"{len(names)} files of the folder were"
    return f"{files} left out, because each {reason} ({listed}): slices may be missing."
