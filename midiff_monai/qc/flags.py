"""Automatic flags: reasons for a person to look at a result before using it.

A flag does not say that a result is wrong. Each flag rests on one measured value and on a limit, which this module
defines and explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan, nan
from typing import NamedTuple

import pandas as pd

from midiff_monai.labels import STRUCTURES
from midiff_monai.qc.asymmetry import Asymmetry
from midiff_monai.qc.geometry import coverage_faults, orientation_faults, size_faults
from midiff_monai.qc.measures import Measures, group_volumes
from midiff_monai.qc.orientation import Orientation

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

MAX_GAIN_BITS = 0.01
"""Largest gain in mutual information with an average head by another orientation than that of the header. In 48
development scans no other orientation is as good. The best of the others is at least 0.02 bits worse."""

MIN_HEAD_BITS = 0.35
"""Lowest mutual information with an average head. In the development scans it is 0.46 to 0.93 bits."""

MIN_QUALITY = 0.65
"""Lowest expected mean Dice. Good scans of real whole heads have more than 0.7."""

MAX_ASYMMETRY_ML = 3.0
"""Largest region in which the sides of a source may differ. In 44 of 45 development scans without a large lesion it has
at most 2.6 ml. In the six with a stroke or a tumour it has 3.3 to 71 ml."""

MAX_NAMED = 10
"""Most missing structures that a flag names."""


class Flag(NamedTuple):
    """A reason to look at a result.

    Attributes:
        kind: "quality", "edge", "coverage", "size", "orientation", "axes", "anatomy", "asymmetry", "volume", "absent",
            "edge_correlation" or "synthetic_std".
        value: the measured value: expected mean Dice, largest area of contact (cm²), smallest extent (mm), brain volume
            (ml), offset of a structure (mm), gain by another orientation (bits), mutual information with an average
            head (bits), volume in which the sides differ (ml), volume (ml), number of missing structures, edge
            correlation in [-1, 1], or mean standard deviation of the samples.
        text: sentences for the reader of the result.
    """

    kind: str
    value: float
    text: str


NO_COMPARISON = dict.fromkeys(Measures({}, {}).scores(), nan)
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


def quality_flags(measures: Measures, z: Mapping[str, float] = NO_COMPARISON) -> list[Flag]:
    """Return the flags of one subject's results.

    Args:
        measures: the values measured on the subject.
        z: the subject's row of `robust_z` over the `scores` of its study, if it is part of one.
    """
    return [
        *_low_quality_flags(measures.quality),
        *_edge_flags(measures),
        *_coverage_flags(measures),
        *_size_flags(measures),
        *_orientation_flags(measures),
        *_head_flags(measures.orientation),
        *_asymmetry_flags(measures.asymmetry),
        *_volume_flags(measures, z),
        *_absent_flags(measures),
        *_edge_correlation_flags(measures, z),
        *_synthetic_std_flags(measures, z),
    ]


def _low_quality_flags(quality: float) -> list[Flag]:
    if not quality < MIN_QUALITY:
        return []
    text = f"The segmentation is probably poor: a mean Dice of {quality:.2f} is expected. Look at it before you use it."
    return [Flag("quality", quality, text)]


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


def _head_flags(found: Orientation | None) -> list[Flag]:
    """Flag what does not resemble a head, or resembles one that lies otherwise."""
    if found is None:
        return []
    if found.best_bits < MIN_HEAD_BITS:
        text = "The volume does not look like a head or a brain. Look whether it is the right one."
        return [Flag("anatomy", found.best_bits, text)]
    if found.gain <= MAX_GAIN_BITS:
        return []
    axes = f"The axes of the file fit {found.best_axes} or {found.mirrored_axes} better than {found.axes}"
    check = "Check the orientation in the header of the file, and whether the volume shows a whole head or brain."
    return [Flag("axes", found.gain, f"By the header, the head lies {found.change}. {axes}. {check}")]


def _asymmetry_flags(found: Asymmetry | None) -> list[Flag]:
    if found is None or found.volume_ml <= MAX_ASYMMETRY_ML:
        return []
    place = f"{found.volume_ml:.0f} ml of the {found.side} {found.region} region"
    change = f"{'brighter' if found.brighter else 'darker'} than the other side"
    text = f"The sides of the brain differ: {place} are {change}. Look for a lesion, such as a stroke or a tumour."
    return [Flag("asymmetry", found.volume_ml, text)]


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
    text = f"The edges of the synthetic volume match those of the source poorly: correlation {value:.2f}"
    return [Flag("edge_correlation", value, f"{text}{_in_study(z_score)}. Look at the two side by side.")]


def _synthetic_std_flags(measures: Measures, z: Mapping[str, float]) -> list[Flag]:
    value, z_score = measures.synthetic_std, z["synthetic_std"]
    if not (value > MAX_SYNTHETIC_STD or z_score > OUTLIER_Z):
        return []
    text = f"The samples of the synthetic volume disagree: mean standard deviation {value:.3f}"
    return [Flag("synthetic_std", value, f"{text}{_in_study(z_score)}. Look at the synthetic volume.")]


def _in_study(z: float) -> str:
    return "" if isnan(z) else f" (z = {z:+.1f})"
