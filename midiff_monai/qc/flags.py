"""Automatic flags: reasons for a person to look at a result before using it.

A flag does not say that a result is wrong. Each flag rests on one measured value and on a limit, which this module
defines and explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray
from scipy import ndimage, stats

from midiff_monai.labels import GROUPS, STRUCTURES
from midiff_monai.qc.geometry import Geometry, brain_geometry, coverage_faults, orientation_faults, size_faults
from midiff_monai.transforms.foreground import above_air

OUTLIER_Z = 3.5
"""Absolute robust z-score beyond which a value counts as an outlier (Iglewicz and Hoaglin 1993)."""

MIN_SCANS = 5
"""Fewest scans from which z-scores are computed. The median absolute deviation of fewer values is unreliable."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

MAX_CONTACT_CM2 = 5.0
"""Largest area of contact with a face of the volume. A tightly cropped brain touches the face with less: 1 mm below its
pole, a ball of 75 mm radius has a cross-section of 4.7 cm²."""

MIN_EDGE_CORRELATION = 0.38
"""Lowest edge correlation. Of ten scans, three of them CT, the lowest correlation with the scan's own synthetic T1w was
0.42. The highest correlation with a mirrored synthetic T1w was 0.34."""

MAX_SYNTHETIC_STD = 0.1
"""Highest mean standard deviation of the samples: half the contrast between grey and white matter in a synthetic T1w.
Beyond it the samples disagree on the tissue."""

MAX_NAMED = 10
"""Most missing structures that a flag names."""

BRAIN_STEM = 16
FACES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


class Flag(NamedTuple):
    """A reason to look at a result.

    Attributes:
        kind: "edge", "coverage", "size", "orientation", "volume", "absent", "edge_correlation" or "synthetic_std".
        value: the measured value: largest area of contact (cm²), smallest extent (mm), brain volume (ml), offset of a
            structure (mm), volume (ml), number of missing structures, edge correlation in [-1, 1], or mean standard
            deviation of the samples.
        text: sentences for the reader of the result.
    """

    kind: str
    value: float
    text: str


@dataclass(frozen=True)
class Measures:
    """The values measured on one subject's results.

    Attributes:
        volumes: millilitres by FreeSurfer id, without the background; empty without a segmentation.
        contact: cm² of foreground on each face of the volume, by the face's anatomical name.
        edge_correlation: `edge_correlation` of source and synthetic T1w, NaN if either is missing.
        synthetic_std: mean standard deviation of the samples in the foreground, NaN for a single sample.
        geometry: size and position of the segmented brain.
    """

    volumes: Mapping[int, float]
    contact: Mapping[str, float]
    edge_correlation: float = nan
    synthetic_std: float = nan
    geometry: Geometry = Geometry()

    def scores(self) -> dict[str, float]:
        """Return the values that a study compares: volumes of groups (ml), edge correlation and mean deviation."""
        return group_volumes(self.volumes) | {
            "edge_correlation": self.edge_correlation,
            "synthetic_std": self.synthetic_std,
        }


def group_volumes(volumes: Mapping[int, float]) -> dict[str, float]:
    """Add up volumes by FreeSurfer id into the whole brain and `GROUPS`; NaN if there are no volumes."""
    if not volumes:
        return dict.fromkeys(("brain", *GROUPS), nan)
    groups = {name: sum(volumes.get(label, 0.0) for label in labels) for name, labels in GROUPS.items()}
    return {"brain": sum(volumes.values())} | groups


NO_COMPARISON = dict.fromkeys((*group_volumes({}), "edge_correlation", "synthetic_std"), nan)
"""The z-scores of a subject outside a study."""


def robust_z(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each score's distance from the median of its column, in robust standard deviations (1.4826 MAD).

    A column is NaN if it has fewer than `MIN_SCANS` values or if more than half of them are equal.

    Args:
        scores: one row for each scan, one column for each score. NaN values are ignored.
    """
    deviations = scores - scores.median()
    scale = MAD_TO_SD * deviations.abs().median()
    return deviations / scale.where((scores.count() >= MIN_SCANS) & (scale > 0))


def foreground(segmentation: NDArray | None, source: NDArray | None) -> NDArray[np.bool_]:
    """Return the mask (X, Y, Z) of the segmented structures, or of all voxels above `air_level` if there are none."""
    if segmentation is not None and segmentation.any():
        return segmentation > 0
    assert source is not None
    return above_air(source)


def edge_contact(segmentation: NDArray | None, source: NDArray | None, affine: NDArray[np.float64]) -> dict[str, float]:
    """Return the area in cm² over which the foreground touches each face of the volume.

    The anatomy normally continues below the volume. With a segmentation, the brain stem is therefore ignored; without
    one, the inferior face is.

    Args:
        segmentation: (X, Y, Z), FreeSurfer ids, or None.
        source: the input on the same grid; needed without a segmentation.
        affine: voxel to RAS mm, any orientation. Each face is named by the nearest anatomical direction.
    """
    segmented = segmentation is not None and bool(segmentation.any())
    inside = foreground(segmentation, source)
    if segmented:
        inside &= segmentation != BRAIN_STEM
    image = nib.as_closest_canonical(nib.Nifti1Image(inside.astype(np.uint8), affine))
    mask, sides = np.asarray(image.dataobj), voxel_sizes(image.affine)
    contact: dict[str, float] = {}
    for axis, names in enumerate(FACES):
        voxel_cm2 = np.delete(sides, axis).prod() / 100
        contact |= {
            name: float(mask.take(end, axis).sum() * voxel_cm2) for name, end in zip(names, (0, -1), strict=True)
        }
    return contact if segmented else contact | {"inferior": 0.0}


def edge_correlation(
    source: NDArray, synthetic: NDArray, mask: NDArray[np.bool_], affine: NDArray[np.float64]
) -> float:
    """Return the rank correlation of two volumes' gradient magnitudes in a mask, in [-1, 1]; NaN if one is constant.

    Anatomical boundaries are edges in every contrast. A faithful translation therefore has its edges where the source
    has them. On real pairs the correlation is 0.43 to 0.72 with the subject's own T1w, below 0.28 with the T1w of
    others, and 0 with noise. The mean LMI does not separate these cases: it is as high for noise as for the subject's
    own T1w, and higher than that for any smooth synthetic T1w.

    Ranks are compared because the edges of bone in CT would otherwise outweigh all others.

    Args:
        source: (X, Y, Z), any contrast.
        synthetic: the same shape.
        mask: the voxels to compare, the same shape.
        affine: voxel to mm.
    """
    spacing = voxel_sizes(affine).tolist()
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    # the gradient at the border of the mask needs the neighbouring voxels
    box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)
    mask = mask[box]
    edges, synthetic_edges = (
        np.sqrt(sum(map(np.square, np.gradient(volume[box], *spacing))))[mask] for volume in (source, synthetic)
    )
    if np.ptp(edges) == 0 or np.ptp(synthetic_edges) == 0:
        return nan
    return float(stats.spearmanr(edges, synthetic_edges).statistic)


def measure(
    source: NDArray | None,
    synthetic: NDArray | None,
    synthetic_std: NDArray | None,
    segmentation: NDArray | None,
    volumes: Mapping[int, float],
    affine: NDArray[np.float64],
) -> Measures:
    """Measure one subject's results. Any volume may be missing, but one of source, synthetic T1w and segmentation not.

    Args:
        source: (X, Y, Z), the input.
        synthetic: the synthetic T1w, the same shape.
        synthetic_std: standard deviation of the samples, the same shape.
        segmentation: FreeSurfer ids, the same shape.
        volumes: millilitres by FreeSurfer id.
        affine: voxel to RAS mm.
    """
    image = synthetic if source is None else source
    mask = foreground(segmentation, image)
    compared = source is not None and synthetic is not None
    return Measures(
        volumes,
        edge_contact(segmentation, image, affine),
        edge_correlation(source, synthetic, mask, affine) if compared else nan,  # type: ignore[arg-type]
        nan if synthetic_std is None else float(synthetic_std[mask].mean()),
        brain_geometry(segmentation, affine),
    )


def quality_flags(measures: Measures, z: Mapping[str, float] = NO_COMPARISON) -> list[Flag]:
    """Return the flags of one subject's results.

    Args:
        measures: the values measured on the subject.
        z: the subject's row of `robust_z` over the `scores` of its study, if it is part of one.
    """
    return [
        *_edge_flags(measures),
        *_coverage_flags(measures),
        *_size_flags(measures),
        *_orientation_flags(measures),
        *_volume_flags(measures, z),
        *_absent_flags(measures),
        *_edge_correlation_flags(measures, z),
        *_synthetic_std_flags(measures, z),
    ]


def _edge_flags(measures: Measures) -> list[Flag]:
    touched = {face: area for face, area in measures.contact.items() if area > MAX_CONTACT_CM2}
    if not touched:
        return []
    faces = ", ".join(f"{face} ({area:.0f} cm²)" for face, area in touched.items())
    text = f"The anatomy touches the edge of the volume: {faces}. Look whether part of it is cut off."
    return [Flag("edge", max(touched.values()), text)]


def _is_cut(measures: Measures) -> bool:
    return any(area > MAX_CONTACT_CM2 for area in measures.contact.values())


def _coverage_flags(measures: Measures) -> list[Flag]:
    faults = coverage_faults(measures.geometry, _is_cut(measures))
    if not faults:
        return []
    extents = " and ".join(text for _, text in faults)
    text = f"The volume covers only a part of the brain: {extents}. Structures are cut or missing."
    return [Flag("coverage", min(extent for extent, _ in faults), text)]


def _size_flags(measures: Measures) -> list[Flag]:
    brain_ml = sum(measures.volumes.values())
    faults = size_faults(measures.geometry, brain_ml, _is_cut(measures))
    if not faults:
        return []
    text = f"No brain has this size: {', '.join(faults)}. Check the voxel size in the header of the file."
    return [Flag("size", brain_ml, text)]


def _orientation_flags(measures: Measures) -> list[Flag]:
    faults = orientation_faults(measures.geometry)
    if not faults:
        return []
    names = ", ".join(text for _, text in faults)
    text = f"Structures lie where they cannot be: {names}. Check the orientation in the header of the file."
    return [Flag("orientation", faults[0][0], text)]


def _volume_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    volumes = group_volumes(measures.volumes)
    unusual = [name for name in volumes if abs(z[name]) > OUTLIER_Z]
    return [Flag("volume", volumes[name], _volume_text(name, volumes[name], z[name])) for name in unusual]


def _volume_text(name: str, volume: float, z: float) -> str:
    side = "large" if z > 0 else "small"
    return f"Unusually {side} volume of {name}: {volume:.1f} ml{_in_study(z)}. Look at its outline."


def _absent_flags(measures: Measures) -> list[Flag]:
    """Flag missing structures, unless all are missing: the run then warns that nothing was found."""
    absent = [structure.name for structure in STRUCTURES[1:] if measures.volumes.get(structure.id, 0) == 0]
    if not measures.volumes or len(absent) in (0, len(STRUCTURES) - 1):
        return []
    more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
    text = f"Structures not found: {', '.join(absent[:MAX_NAMED])}{more}. Look whether the scan shows them."
    return [Flag("absent", len(absent), text)]


def _edge_correlation_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    value, z_score = measures.edge_correlation, z["edge_correlation"]
    if not (value < MIN_EDGE_CORRELATION or z_score < -OUTLIER_Z):
        return []
    text = f"The edges of the synthetic T1w match those of the source poorly: correlation {value:.2f}"
    return [Flag("edge_correlation", value, f"{text}{_in_study(z_score)}. Look at the two side by side.")]


def _synthetic_std_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    value, z_score = measures.synthetic_std, z["synthetic_std"]
    if not (value > MAX_SYNTHETIC_STD or z_score > OUTLIER_Z):
        return []
    text = f"The samples of the synthetic T1w disagree: mean standard deviation {value:.3f}"
    return [Flag("synthetic_std", value, f"{text}{_in_study(z_score)}. Look at the synthetic T1w.")]


def _in_study(z: float) -> str:
    return "" if isnan(z) else f" (z = {z:+.1f})"
