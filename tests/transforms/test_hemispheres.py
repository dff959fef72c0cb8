"""The map of a brain to template space, and parcels from logits there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ball_brain import ball_brain, other_side
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from midiff_monai.parcels import CORTEX_REGIONS, REGIONS, WHITE_MATTER_REGIONS
from midiff_monai.transforms.hemispheres import (
    HEMISPHERE_SHAPE,
    SIDES,
    assign_parcels,
    grid_affine,
    template_to_world,
    tissue_fractions,
    tissues_of_hemispheres,
)


def rigid(degrees: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = shift
    return motion


@pytest.mark.parametrize("scale", [1.0, 1.2])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (30, 0, 0), (-20, 10, 170)])
def test_the_map_follows_the_brain(degrees: tuple[float, float, float], scale: float) -> None:
    labels, affine = ball_brain()
    motion = rigid(degrees, (10, -40, 25)) @ np.diag([scale, scale, scale, 1])
    moved = template_to_world(labels, motion @ affine)
    np.testing.assert_allclose(moved, motion @ template_to_world(labels, affine), atol=1e-6)


def test_a_brain_at_the_places_of_the_template_stays_there() -> None:
    labels, affine = ball_brain(2.0)
    mapping = template_to_world(labels, affine)
    angle = Rotation.from_matrix(mapping[:3, :3] / np.linalg.norm(mapping[:3, :3], axis=0)).magnitude()
    assert np.degrees(angle) < 2
    assert np.linalg.norm(mapping[:3, 3]) < 2
    mirror = np.diag([-1.0, 1, 1, 1])
    np.testing.assert_allclose(mirror @ mapping @ mirror, mapping, atol=1e-6)


def test_missing_structures_do_not_move_the_brain_far() -> None:
    """A skull-stripped cerebrum has no cerebellum and no brain stem."""
    labels, affine = ball_brain()
    cerebrum = np.where(np.isin(labels, (7, 8, 46, 47, 15, 16)), 0, labels)
    whole, part = (template_to_world(volume, affine) for volume in (labels, cerebrum))
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-80, 80) for z in (-50, 50)])
    assert np.linalg.norm(((whole - part) @ corners.T)[:3], axis=0).max() < 4


def test_fractions_are_those_of_the_labels() -> None:
    labels, affine = ball_brain(2.0)
    fractions = tissue_fractions(labels, affine, np.eye(4), "right")
    assert fractions.shape == (9, *HEMISPHERE_SHAPE)
    assert float(fractions.min()) == 0 and float(fractions.max()) == 1
    # A voxel of the grid is 8 mm³. Of the own side, the grid shows all.
    for channel, ids in enumerate([[42], [41], [43, 44], [50, 58], [51, 52], [49, 60], [53], [54]]):
        assert float(fractions[channel].sum()) == pytest.approx(np.isin(labels, ids).sum(), rel=0.01)


def test_both_sides_of_a_symmetric_brain_look_alike() -> None:
    labels, affine = ball_brain(2.0)
    left, right = tissues_of_hemispheres(labels, affine, np.eye(4))
    torch.testing.assert_close(left, right)


def test_ids_that_are_no_structures_have_no_channel() -> None:
    labels, affine = ball_brain()
    strange = np.where(labels == 0, 2035, labels)
    torch.testing.assert_close(
        tissue_fractions(strange, affine, np.eye(4), "left"), tissue_fractions(labels, affine, np.eye(4), "left")
    )


def test_parcels_are_the_most_probable_regions_of_tissue_and_side() -> None:
    """A slow oracle interpolates one voxel at a time."""
    labels, affine = ball_brain(8.0)
    mapping = rigid((10, 5, -5), (3, 2, 1))
    generator = torch.Generator().manual_seed(0)
    coarse = [size // 2 for size in HEMISPHERE_SHAPE]
    logits = torch.randn(2, len(REGIONS), *coarse, generator=generator)
    parcels = assign_parcels(labels, affine, mapping, logits)
    assert ((parcels > 0) == np.isin(labels, (2, 3, 41, 42))).all()
    for voxel in np.argwhere(parcels)[::37]:
        label = int(labels[tuple(voxel)])
        side = SIDES[int(label > 40)]
        template = np.linalg.inv(mapping) @ affine @ [*voxel, 1]
        fine = (np.linalg.inv(grid_affine(side)) @ template)[:3]
        of_side = logits[SIDES.index(side)].double().numpy()
        regions, part = (
            (CORTEX_REGIONS, of_side[: len(CORTEX_REGIONS)])
            if label in (3, 42)
            else (WHITE_MATTER_REGIONS, of_side[len(CORTEX_REGIONS) :])
        )
        position = (fine - 0.5) / 2  # a voxel of the coarse grid covers two of the fine one along each axis
        values = [map_coordinates(channel, position[:, None], order=1, mode="nearest")[0] for channel in part]
        assert parcels[tuple(voxel)] == getattr(regions[int(np.argmax(values))], side)


def test_a_mirrored_brain_has_mirrored_parcels() -> None:
    labels, affine = ball_brain(4.0)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, len(REGIONS), 10, 24, 16, generator=generator)
    parcels = assign_parcels(labels, affine, np.eye(4), logits)
    mirrored = assign_parcels(other_side(labels[::-1]), affine, np.eye(4), logits.flip(0))[::-1]
    other = {region.left: region.right for region in REGIONS} | {region.right: region.left for region in REGIONS}
    np.testing.assert_array_equal(np.vectorize(lambda label: other.get(label, 0))(mirrored), parcels)
