"""Results of `midiff batch` as the tissues of a target of one's own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ball_brain import ball_brain
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from small_targets import workflow

from midiff_monai.bundle import LoadSegmentationd
from midiff_monai.bundle.own import make_bundle
from midiff_monai.bundle.segmented import training_items
from midiff_monai.bundle.target_plan import TargetPlan
from midiff_monai.errors import InputError
from midiff_monai.io.outputs import named_outputs
from midiff_monai.labels import LESIONS
from midiff_monai.training.regions import Region

LEVELS = {0: 0.0, 2: 0.6, 3: 0.55, 4: 0.2, 5: 0.2, 14: 0.2, 15: 0.2, 24: 0.2, 41: 0.6, 42: 0.55, 43: 0.2, 44: 0.2}
"""Label → intensity of the synthetic T1w. All others have 0.58."""


def write_brains(folder: Path, count: int = 3) -> tuple[Path, Path]:
    """Write FLAIR of balls, and what `midiff batch` writes of them."""
    labels, affine = ball_brain()
    random = np.random.default_rng(0)
    t1w = np.vectorize(lambda label: LEVELS.get(label, 0.58))(labels) * random.normal(1, 0.01, labels.shape)
    flair = np.where(labels > 0, 300 * random.normal(1, 0.1, labels.shape) - 400 * t1w * (t1w < 0.3), 0)
    lesions = np.zeros(labels.shape, np.uint8)
    lesions[tuple(slice(size // 2 + 5, size // 2 + 8) for size in labels.shape)] = 1
    data, results = folder / "data", folder / "results"
    data.mkdir(parents=True)
    results.mkdir()
    for number in range(count):
        paths = named_outputs(f"{number}_FLAIR", results)
        volumes = {data / f"{number}_FLAIR.nii.gz": flair + 500.0 * lesions, paths.synthetic: t1w}
        for path, volume in (volumes | {paths.segmentation: labels, paths.lesions: lesions}).items():
            kind = np.float32 if np.issubdtype(volume.dtype, np.floating) else volume.dtype
            nib.save(nib.Nifti1Image(volume.astype(kind), affine), path)
    return data, results


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_brains(tmp_path_factory.mktemp("brains"))


def voxels(path: Path) -> NDArray[np.integer]:
    return np.asarray(nib.Nifti1Image.from_filename(path).dataobj)


def test_each_volume_gets_its_results_whatever_the_subfolder(tmp_path: Path) -> None:
    data, results = write_brains(tmp_path, count=2)
    (results / "site-2").mkdir()
    for file in results.glob("1_*"):
        file.rename(results / "site-2" / file.name)
    volumes = sorted(map(str, data.iterdir()))
    first, second = training_items(volumes, str(results))
    assert [first["image"], second["image"]] == volumes
    assert Path(first["t1w"]) == results / "0_FLAIR_synthT1w.nii.gz"
    assert Path(second["label"]) == results / "site-2" / "1_FLAIR_dseg.nii.gz"


def test_results_that_are_missing_or_ambiguous_are_named(tmp_path: Path) -> None:
    data, results = write_brains(tmp_path, count=2)
    volumes = sorted(map(str, data.iterdir()))
    (results / "0_FLAIR_synthT1w.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no synthetic T1w of 0_FLAIR\.nii\.gz.*midiff batch"):
        training_items(volumes, str(results))
    (results / "0_FLAIR_dseg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"no segmentation of 0_FLAIR\.nii\.gz"):
        training_items(volumes, str(results))
    (results / "again").mkdir()
    (results / "again" / "1_FLAIR_dseg.nii.gz").touch()
    with pytest.raises(InputError, match="several segmentations of 1_FLAIR"):
        training_items(volumes[1:], str(results))
    with pytest.raises(InputError, match="nowhere.*no folder"):
        training_items(volumes, str(tmp_path / "nowhere"))


def test_lesions_beside_a_label_map_become_a_label(brains: tuple[Path, Path]) -> None:
    paths = named_outputs("0_FLAIR", brains[1])
    loaded = LoadSegmentationd("label")({"label": str(paths.segmentation)})["label"][0].numpy()
    stored, lesions = map(voxels, (paths.segmentation, paths.lesions))
    np.testing.assert_array_equal(loaded, np.where(lesions > 0, LESIONS.id, stored))


def test_a_brain_without_lesions_keeps_its_labels(tmp_path: Path) -> None:
    paths = named_outputs("0_FLAIR", write_brains(tmp_path, count=1)[1])
    stored, none = voxels(paths.segmentation), nib.Nifti1Image.from_filename(paths.lesions)
    nib.save(nib.Nifti1Image(np.zeros(none.shape, np.uint8), none.affine), paths.lesions)
    loaded = LoadSegmentationd("label")({"label": str(paths.segmentation)})["label"][0].numpy()
    np.testing.assert_array_equal(loaded, stored)
    paths.lesions.rename(paths.lesions.with_suffix(".away"))
    np.testing.assert_array_equal(LoadSegmentationd("label")({"label": str(paths.segmentation)})["label"][0], stored)
    paths.lesions.with_suffix(".away").rename(paths.lesions)


@pytest.mark.parametrize("slices", ["axial", "sagittal"])
def test_sources_are_made_from_the_t1w_and_targets_from_the_volume(
    slices: str, brains: tuple[Path, Path], tmp_path: Path
) -> None:
    data, results = brains
    plan = TargetPlan("FLAIR", spacing=[4.0], slices=slices, segmented=results)
    make_bundle(tmp_path / "flair", str(data), plan)
    readme = (tmp_path / "flair" / "docs" / "README.md").read_text()
    assert "results_dir" in readme and "tissue_classes" not in readme
    parser = workflow(tmp_path / "flair", "train", volumes_per_batch=2, slices_per_volume=2).parser
    assert isinstance(parser, ConfigParser)
    batch = next(iter(parser.get_parsed_content("train#dataloader")))
    regions = set(batch["regions"].unique().tolist())
    assert {Region.OUTSIDE, Region.BRAIN} <= regions
    prepare = parser.get_parsed_content("train#prepare_batch")
    images, target, _, options = prepare(batch, "cpu")
    source = options["source"][:, 1:2]
    assert images.shape == source.shape and target is images
    inside = images > -1
    assert bool((source[~inside] == 0).all()) and bool((source[inside] > 0).all())
    sample = parser.get_parsed_content("validate#dataset")[0]
    assert set(sample) >= {"image", "label"} and sample["image"].shape == sample["label"].shape
    correlation = np.corrcoef(sample["image"][sample["label"] > 0], sample["label"][sample["label"] > 0])[0, 1]
    assert abs(correlation) < 0.99


def test_tissues_of_brains_are_not_for_other_anatomy_or_slices(brains: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="--segmented: holds tissues of brains"):
        TargetPlan("CT", anatomy="any", segmented=brains[1])
    with pytest.raises(InputError, match="--segmented: needs volumes"):
        TargetPlan("T2w", segmented=brains[1]).completed(of_slices=True)
