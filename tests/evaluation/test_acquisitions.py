"""The changed acquisitions, compared with analytic answers."""

from __future__ import annotations

from math import cos, radians, sin
from pathlib import Path

import acquisitions
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from midiff_monai.io.volumes import read_volume

CENTRE = np.array([12.0, -7.0, 30.0])


def ball(radius: float = 30.0) -> sitk.Image:
    """A ball around `CENTRE` (LPS, mm). The intensity increases by 1 per mm to the left, 2 backwards and 3 upwards."""
    spacing, size = np.array([1.5, 2.0, 2.5]), np.array([45, 35, 29])
    origin = CENTRE - spacing * (size - 1) / 2
    away = [origin[axis] + spacing[axis] * np.arange(size[axis]) - CENTRE[axis] for axis in range(3)]
    z, y, x = np.meshgrid(*away[::-1], indexing="ij")
    image = sitk.GetImageFromArray(
        np.where(x**2 + y**2 + z**2 < radius**2, 500 + x + 2 * y + 3 * z, 0).astype(np.float32)
    )
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(origin.tolist())
    return image


@pytest.mark.parametrize("grid", acquisitions.GRIDS, ids=lambda grid: grid.change)
def test_a_rotated_head_on_another_grid_has_the_intensities_of_the_original_positions(grid: acquisitions.Grid) -> None:
    regridded = acquisitions.regrid(ball(), grid)
    assert regridded.GetSpacing() == pytest.approx(grid.spacing)
    values = sitk.GetArrayFromImage(regridded)
    places = np.argwhere(values != 0)[:, ::-1]
    here = np.array([regridded.TransformIndexToPhysicalPoint(place.tolist()) for place in places]) - CENTRE
    nod, tilt = radians(grid.nodded), radians(grid.tilted)
    about_x = np.array([[1, 0, 0], [0, cos(nod), -sin(nod)], [0, sin(nod), cos(nod)]])
    about_y = np.array([[cos(tilt), 0, sin(tilt)], [0, 1, 0], [-sin(tilt), 0, cos(tilt)]])
    original = here @ (about_x @ about_y).T
    deep = np.linalg.norm(here, axis=1) < 22  # voxels at the surface are means over a part of themselves
    expected = 500 + original @ (1, 2, 3)
    np.testing.assert_allclose(values[tuple(places[deep].T[::-1])], expected[deep], atol=0.1)
    volume = len(places) * np.prod(grid.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.03)
    assert values[values != 0].min() > 500 - 30 * np.sqrt(14)


def test_changed_intensities_are_within_the_brain(tmp_path: Path) -> None:
    voxels = np.zeros((30, 30, 12))
    voxels[4:26, 5:28, 2:10] = np.random.default_rng(0).uniform(50, 200, (22, 23, 8))
    for contrast in ("PD", "T1"):
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 3, 1])), tmp_path / f"a_{contrast}.nii.gz")
    (tmp_path / "out").mkdir()
    acquisitions.change_intensities(str(tmp_path / "a"), tmp_path / "out")
    for change in acquisitions.INTENSITIES:
        changed, t1 = (
            np.asarray(read_volume(tmp_path / "out" / f"{change}_{name}.nii.gz").dataobj) for name in ("PD", "T1")
        )
        np.testing.assert_array_equal(changed != 0, voxels != 0)
        assert not np.allclose(changed, voxels)
        np.testing.assert_allclose(t1, voxels, rtol=1e-6)


def test_only_the_unchanged_scans_equal_those_of_the_table() -> None:
    names = [(scan.change, scan.contrast) for scan in acquisitions.SCANS]
    assert len(set(names)) == len(names)
    unchanged = {scan.contrast: scan for scan in acquisitions.SCANS if scan.change == acquisitions.AS_IT_IS}
    for scan in acquisitions.SCANS:
        same = unchanged[scan.contrast]._replace(change=scan.change)
        assert (scan == same) == (scan.change == acquisitions.AS_IT_IS)


def test_the_table_has_one_line_per_change_and_one_column_per_contrast() -> None:
    row = {"dataset": "d", "subject": "s", "contrast": "T2", "white matter dice": 0.9126, "grey matter dice": 0.5}
    rows = pd.DataFrame(
        [row | {"lateral ventricles dice": 1.0}, row | {"contrast": "PD", "lateral ventricles dice": 0.0}]
    )
    lines = acquisitions.markdown(rows).splitlines()
    assert lines[0] == "| data | change | PD | T2 |"
    assert lines[2] == "| d | s | .913/.500/.000 | .913/.500/1.000 |"
