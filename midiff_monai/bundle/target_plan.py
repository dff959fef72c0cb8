"""What a bundle of one's own is to make: the target, its anatomy, its grid and its intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from midiff_monai.errors import InputError
from midiff_monai.io.outputs import TARGET

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Orientation of slices → the axis of a volume in RAS that they are cut along."""

VOLUME_SPACING_MM, SLICE_SPACING = (2.0, 2.0, 2.0), (1.0, 1.0)
"""Spacing of the network's grid where none is given: that of the shipped bundle; the pixels of a slice as given."""


@dataclass(frozen=True)
class TargetPlan:
    """What a bundle of one's own is to make.

    Attributes:
        target: name of the target modality, a part of file names: "FLAIR", "T2w", "CT" …
        anatomy: "brain", or "any" for anatomy that is not alike on the left and on the right.
        spacing: voxel size of the network's grid. Of volumes in mm, one number or three: left-right,
            posterior-anterior, inferior-superior. Of slices in pixels of the file, one number or two: columns, rows.
            None takes 2 mm, or the pixels as given.
        slices: a key of `AXES`, for volumes alone. None cuts axial slices.
        window: the intensities that become 0 and 1, for an absolute scale such as HU. None takes percentiles of the
            foreground of each volume.
        segmented: folder of the results of `midiff batch` for volumes of brains. The random contrasts are made from the
            synthetic T1w and the tissues there. None makes them from the intensities of the volumes.

    Raises:
        InputError: the name cannot be part of a file name, a number is out of range, or the anatomy is not segmented.
    """

    target: str
    anatomy: str = "brain"
    spacing: Sequence[float] | None = None
    slices: str | None = None
    window: tuple[float, float] | None = None
    segmented: Path | None = None

    def __post_init__(self) -> None:
        if not TARGET.fullmatch(self.target):
            raise InputError(f"--target {self.target}", "is a part of file names", "Use letters and digits alone")
        if not all(0.1 <= side <= 20 for side in self.spacing or ()):
            raise InputError("--spacing", f"is {_text(self.spacing)}", "Give sides from 0.1 to 20")
        if self.window and self.window[0] >= self.window[1]:
            raise InputError("--window", f"is {_text(self.window)}", "Give the lower intensity first")
        if self.segmented and self.anatomy != "brain":
            raise InputError("--segmented", "holds tissues of brains", "Leave it out, or choose --anatomy brain")

    def completed(self, of_slices: bool) -> TargetPlan:
        """The plan with its defaults for volumes or for slices, and three sides of a voxel.

        Raises:
            InputError: the number of sides is wrong, or an option needs volumes.
        """
        if of_slices and self.slices:
            raise InputError("--slices", "has no effect: each file is a slice already", "Leave it out")
        if of_slices and self.segmented:
            raise InputError("--segmented", "needs volumes: slices are not segmented", "Leave it out")
        sides = list(self.spacing or (SLICE_SPACING if of_slices else VOLUME_SPACING_MM))
        count = 2 if of_slices else 3
        if len(sides) not in (1, count):
            raise InputError("--spacing", f"has {len(sides)} numbers", f"Give one, or {count}: one for each axis")
        sides = sides * count if len(sides) == 1 else sides
        # the normal of a slice has no length: as long as the longest side, a coarser grid counts as coarser
        return replace(self, spacing=[*sides, max(sides)] if of_slices else sides, slices=self.slices or "axial")

    @property
    def grid(self) -> dict[str, Any]:
        """The ids that training and inference share, of a completed plan."""
        assert self.spacing and self.slices
        return {"pixdim": list(self.spacing), "axis": AXES[self.slices], "mirror": self.anatomy == "brain"}

    @property
    def intensities(self) -> dict[str, Any]:
        """The ids that scale the target in training."""
        scale: dict[str, Any] = {"_target_": "midiff_monai.transforms.ScaleForegroundIntensityd", "keys": "image"}
        scale |= {"window": list(self.window)} if self.window else {"lower": 1.0, "upper": 99.0}
        clear = {"_target_": "midiff_monai.transforms.ClearBackgroundd", "keys": "image"}
        return {"scale_target": scale, "clear_background": clear | {"absolute": self.window is not None}}


def _text(numbers: Sequence[float] | None) -> str:
    return " ".join(f"{number:g}" for number in numbers or ())
