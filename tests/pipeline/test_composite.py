"""The composite bundle, against the command and against the bundles that it runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, run

from midiff_monai import segment
from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.resources import bundle_root, overlay_path
from midiff_monai.errors import BundleError, InputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.pipeline.composite import AnyContrastSegmenter

COMPOSITE, TRANSLATION, SEGMENTATION = (
    "any_contrast_brain_segmentation",
    "t1_lmi_translation",
    "t1_brain_segmentation",
)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a PD phantom with dust in its background, of a T2 one on an oblique grid, and of two unusable scans."""
    folder = tmp_path_factory.mktemp("scans")
    proton = make_phantom("PD").image.slicer[::3, ::3, 30:33]
    voxels = np.asarray(proton.dataobj, dtype=np.float32)
    dust = 1e-4 * voxels.max() * np.random.default_rng(0).random(voxels.shape, dtype=np.float32)
    nib.save(nib.Nifti1Image(np.where(voxels == 0, dust, voxels), proton.affine), folder / "a_PDw.nii.gz")
    turn = np.array([[0.995, -0.0998, 0, 3], [0.0998, 0.995, 0, -7], [0, 0, 1, 11], [0, 0, 0, 1]])
    image = make_phantom("T2").image.slicer[::3, ::3, 28:31]
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), folder / "b_T2w.nii.gz")
    z_scores = np.where(voxels > 0, voxels - np.median(voxels[voxels > 0]), 0)
    nib.save(nib.Nifti1Image(z_scores, proton.affine), folder / "c_zscored.nii.gz")
    (folder / "d_cut.nii.gz").write_bytes((folder / "a_PDw.nii.gz").read_bytes()[:300])
    return folder


def test_a_run_writes_the_labels_of_the_command(scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The bundle stands alone in a folder of its own. Unusable scans make it fail, after the others are done."""
    root = shutil.copytree(bundle_root(COMPOSITE), tmp_path / COMPOSITE)
    flow = ConfigWorkflow(
        str(root / "configs" / "inference.yaml"),
        str(root / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(root),
        dataset_dir=str(scans),
        steps=1,
    )
    flow.initialize()
    with pytest.raises(RuntimeError) as caught:
        flow.run()
    assert isinstance(caught.value.__cause__, InputError)
    assert "cannot be read: c_zscored.nii.gz, d_cut.nii.gz" in str(caught.value.__cause__)
    assert "below 0, but MR magnitudes are never negative" in caplog.text
    good = [scans / "a_PDw.nii.gz", scans / "b_T2w.nii.gz"]
    for result in segment(good, tmp_path / "command", steps=1):
        folders = (root / "eval", tmp_path / "command")
        files = [folder / result.paths.segmentation.name for folder in folders]
        found, expected = (nib.Nifti1Image.from_filename(file) for file in files)
        assert result.segmentation is not None and len(np.unique(result.segmentation)) > 5
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))
        assert found.header == expected.header
    assert len(list((root / "eval").iterdir())) == 2


def open_composite(*overlays: Path, **settings: Any) -> AnyContrastSegmenter:
    parser = ConfigParser()
    parser.read_config([str(bundle_root(COMPOSITE) / "configs" / "inference.yaml"), *map(str, overlays)])
    parser.update(settings)
    return parser.get_parsed_content("network_def")


def test_an_overlay_reaches_the_translation() -> None:
    translation = open_composite(overlay_path("CT")).models.translation
    expected = open_bundle(TRANSLATION, ["CT"]).setting("conform").transforms[-1]
    assert translation is not None
    assert vars(translation.setting("conform").transforms[-1]) == vars(expected)
    parser = ConfigParser()
    parser.read_config([str(bundle_root(COMPOSITE) / "configs" / "inference.yaml"), str(overlay_path("CT"))])
    load, clear, check = parser.get_parsed_content("preprocessing").transforms
    assert clear.absolute and check.modality == "CT"


def test_settings_reach_both_bundles() -> None:
    models = open_composite(steps=5, samples=3, seed=7, fast=True, amp=True).models
    assert models.translation is not None and models.segmentation is not None
    assert [models.translation.setting(name) for name in ("steps", "samples", "seed", "amp")] == [5, 3, 7, True]
    assert models.segmentation.setting("fast") and models.segmentation.setting("amp")


def test_a_sampler_gives_the_labels_of_the_command(scans: Path, tmp_path: Path) -> None:
    """As on the command line of MONAI, where an id is given as `--sampler ddim`."""
    settings: dict[str, Any] = {"steps": 4, "sampler": "ddim", "eta": 1.0, "skip": "quadratic"}
    settings |= {"start": "source", "noise_level": 600, "fast": True}
    folder = tmp_path / "one"
    folder.mkdir()
    scan = Path(shutil.copy(scans / "a_PDw.nii.gz", folder))
    configuration = str(bundle_root(COMPOSITE) / "configs" / "inference.yaml")
    run(config_file=configuration, dataset_dir=str(folder), output_dir=str(tmp_path / "out"), **settings)
    found = nib.Nifti1Image.from_filename(tmp_path / "out" / "a_PDw_dseg.nii.gz")
    (result,) = segment(scan, tmp_path / "command", **settings)
    (other,) = segment(scan, tmp_path / "other", steps=4, fast=True)
    assert result.segmentation is not None and (result.segmentation != other.segmentation).any()
    np.testing.assert_array_equal(np.asarray(found.dataobj), result.segmentation)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "magic"}, "--sampler: is magic"),
        ({"start": "pure"}, "--start: is pure"),
        ({"noise_level": 300}, "--noise-level: has no effect where sampling starts from noise"),
        ({"eta": 2}, "--eta: is 2"),
    ],
)
def test_settings_that_fit_no_sampler_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        open_composite(**settings)
    assert isinstance(caught.value.__cause__, InputError) and message in str(caught.value.__cause__)


def test_weights_of_a_bundle_that_it_runs_are_checked(tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_root(SEGMENTATION), tmp_path / "mine")
    weights = copy / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes() + b"x")
    with pytest.raises(BundleError, match="mine.*SHA-256"):
        AnyContrastSegmenter(TRANSLATION, str(copy))
    with pytest.raises(BundleError, match="does the same"):
        AnyContrastSegmenter(str(copy), SEGMENTATION)
    with pytest.raises(InputError, match="--steps: is 0"):
        AnyContrastSegmenter(TRANSLATION, SEGMENTATION, steps=0)
