"""Automatic flags on results: where a person should look first.

A flag accuses nobody. Each has one number behind it, and a limit in this module with the reason for its value.
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
from midiff_monai.transforms.foreground import air_level

OUTLIER_Z = 3.5
"""Robust z-score beyond which a value counts as an outlier (Iglewicz and Hoaglin 1993)."""

MIN_SCANS = 5
"""A median absolute deviation of fewer values says little."""

MAD_TO_SD = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

MAX_CONTACT_CM2 = 5.0
"""1 mm below its pole a ball of 75 mm radius is 4.7 cm² wide: so much a brain touches that was cropped tightly."""

MIN_EDGE_CORRELATION = 0.38
"""Between the 0.42 of the worst of ten synthetic T1w, three of CT, and the 0.34 of the best of them mirrored."""

MAX_SYNTHETIC_STD = 0.1
"""Half the contrast of grey and white matter in a synthetic T1w: beyond it the samples disagree on the tissue."""

MAX_NAMED = 10
"""Structures that a flag names; a volume that lacks more is no brain, or none that was found."""

BRAIN_STEM = 16
FACES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


class Flag(NamedTuple):
    """A reason to look: one of "edge", "volume", "absent", "edge_correlation", "synthetic_std", and a sentence for the reader."""

    kind: str
    text: str


@dataclass(frozen=True)
class Measures:
    """What is measured on one subject's results.

    Attributes:
        volumes: millilitres by FreeSurfer id, background excluded; empty where nothing was segmented.
        contact: cm² of foreground on each face of the volume, by the face's anatomical name.
        agreement: `edge_correlation` of source and synthetic T1w, NaN where there are not both.
        spread: mean standard deviation of the samples in the foreground, NaN for a single sample.
    """

    volumes: Mapping[int, float]
    contact: Mapping[str, float]
    edge_correlation: float = nan
    synthetic_std: float = nan

    def scores(self) -> dict[str, float]:
        """The numbers that are compared across a study: the volume of each group in millilitres, agreement, spread."""
        return group_volumes(self.volumes) | {
            "edge_correlation": self.edge_correlation,
            "synthetic_std": self.synthetic_std,
        }


def group_volumes(volumes: Mapping[int, float]) -> dict[str, float]:
    """Add up volumes by FreeSurfer id into the whole brain and `GROUPS`; NaN without any volume."""
    if not volumes:
        return dict.fromkeys(("brain", *GROUPS), nan)
    groups = {name: sum(volumes.get(label, 0.0) for label in labels) for name, labels in GROUPS.items()}
    return {"brain": sum(volumes.values())} | groups


NO_COMPARISON = dict.fromkeys((*group_volumes({}), "edge_correlation", "synthetic_std"), nan)
"""The z-scores of a subject that nothing is known to compare with."""


def robust_z(scores: pd.DataFrame) -> pd.DataFrame:
    """Return each score's distance from the median of its column in robust standard deviations (1.4826 MAD).

    A column is NaN where it has fewer than `MIN_SCANS` values or more than half of them are equal.

    Args:
        scores: one row a scan, one column a score; NaN is left out.
    """
    deviations = scores - scores.median()
    scale = MAD_TO_SD * deviations.abs().median()
    return deviations / scale.where((scores.count() >= MIN_SCANS) & (scale > 0))


def foreground(segmentation: NDArray | None, source: NDArray | None) -> NDArray[np.bool_]:
    """Return the voxels (X, Y, Z) that count as the object: what was segmented, or else what is not air.

    Air is what lies below `air_level`, as for the intensities of the models.
    """
    if segmentation is not None and segmentation.any():
        return segmentation > 0
    assert source is not None
    return source > air_level(source[source > 0])


def edge_contact(segmentation: NDArray | None, source: NDArray | None, affine: NDArray[np.float64]) -> dict[str, float]:
    """Return the area in cm² over which the foreground touches each face of the volume.

    Heads go on below: the lower face is left out where nothing was segmented, and else the brain stem.

    Args:
        segmentation: (X, Y, Z), FreeSurfer ids, or None.
        source: the input on the same grid; needed where there is no segmentation.
        affine: voxel to RAS mm, any orientation; the faces are named by the nearest anatomical direction.
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
    """Return the rank correlation of two volumes' gradient magnitudes in a mask, in [-1, 1]; NaN where one is flat.

    Anatomy shows as edges in whatever contrast, so a faithful translation has its edges where the source has them. The
    mean LMI is no such measure: it is as high for noise as for the subject's own T1w, and higher than for any smooth
    synthetic one. On real pairs this one is 0.43 to 0.72 for the own T1w, below 0.28 for others, and 0 for noise.

    Ranks, for beside the bone of a CT no other edge would count.

    Args:
        source: (X, Y, Z), any contrast.
        synthetic: the same shape.
        mask: the voxels to compare, of the same shape.
        affine: voxel to mm.
    """
    spacing = voxel_sizes(affine).tolist()
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    # gradients reach as far as the neighbours
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
    """Measure one subject's results, of which any may be missing, but not source and synthetic T1w both.

    Args:
        source: (X, Y, Z), the input.
        synthetic: the same shape, as are the following.
        spread: standard deviation of the samples.
        segmentation: FreeSurfer ids.
        volumes: millilitres by FreeSurfer id.
        affine: voxel to RAS mm.
    """
    seen = synthetic if source is None else source
    mask = foreground(segmentation, seen)
    compared = source is not None and synthetic is not None
    return Measures(
        volumes,
        edge_contact(segmentation, seen, affine),
        edge_correlation(source, synthetic, mask, affine) if compared else nan,  # type: ignore[arg-type]
        nan if synthetic_std is None else float(synthetic_std[mask].mean()),
    )


def quality_flags(measures: Measures, z: Mapping[str, float] = NO_COMPARISON) -> list[Flag]:
    """Name what is odd about one subject's results.

    Args:
        measures: of the subject.
        z: its row of `robust_z` over the `scores` of the study, if it is part of one.
    """
    return [
        *_edge_flags(measures),
        *_volume_flags(measures, z),
        *_agreement_flags(measures, z),
        *_spread_flags(measures, z),
    ]


def _edge_flags(measures: Measures) -> list[Flag]:
    touched = [f"{face} ({area:.0f} cm²)" for face, area in measures.contact.items() if area > MAX_CONTACT_CM2]
    return [Flag("edge", f"Touches the edge of the volume: {', '.join(touched)}. Part may be cut off.")] * bool(touched)


def _volume_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    groups = group_volumes(measures.volumes)
    odd = [name for name in groups if abs(z[name]) > OUTLIER_Z]
    flags = [Flag("volume", f"Odd volume of {name}: {groups[name]:.1f} ml, z {z[name]:+.1f}.") for name in odd]
    absent = [structure.name for structure in STRUCTURES[1:] if measures.volumes.get(structure.id, 0) == 0]
    if 0 < len(absent) < len(STRUCTURES) - 1 and measures.volumes:
        more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        flags.append(Flag("absent", f"Not found: {', '.join(absent[:MAX_NAMED])}{more}."))
    return flags


def _agreement_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    if measures.edge_correlation < MIN_EDGE_CORRELATION or z["edge_correlation"] < -OUTLIER_Z:
        text = f"Edges of the synthetic T1w hardly follow the source: correlation {measures.edge_correlation:.2f}"
        return [Flag("edge_correlation", text + _in_study(z["edge_correlation"]))]
    return []


def _spread_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    if measures.synthetic_std > MAX_SYNTHETIC_STD or z["synthetic_std"] > OUTLIER_Z:
        text = f"The samples disagree: mean standard deviation {measures.synthetic_std:.3f}"
        return [Flag("synthetic_std", text + _in_study(z["synthetic_std"]))]
    return []


def _in_study(z: float) -> str:
    return "." if isnan(z) else f", z {z:+.1f}."
