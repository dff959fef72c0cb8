"""The mosaic, read back as pixels: anatomical sides, proportions and intensities must be correct."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import axcodes2ornt, inv_ornt_aff
from numpy.typing import NDArray

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.qc.mosaic import montage, qc_mosaic

RED, BLUE = 1, 2
COLOURS = {RED: "#ff0000", BLUE: "#0000ff"}
AXIAL, CORONAL, SAGITTAL = 0, 2, 4  # first column of each plane


def cube(axis: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return a RAS source; a segmented cube, red in the lower half of `axis` and blue in the upper half; an affine."""
    source = np.random.default_rng(0).uniform(50, 100, size=(40, 40, 40))
    segmentation = np.zeros(source.shape, dtype=np.int64)
    segmentation[5:35, 5:35, 5:35] = RED
    upper = np.moveaxis(segmentation, axis, 0)[20:35]
    upper[upper > 0] = BLUE
    return source, segmentation, np.diag([4.0, 4.0, 4.0, 1.0])


def coloured(path: Path, column: int) -> tuple[NDArray, NDArray]:
    """Return the red and the blue pixels (row, column) in one of six equal columns."""
    pixels = imread(path)[..., :3]
    width = pixels.shape[1] / 6
    panel = pixels[:, round(column * width) : round((column + 1) * width)]
    redness = panel[..., 0] - panel[..., 2]
    return np.argwhere(redness > 0.25), np.argwhere(redness < -0.25)


@pytest.mark.parametrize(
    ("axis", "column", "direction"),
    [
        (0, AXIAL, (0, 1)),  # the patient's left, the lower half of X, is on the right
        (0, CORONAL, (0, 1)),
        (1, AXIAL, (1, 0)),  # posterior is at the bottom
        (1, SAGITTAL, (0, 1)),  # posterior is on the right
        (2, CORONAL, (1, 0)),  # inferior is at the bottom
        (2, SAGITTAL, (1, 0)),
    ],
)
def test_anatomical_sides(tmp_path: Path, axis: int, column: int, direction: tuple[int, int]) -> None:
    source, segmentation, affine = cube(axis)
    qc_mosaic(source, None, segmentation, affine, tmp_path / "qc.png", "sides", COLOURS)
    red, blue = coloured(tmp_path / "qc.png", column)
    offset = red.mean(axis=0) - blue.mean(axis=0)
    along = np.array(direction, dtype=bool)
    assert offset[along] > 50
    assert abs(offset[~along]) < 3


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "PIR", "SLA", "IAL"])
def test_orientation_of_the_file_does_not_change_the_picture(tmp_path: Path, axcodes: str) -> None:
    source, segmentation, affine = cube(0)
    qc_mosaic(source, source**2, segmentation, affine, tmp_path / "ras.png", "order", COLOURS)
    orientation = nib.orientations.ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    flipped, squared, structures = (
        nib.apply_orientation(volume, orientation) for volume in (source, source**2, segmentation)
    )
    stored_affine = affine @ inv_ornt_aff(orientation, source.shape)
    qc_mosaic(flipped, squared, structures, stored_affine, tmp_path / "stored.png", "order", COLOURS)
    assert np.array_equal(imread(tmp_path / "ras.png"), imread(tmp_path / "stored.png"))


def test_a_ball_stays_round_with_thick_slices(tmp_path: Path) -> None:
    x, y, z = np.meshgrid(*(np.arange(-60, 60, step) for step in (1.5, 1.5, 5.0)), indexing="ij")
    ball = (x**2 + y**2 + z**2 < 50**2).astype(np.uint8) * RED
    source = np.hypot(x, y)
    qc_mosaic(source, None, ball, np.diag([1.5, 1.5, 5.0, 1.0]), tmp_path / "qc.png", "ball", COLOURS)
    for column in (AXIAL, CORONAL, SAGITTAL):
        red, _ = coloured(tmp_path / "qc.png", column)
        height, width = np.ptp(red, axis=0) + 1
        assert width / height == pytest.approx(1, abs=0.08)  # one voxel is a twentieth of the ball


def test_the_window_ignores_voxels_outside_the_brain(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    outlier = source.copy()
    outlier[0, 0, 0] = 1e6
    for name, volume in (("clean", source), ("outlier", outlier)):
        qc_mosaic(volume, None, segmentation, affine, tmp_path / f"{name}.png", "window", COLOURS)
    assert np.array_equal(imread(tmp_path / "clean.png"), imread(tmp_path / "outlier.png"))


def test_a_synthetic_volume_adds_a_row(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    qc_mosaic(source, None, segmentation, affine, tmp_path / "two.png", "rows", COLOURS)
    qc_mosaic(source, source, segmentation, affine, tmp_path / "three.png", "rows", COLOURS)
    two, three = (imread(tmp_path / name).shape for name in ("two.png", "three.png"))
    assert three[0] > 1.3 * two[0] and three[1] == two[1]


def test_without_a_segmentation_there_is_no_row_of_structures(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    qc_mosaic(source, source, None, affine, tmp_path / "none.png", "rows", COLOURS)
    qc_mosaic(source, source, np.zeros_like(segmentation), affine, tmp_path / "empty.png", "rows", COLOURS)
    none, empty = (imread(tmp_path / name).shape for name in ("none.png", "empty.png"))
    assert empty[0] > 1.3 * none[0] and empty[1] == none[1]


def test_an_empty_segmentation_still_shows_the_input(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    qc_mosaic(source, None, np.zeros_like(segmentation), affine, tmp_path / "qc.png", "empty", COLOURS)
    red, blue = coloured(tmp_path / "qc.png", AXIAL)
    assert len(red) == len(blue) == 0
    assert (imread(tmp_path / "qc.png")[..., 0] > 0.5).mean() > 0.2


def test_a_title_is_not_typeset_as_a_formula(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    qc_mosaic(source, None, segmentation, affine, tmp_path / "qc.png", "scan$1_$2_x", COLOURS)
    assert (tmp_path / "qc.png").exists()


def test_a_structure_without_colour_is_an_error(tmp_path: Path) -> None:
    source, segmentation, affine = cube(0)
    with pytest.raises(KeyError, match="2"):
        qc_mosaic(source, None, segmentation, affine, tmp_path / "qc.png", "colour", {RED: "#ff0000"})


def test_the_mosaic_of_a_clinical_volume_is_smaller_than_a_megabyte(tmp_path: Path) -> None:
    source, target = make_phantom("PD"), make_phantom("T1")
    colours = {1: "#3c6cd8", 2: "#cd3e4e", 3: "#f5f5f5"}
    image, t1, tissues = (voxels.get_fdata() for voxels in (source.image, target.image, source.tissues))
    qc_mosaic(image, t1, tissues, source.image.affine, tmp_path / "qc.png", "phantom", colours)
    assert (tmp_path / "qc.png").stat().st_size < 1_000_000


def montage_of(segmentation: NDArray, source: NDArray, affine: NDArray) -> tuple[NDArray, NDArray]:
    """Return the grey levels and the ids of a montage of one volume."""
    intensity_images, overlay = montage({"source": source}, segmentation, affine, COLOURS)
    assert intensity_images["source"].size == overlay.size
    return np.asarray(intensity_images["source"]), np.asarray(overlay)


@pytest.mark.parametrize(
    ("axis", "column", "direction"),
    [(0, 0, (0, 1)), (0, 1, (0, 1)), (1, 0, (1, 0)), (1, 2, (0, 1)), (2, 1, (1, 0)), (2, 2, (1, 0))],
)
def test_montage_shows_the_anatomical_sides(axis: int, column: int, direction: tuple[int, int]) -> None:
    source, segmentation, affine = cube(axis)
    _, ids = montage_of(segmentation, source, affine)
    rows, columns = np.array(ids.shape) // (2, 3)
    cell = ids[:rows, column * columns : (column + 1) * columns]
    offset = np.argwhere(cell == RED).mean(axis=0) - np.argwhere(cell == BLUE).mean(axis=0)
    along = np.array(direction, dtype=bool)
    assert offset[along] > 50
    assert abs(offset[~along]) < 1


def test_montage_has_pixels_of_one_millimetre_with_thick_slices() -> None:
    x, y, z = np.meshgrid(*(np.arange(-60, 60, step) for step in (1.5, 1.5, 5.0)), indexing="ij")
    ball = (x**2 + y**2 + z**2 < 50**2).astype(np.uint8) * RED
    _, ids = montage_of(ball, np.hypot(x, y), np.diag([1.5, 1.5, 5.0, 1.0]))
    rows, columns = np.array(ids.shape) // (2, 3)
    for column in range(3):
        disc = np.argwhere(ids[:rows, column * columns : (column + 1) * columns])
        np.testing.assert_allclose(np.ptp(disc, axis=0), 2 * np.sqrt(50**2 - 13**2), atol=8)


def test_montage_overlays_structures_at_their_position_in_the_source() -> None:
    """The source equals the ids, so blue pixels are bright, except at interpolated borders and letters."""
    _, segmentation, affine = cube(0)
    grey, ids = montage_of(segmentation, segmentation.astype(np.float32), affine)
    assert ((grey > 127) != (ids == BLUE)).mean() < 0.03
