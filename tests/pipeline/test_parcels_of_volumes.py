"""Parcels of a volume: which tasks make them, and that they belong to the segmentation."""

from __future__ import annotations

import numpy as np
import pytest

from midiff_monai import ImageResult, segment_image
from midiff_monai.bundle.choice import PARCELLATION
from midiff_monai.errors import InputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.models import load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.run import written_roles

ROLES = {"parcels", "parcel_table", "parcel_volumes"}


@pytest.fixture(scope="module")
def result() -> ImageResult:
    scan = make_phantom("PD").image.slicer[::2, ::2, 24:60:2]
    return segment_image(scan, translated=False, fast=True, parcellation=True)


def test_the_parcels_divide_cortex_and_white_matter(result: ImageResult) -> None:
    assert result.segmentation is not None and result.parcels is not None
    labels, parcels = (np.asarray(image.dataobj) for image in (result.segmentation, result.parcels))
    np.testing.assert_array_equal(parcels > 0, np.isin(labels, (2, 3, 41, 42)))
    np.testing.assert_array_equal(result.parcels.affine, result.segmentation.affine)
    left_cortex, right_white = parcels[labels == 3], parcels[labels == 41]
    assert (left_cortex >= 100).all() and (left_cortex % 2 == 1).all()
    assert ((right_white > 80) & (right_white < 96) & (right_white % 2 == 1)).all()


def test_their_volumes_are_those_of_the_tissues(result: ImageResult) -> None:
    assert result.volumes is not None and result.parcel_volumes is not None
    volumes = result.volumes.set_index("name")["volume_ml"]
    tissues = [name for name in volumes.index if name.endswith(("Cerebral-Cortex", "Cerebral-White-Matter"))]
    assert len(tissues) == 4
    assert result.parcel_volumes["volume_ml"].sum() == pytest.approx(volumes[tissues].sum())


def test_the_manifest_names_the_bundle(result: ImageResult) -> None:
    assert PARCELLATION in result.manifest["weights"] and result.manifest["settings"]["parcellation"]


def test_they_are_made_where_they_are_wanted() -> None:
    assert not ROLES & set(written_roles(Task()))
    assert set(written_roles(Task(settings=Settings(parcellation=True)))) >= ROLES
    assert load_models(Task(Mode.SEGMENT_DIRECTLY)).parcellation is None


def test_a_translation_has_none() -> None:
    with pytest.raises(InputError, match="--parcellation: has no effect"):
        check_settings(Task(Mode.TRANSLATE, Settings(parcellation=True)))
