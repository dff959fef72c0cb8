"""Several scans of one person that are translated together: bringing them to one grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import nibabel as nib

from midiff_monai.errors import InputError
from midiff_monai.io.affines import same_grid
from midiff_monai.io.frames import MOST_FRAMES
from midiff_monai.io.readers import READING_WARNINGS
from midiff_monai.io.volumes import reading_warnings
from midiff_monai.transforms.registration import Alignment, align, compare

NEEDS_SEVERAL = f"Name 2 to {MOST_FRAMES} scans of one person, or a file of as many frames"


class Scan(NamedTuple):
    """A scan of a joint job.

    Attributes:
        name: its file, or its DICOM series; with the number of the frame, from 1, where the file has several.
        image: as `reading.read` returns it.
    """

    name: str
    image: nib.Nifti1Image


class Companions(NamedTuple):
    """The further scans of a person, on the grid of the first.

    Attributes:
        images: the scans (X, Y, Z).
        facts: how each was brought to that grid, as the manifest has it.
    """

    images: Sequence[nib.Nifti1Image] = ()
    facts: Sequence[dict[str, Any]] = ()


NO_COMPANIONS = Companions()
"""A volume that is translated by itself."""


def bring_together(scans: Sequence[Scan]) -> Companions:
    """Bring scans to the grid of the first. Scans on its grid stay as they are, others are registered rigidly.

    Raises:
        InputError: there are too many, or a scan does not show the head of the first.
    """
    first, *others = scans
    if len(scans) > MOST_FRAMES:
        raise InputError(first.name, f"gives {len(scans)} scans to translate together", NEEDS_SEVERAL)
    moved = [_on_grid(first, other) for other in others]
    facts = [_facts(other.name, alignment) for (_, alignment), other in zip(moved, others, strict=True)]
    return Companions([image for image, _ in moved], facts)


def _on_grid(first: Scan, other: Scan) -> tuple[nib.Nifti1Image, Alignment]:
    """A scan on the grid of the first, and how well the two agree there."""
    grids = (grid for scan in (first, other) for grid in (scan.image.shape, scan.image.affine))
    if same_grid(*grids):
        image, alignment = other.image, compare(first.image, other.image)
    else:
        image, alignment = align(first.image, other.image)
        image.extra[READING_WARNINGS] = reading_warnings(other.image)
    if not alignment.same_head:
        fault = f"does not show the head of {first.name}, or not from the same position"
        raise InputError(other.name, fault, "Name scans of one person, or translate this one by itself")
    return image, alignment


def _facts(name: str, alignment: Alignment) -> dict[str, Any]:
    measured = {key: round(value, 3) for key, value in alignment._asdict().items() if value is not None}
    return {"path": name, "registered": alignment.shift_mm is not None} | measured
