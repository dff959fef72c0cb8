"""Size, coverage and orientation of a brain, and the flags of headers that nobody can believe."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from midiff_monai.labels import STRUCTURES, structure_volumes
from midiff_monai.qc.flags import Flag, quality_flags
from midiff_monai.qc.measures import measure

AFFINE = np.array([[2.0, 0, 0, -80], [0, 2, 0, -100], [0, 0, 2, -60], [0, 0, 0, 1]])
KINDS = {"coverage", "size", "orientation"}


def brain() -> NDArray[np.int16]:
    """An ellipsoid of 130 x 160 x 110 mm of cerebrum with the other structures as cubes at their places, in mm."""
    places = np.moveaxis(np.indices((80, 100, 80)), 0, -1) * 2.0 - [80, 100, 60]
    inside = ((places / [65, 80, 55]) ** 2).sum(axis=-1) < 1
    labels = np.where(inside, np.where(places[..., 0] < 0, 3, 42), 0).astype(np.int16)
    centres = {
        17: (-25, 0, -25),
        53: (25, 0, -25),
        16: (0, -8, -40),
        11: (-12, 28, 0),
        50: (12, 28, 0),
        8: (0, -40, -48),
    }
    for label, centre in centres.items():
        labels[(np.abs(places - centre) < 6).all(axis=-1)] = label
    return labels


def geometry_flags(labels: NDArray[np.int16], affine: NDArray[np.float64]) -> dict[str, Flag]:
    table = structure_volumes(labels, abs(np.linalg.det(affine[:3, :3])) / 1000)
    volumes = dict(zip(table["id"], table["volume_ml"], strict=True))
    flags = quality_flags(measure(labels, None, None, labels, volumes, affine))
    return {flag.kind: flag for flag in flags if flag.kind in KINDS}


def test_a_brain_in_its_place_has_no_flag() -> None:
    assert not geometry_flags(brain(), AFFINE)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_storage_order_does_not_matter(axes: tuple[int, ...]) -> None:
    assert not geometry_flags(brain().transpose(axes), AFFINE[:, [*axes, 3]])


@pytest.mark.parametrize("scale, texts", [(1.5, ["ml", "mm from back to front"]), (0.6, ["ml"]), (10, ["ml"])])
def test_a_wrong_voxel_size(scale: float, texts: list[str]) -> None:
    flag = geometry_flags(brain(), np.diag([scale, scale, scale, 1]) @ AFFINE)["size"]
    assert all(text in flag.text for text in texts) and "voxel size" in flag.text
    assert flag.value == pytest.approx((brain() > 0).sum() * 0.008 * scale**3)


def test_the_identity_as_affine() -> None:
    """Voxels of 0.94 x 0.94 x 3 mm that the file gives as 1 mm: a third of the height."""
    flags = geometry_flags(np.repeat(brain()[:, :, ::2], 2, axis=0)[::2], np.eye(4))
    assert "mm from bottom to top" in flags["size"].text


@pytest.mark.parametrize(
    "axis, text",
    [
        (2, "hippocampi not below the centre of the cerebrum, the brain stem"),
        (1, "the caudate nuclei not in front"),
    ],
)
def test_a_mirrored_axis(axis: int, text: str) -> None:
    turned = AFFINE.copy()
    turned[axis] *= -1
    flag = geometry_flags(brain(), turned)["orientation"]
    assert text in flag.text and abs(flag.value) > 10


def test_axes_that_are_exchanged() -> None:
    assert "orientation" in geometry_flags(brain(), AFFINE[[0, 2, 1, 3]])


@pytest.mark.parametrize("axis, name", [(1, "back to front"), (2, "bottom to top"), (0, "left to right")])
def test_a_slab_is_named_with_its_thickness(axis: int, name: str) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += affine[:3, axis] * 30
    flags = geometry_flags(brain().take(range(30, 50), axis), affine)
    assert set(flags) == {"coverage"} and f"38 mm from {name}" in flags["coverage"].text


def test_nothing_is_said_without_a_segmentation() -> None:
    labels = np.zeros((4, 4, 4), np.int16)
    assert not {flag.kind for flag in quality_flags(measure(labels + 1, labels + 1, None, None, {}, AFFINE))} & KINDS


def test_every_position_is_of_known_structures() -> None:
    from midiff_monai.qc.geometry import POSITIONS

    assert {label for position in POSITIONS for label in position.labels} <= {structure.id for structure in STRUCTURES}
