"""Converted parcellations, compared with a slow search and with a real one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from register import move_labels
from scipy.spatial import cKDTree

from midiff_monai.evaluation.parcellations import NOT_SCORED, freesurfer_from_aparc, freesurfer_from_gif
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import FREESURFER_IDS, STRUCTURES

NAME_OF = {structure.id: structure.name for structure in STRUCTURES}


def test_areas_of_the_cortex_and_inclusions_become_their_structure() -> None:
    parcellation = np.array([1000, 1035, 2001, 2035, 31, 63, 72, 85, 30, 62, 78, 79, 80, 17, 60])[:, None, None]
    expected = [3, 3, 42, 42, 4, 43, 14, 24, 2, 41, 2, 41, 0, 17, 60]
    assert freesurfer_from_aparc(parcellation).ravel().tolist() == expected


def test_white_matter_of_no_side_gets_the_nearest_side() -> None:
    line = np.array([41, 251, 255, 77, 77, 77, 2])[:, None, None]
    found = freesurfer_from_aparc(line).ravel()
    assert found[:3].tolist() == [41, 41, 41] and found[4:].tolist() == [2, 2, 2]


@pytest.fixture(scope="module")
def bert(shared_data: Path) -> nib.MGHImage:
    return nib.MGHImage.from_filename(shared_data / "freesurfer-1mm" / "bert_aparc+aseg.mgz")


def test_every_side_of_a_real_parcellation_is_where_it_should_be(bert: nib.MGHImage) -> None:
    """World x increases towards the right of the patient."""
    segmentation = freesurfer_from_aparc(np.asarray(bert.dataobj))
    assert set(np.unique(segmentation)) == set(FREESURFER_IDS)
    ids = {name: label for label, name in NAME_OF.items()}
    for name in (name for name in ids if name.startswith("Left-")):
        left, right = (np.argwhere(segmentation == ids[name.replace("Left-", side)]) for side in ("Left-", "Right-"))
        assert apply_affine(bert.affine, left)[:, 0].mean() < apply_affine(bert.affine, right)[:, 0].mean()


def test_the_corpus_callosum_is_divided_as_a_search_of_the_nearest_voxel_does(bert: nib.MGHImage) -> None:
    parcellation = np.asarray(bert.dataobj)
    segmentation = freesurfer_from_aparc(parcellation)
    callosum = np.argwhere((parcellation >= 251) & (parcellation <= 255))[::50]
    others = segmentation * ~np.isin(parcellation, (77, *range(251, 256)))
    distances = [
        cKDTree(np.argwhere(np.isin(others, [label for label in NAME_OF if NAME_OF[label].startswith(side)]))).query(
            callosum
        )[0]
        for side in ("Left-", "Right-")
    ]
    decided = distances[0] != distances[1]
    expected = np.where(distances[0] < distances[1], 2, 41)
    np.testing.assert_array_equal(segmentation[tuple(callosum.T)][decided], expected[decided])


def test_voxels_of_uncertain_structures_are_not_scored() -> None:
    values = np.array([0, 4, 101, 102, 52, 49, 66, 97, 72, 41, 87])[:, None, None]
    expected = [0, 0, 42, 3, 43, 17, NOT_SCORED, NOT_SCORED, 47, 46, 41]
    assert freesurfer_from_gif(values).ravel().tolist() == expected


def test_structures_of_gif_have_the_sides_and_the_darkness_of_the_flair(shared_data: Path) -> None:
    """Fluid is dark and grey matter bright in a FLAIR. World x increases towards the right of the patient."""
    stored = nib.Nifti1Image.from_filename(shared_data / "odd" / "thick5.5mm_labels_gif.nii.gz")
    labels = nib.Nifti1Image(freesurfer_from_gif(np.asarray(stored.dataobj)), stored.affine)
    flair = read_volume(shared_data / "odd" / "thick5.5mm_FLAIR.nii.gz")
    moved, image = move_labels(labels, flair), np.asarray(flair.dataobj)
    assert set(np.unique(moved)) == {*FREESURFER_IDS, NOT_SCORED} - {24}
    ventricle, white, cortex = (np.median(image[np.isin(moved, ids)]) for ids in ((4, 43), (2, 41), (3, 42)))
    assert ventricle < 0.6 * white and white < cortex
    ids = {name: label for label, name in NAME_OF.items()}
    for name in (name for name in ids if name.startswith("Left-")):
        left, right = (np.argwhere(moved == ids[name.replace("Left-", side)]) for side in ("Left-", "Right-"))
        assert apply_affine(flair.affine, left)[:, 0].mean() < apply_affine(flair.affine, right)[:, 0].mean()
