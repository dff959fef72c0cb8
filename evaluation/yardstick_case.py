"""A scan of the yardstick and its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib


class Scan(NamedTuple):
    """A scan and its truth.

    Attributes:
        volume: the file that the pipeline gets.
        truth: FreeSurfer ids or `parcellations.NOT_SCORED`, on the grid of the scores.
        translated: False for a T1w, which is segmented as it is.
        modality: preprocessing of the translation, such as CT.
        structures: whether the truth follows FreeSurfer's protocol, so that single structures are comparable.
        lesions: mask of white matter lesions on the grid of the truth.
        known: (structure, measure) → value that is known before the segmentation, such as that of a registration.
    """

    volume: Path
    truth: nib.Nifti1Image
    translated: bool = True
    modality: str | None = None
    structures: bool = False
    lesions: nib.Nifti1Image | None = None
    known: Mapping[tuple[str, str], float] = {}


class Case(NamedTuple):
    """A scan that is not read yet. `read` takes a folder for its files."""

    source: str
    subject: str
    contrast: str
    read: Callable[[Path], Scan]

    @property
    def key(self) -> dict[str, str]:
        """The columns that identify the case."""
        return {"source": self.source, "subject": self.subject, "contrast": self.contrast}


def subject_of(volume: Path) -> str:
    """Return the subject of a file SUBJECT_….nii.gz."""
    return volume.name.partition("_")[0]
