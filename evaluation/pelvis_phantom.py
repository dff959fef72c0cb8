"""Phantoms of a pelvis made of ellipsoids, as CT and as T2w on one grid: anatomy that is no brain, with its truth.

    python evaluation/pelvis_phantom.py --count 12 --out pelvis

writes train/person-NN_CT.nii.gz, in Hounsfield units, and for the last `TESTED` people test/person-NN_CT.nii.gz and
test/person-NN_T2.nii.gz. They are no likeness of a real pelvis. Every person has other sizes and places of organs, and
left and right differ: bowel with gas lies on one side.

The signal of the T2w is that of a spin echo. Relaxation times are rounded from de Bazelaire et al. (Radiology 230:652,
2004), at 1.5 T. Cortical bone and gas have no signal, so both are as dark as air.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from midiff_monai.evaluation.phantom import PulseSequence, Tissue, acquire

SPACING_MM, SHAPE = 3.0, (112, 80, 32)
"""Voxel size, and voxels from left to right, from back to front, and from bottom to top."""

FINER = 2
"""Points along each side of a voxel. Their tissues are averaged, which gives partial volume."""

SEQUENCE = PulseSequence(repetition=4000, echo=60)

NOISE_HU = 15.0

TESTED = 3


class Part(IntEnum):
    """What is at a point. `AIR` and `GAS` look alike, and so do `AIR` and `CORTICAL` in a T2w."""

    AIR = 0
    FLUID = 1
    FAT = 2
    MUSCLE = 3
    ORGAN = 4
    MARROW = 5
    CORTICAL = 6
    GAS = 7


HOUNSFIELD: Mapping[Part, float] = dict(
    zip(Part, (-1000.0, 5.0, -100.0, 55.0, 35.0, 220.0, 900.0, -950.0), strict=True)
)

RELAXATION: Mapping[int, Tissue] = {
    Part.FLUID: Tissue(2569, 329, 1.0),
    Part.FAT: Tissue(343, 58, 0.9),
    Part.MUSCLE: Tissue(856, 27, 0.8),
    Part.ORGAN: Tissue(1317, 88, 0.8),
    Part.MARROW: Tissue(549, 49, 0.8),
    Part.CORTICAL: Tissue(1000, 1, 0.0),
    Part.GAS: Tissue(1000, 1, 0.0),
}


Point = tuple[float, float, float]
"""Left-right, back-front and bottom-top, in mm."""


class Pelvis(NamedTuple):
    """A phantom: parts (X, Y, Z), the most frequent `Part` of each voxel, and two scans on the same grid."""

    parts: nib.Nifti1Image
    ct: nib.Nifti1Image
    t2: nib.Nifti1Image


def make_pelvis(seed: int, noise: float = 0.02, bias: float = 0.2) -> Pelvis:
    """Make the phantom of one person in RAS. Equal arguments give equal voxels.

    Args:
        seed: seed of the anatomy and of the noise.
        noise: noise of the T2w, as for `make_phantom`.
        bias: bias field of the T2w, as for `make_phantom`.
    """
    generator = np.random.default_rng(seed)
    points = draw_parts(generator)
    fractions = np.stack([_average(points == part) for part in Part])
    t2 = acquire(fractions, SEQUENCE, noise=noise, bias=bias, seed=seed, tissues=RELAXATION)
    ct = np.tensordot(list(HOUNSFIELD.values()), fractions, 1) + generator.normal(0, NOISE_HU, t2.shape)
    volumes = (fractions.argmax(axis=0).astype(np.uint8), ct.clip(-1024), t2)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    return Pelvis(*(nib.Nifti1Image(voxels.astype(np.float32), affine) for voxels in volumes))


def draw_parts(generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the `Part` of each point (X, Y, Z) of a grid `FINER` than the voxels."""

    def vary(value: float, share: float = 0.1) -> float:
        return value * (1 + share * generator.uniform(-1, 1))

    x, y, z = _coordinates()
    parts = np.full(x.shape, Part.AIR, np.uint8)

    def fill(part: Part, centre: Point, radii: Point) -> None:
        offsets = zip((x, y, z), centre, radii, strict=True)
        parts[(parts != Part.AIR) & (sum(((axis - at) / radius) ** 2 for axis, at, radius in offsets) < 1)] = part

    width, depth, fat = vary(150), vary(100), vary(22, 0.4)
    parts[np.abs(x / width) ** 2.5 + np.abs(y / depth) ** 2.5 < 1] = Part.FAT
    parts[np.abs(x / (width - fat)) ** 2.5 + np.abs(y / (depth - fat)) ** 2.5 < 1] = Part.MUSCLE
    fill(Part.FAT, (0, vary(15), 10), (vary(62), vary(48), 70))  # around the organs
    for side in (-1, 1):
        _fill_hip(fill, side, vary)
    sacrum = (vary(34), vary(20), 60.0)
    fill(Part.CORTICAL, (0, -55, 45), sacrum)
    fill(Part.MARROW, (0, -55, 45), (sacrum[0] - 4, sacrum[1] - 4, 56))
    bladder = vary(26, 0.35)
    fill(Part.ORGAN, (0, 28, 5), (bladder * 1.3 + 3, bladder + 3, bladder + 3))
    fill(Part.FLUID, (vary(1, 5), 28, 5), (bladder * 1.3, bladder, bladder))
    fill(Part.ORGAN, (0, 18, -30), (vary(24), vary(18), vary(16)))  # prostate
    fill(Part.ORGAN, (vary(4, 2), -20, 0), (vary(15), vary(14), 80))  # rectum
    fill(Part.GAS, (vary(4, 2), -16, vary(0) + generator.uniform(-30, 30)), (vary(8), vary(6), vary(20)))
    for height in generator.uniform(10, 45, 3):  # bowel, on the left alone
        place = (-vary(38, 0.3), vary(22, 0.6), float(height))
        fill(Part.ORGAN, place, (vary(18), vary(14), vary(14)))
        fill(Part.GAS if generator.random() < 0.5 else Part.FLUID, place, (vary(10), vary(8), vary(9)))
    return parts


def _fill_hip(fill: Callable[[Part, Point, Point], None], side: int, vary: Callable[..., float]) -> None:
    """Draw the ilium above, and the head of the femur below, each with marrow in a shell of cortical bone."""
    for centre, radii, shell in (
        ((side * vary(84), vary(-8, 0.5), 45.0), (vary(15), vary(45), vary(48)), 4.0),
        ((side * vary(88), 5.0, -18.0), (vary(25), vary(25), vary(25)), 3.5),
        ((side * vary(105), 0.0, -48.0), (vary(17), vary(17), 30.0), 5.0),
    ):
        fill(Part.CORTICAL, centre, radii)
        fill(Part.MARROW, centre, (radii[0] - shell, radii[1] - shell, radii[2] - shell))


def _coordinates() -> tuple[NDArray[np.float64], ...]:
    """Coordinates in mm, from the centre, of the points."""
    axes = ((np.arange(side * FINER) + 0.5) * SPACING_MM / FINER - side * SPACING_MM / 2 for side in SHAPE)
    return np.meshgrid(*axes, indexing="ij")


def _average(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The share of the points of each voxel (X, Y, Z) that a mask holds."""
    blocks = mask.reshape([part for side in SHAPE for part in (side, FINER)])
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def main() -> None:
    """Write the phantoms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12, help="number of people (default: 12)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    for person in range(arguments.count):
        tested = person >= arguments.count - TESTED
        folder = arguments.out / ("test" if tested else "train")
        folder.mkdir(parents=True, exist_ok=True)
        pelvis = make_pelvis(person)
        for name in ("ct", "t2") if tested else ("ct",):
            nib.save(getattr(pelvis, name), folder / f"person-{person:02d}_{name.upper()}.nii.gz")


if __name__ == "__main__":
    main()
