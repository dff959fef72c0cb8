"""The viewer script, read back with nibabel: grids, ids and sizes must be those of the results."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from midiff_monai.parcels import PARCELS
from midiff_monai.qc.subject import Images
from midiff_monai.qc.viewer import MIN_VOXEL_MM, write_viewer_script


def volumes_of(script: Path) -> dict[str, nib.Nifti1Image]:
    (payload,) = re.fullmatch(r"midiffVolumes\((\{.*\})\);\n", script.read_text()).groups()  # type: ignore[union-attr]
    encoded = json.loads(payload)
    return {role: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text))) for role, text in encoded.items()}


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SLA"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.7, 0.8, 0.9)])
def test_structures_keep_their_position(tmp_path: Path, axcodes: str, spacing: tuple[float, ...]) -> None:
    shape = (60, 64, 50)
    grid = np.indices(shape).T
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-30, -40, 20)
    centre = apply_affine(affine, (25.3, 34.6, 22.2))
    distance = np.linalg.norm(apply_affine(affine, grid) - centre, axis=-1).T
    ball = np.where(distance < 12, 58, 0).astype(np.int16)
    stored = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    images = Images(
        affine @ inv_ornt_aff(stored, shape),
        source=nib.apply_orientation(100 - distance, stored),
        synthetic=None,
        synthetic_std=None,
        segmentation=nib.apply_orientation(ball, stored),
        parcels=nib.apply_orientation(np.where(ball, PARCELS[-1].id, 0).astype(np.uint8), stored),
    )
    write_viewer_script(images, tmp_path / "a.js")

    found = volumes_of(tmp_path / "a.js")
    assert found.keys() == {"source", "segmentation", "parcels"}
    segmentation = found["segmentation"]
    labels = np.asarray(segmentation.dataobj)
    assert labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 58}
    middle = apply_affine(segmentation.affine, np.argwhere(labels == 58)).mean(axis=0)
    np.testing.assert_allclose(middle, centre, atol=0.25)
    sides = voxel_sizes(segmentation.affine)
    assert nib.aff2axcodes(segmentation.affine) == ("R", "A", "S")
    assert (sides >= np.maximum(spacing, MIN_VOXEL_MM) - 1e-3).all()
    assert (sides <= np.maximum(spacing, 1.2 * MIN_VOXEL_MM) + 1e-3).all()
    assert (labels == 58).sum() * sides.prod() == pytest.approx((ball == 58).sum() * np.prod(spacing), rel=0.05)

    parcels = np.asarray(found["parcels"].dataobj)
    np.testing.assert_array_equal(parcels, np.where(labels == 58, PARCELS[-1].id, 0))
    np.testing.assert_array_equal(found["parcels"].affine, segmentation.affine)

    source = np.asarray(found["source"].dataobj)
    peak = apply_affine(found["source"].affine, np.argwhere(source == source.max())).mean(axis=0)
    np.testing.assert_allclose(peak, centre, atol=1)
    assert source.max() == 255


@pytest.mark.parametrize("labelled", [True, False])
def test_layers_hold_the_numbers_of_the_results(labelled: bool, tmp_path: Path) -> None:
    """The grid of 2 mm is kept."""
    random, shape = np.random.default_rng(0), (12, 13, 14)
    highest = {"probability": 1.0, "entropy": 0.4, "synthetic_error": 0.15}
    volumes = {role: random.uniform(0.03, 2 * high, shape) for role, high in highest.items()}
    mask = random.integers(0, 2, shape).astype(np.uint8)
    segmentation = np.zeros(shape, np.int16)
    segmentation[4:8, 4:8, 4:8] = 3
    images = Images(
        np.diag([2.0, 2, 2, 1]),
        source=random.random(shape),
        synthetic=None,
        synthetic_std=None,
        segmentation=segmentation if labelled else None,
        intracranial=mask,
        **volumes,
    )
    write_viewer_script(images, tmp_path / "a.js")

    found = volumes_of(tmp_path / "a.js")
    assert found.keys() == {"source", "intracranial", *volumes} | ({"segmentation"} if labelled else set())
    corner = np.rint(found["source"].affine[:3, 3] / 2).astype(int)
    box = tuple(slice(start, start + size) for start, size in zip(corner, found["source"].shape, strict=True))
    np.testing.assert_array_equal(found["intracranial"].get_fdata(), mask[box])
    for role, high in highest.items():
        expected = np.clip(volumes[role], 0, high)
        if labelled:
            expected[segmentation == 0] = 0
        np.testing.assert_allclose(found[role].get_fdata(), expected[box], atol=0.51 * high / 255)


def test_the_script_of_a_large_volume_is_a_few_megabytes(tmp_path: Path) -> None:
    shape = (190, 220, 190)  # the bounding box of a brain at 0.9 mm; noise compresses worst
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_viewer_script(Images(np.diag([0.9, 0.9, 0.9, 1]), noise, noise, None, None), tmp_path / "a.js")
    assert (tmp_path / "a.js").stat().st_size < 5e6
