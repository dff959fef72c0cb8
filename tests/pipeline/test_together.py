"""Several scans of one person become one result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from midiff_monai import segment, translate
from midiff_monai.errors import InputError
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.inputs import find_jobs
from midiff_monai.pipeline.options import Settings
from midiff_monai.pipeline.people import join
from midiff_monai.pipeline.reading import read_together
from midiff_monai.pipeline.result import Result

THIN = (slice(None, None, 2), slice(None, None, 2), slice(30, 36))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A thin piece of the phantom as PD and T2w, one file each, and both in one file."""
    folder = tmp_path_factory.mktemp("scans")
    images = {contrast: make_phantom(contrast).image.slicer[THIN] for contrast in ("PD", "T2")}
    images["both"] = nib.concat_images(list(images.values()))
    for name, image in images.items():
        nib.save(image, folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in images}


def translated(output: Path, *inputs: Path, together: bool = True) -> Result:
    (result,) = translate(list(inputs), output, together=together, fast=True, steps=2)
    assert result.synthetic is not None
    return result


def test_two_scans_have_one_result_that_names_both(scans: dict[str, Path], tmp_path: Path) -> None:
    (result,) = segment([scans["PD"], scans["T2"]], tmp_path, together=True, fast=True, steps=1)
    expected = "_dseg.nii.gz _dseg.tsv _qc.png _report.json _synthT1w.nii.gz _volumes.csv"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PD" + ending for ending in expected.split()]
    manifest = json.loads(result.paths.report.read_text())
    assert manifest["input"]["files"] == [str(scans["PD"]), str(scans["T2"])]
    (other,) = manifest["together"]
    assert other["path"] == str(scans["T2"]) and not other["registered"]
    assert other["overlap"] > 0.9 and other["sharpness"] > 0.5


def test_neither_the_order_nor_one_file_matters(scans: dict[str, Path], tmp_path: Path) -> None:
    first, second, both = (
        translated(tmp_path / str(number), *inputs).synthetic
        for number, inputs in enumerate(([scans["PD"], scans["T2"]], [scans["T2"], scans["PD"]], [scans["both"]]))
    )
    assert first is not None and second is not None
    np.testing.assert_allclose(second, first, atol=1e-4)
    np.testing.assert_array_equal(both, first)


def test_a_scan_given_twice_counts_once(scans: dict[str, Path], tmp_path: Path) -> None:
    again = Path(shutil.copy(scans["PD"], tmp_path / "again.nii.gz"))
    twice = translated(tmp_path / "twice", scans["PD"], again).synthetic
    once = translated(tmp_path / "once", scans["PD"], together=False).synthetic
    assert twice is not None and once is not None
    # the bins of a joint histogram are not those of a single one
    assert np.abs(twice - once)[once > 0].mean() < 0.01 and np.abs(twice - once).max() < 0.1


def moved_phantom(folder: Path, shift: float) -> list[Path]:
    """A PD of a whole phantom, and a T2w of another grid after a motion by a shift in mm."""
    first, second = (make_phantom(name, spacing=(side,) * 3).image for name, side in (("PD", 3.0), ("T2", 4.0)))
    motion = np.eye(4)
    motion[:3, 3] = shift, 0, 0
    nib.save(first, folder / "PD.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(second.dataobj), motion @ second.affine), folder / "T2.nii.gz")
    return [folder / "PD.nii.gz", folder / "T2.nii.gz"]


def test_a_scan_on_another_grid_is_registered_to_the_first(tmp_path: Path) -> None:
    job = join(find_jobs(moved_phantom(tmp_path, shift=6.0), tmp_path / "out"))
    source, companions = read_together(job, Settings())
    (image,), (facts,) = companions
    assert image.shape == source.shape and np.array_equal(image.affine, source.affine)
    assert facts["registered"] and facts["shift_mm"] == pytest.approx(6, abs=0.5)
    assert facts["rotation_degrees"] < 1


def test_scans_apart_from_each_other_are_refused(tmp_path: Path) -> None:
    paths = moved_phantom(tmp_path, shift=1000.0)
    with pytest.raises(InputError, match=r"T2.nii.gz: does not show the head of .*PD.nii.gz"):
        translate(paths, tmp_path / "out", together=True)
    assert not (tmp_path / "out").exists()


def test_one_scan_and_a_time_series_are_refused(scans: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gives only one scan to translate together"):
        translate(scans["PD"], tmp_path / "out", together=True)
    series = nib.concat_images([nib.load(scans["PD"])] * 9)
    nib.save(series, tmp_path / "series.nii.gz")
    with pytest.raises(InputError, match="holds 9 frames .* as a time series does"):
        translate(tmp_path / "series.nii.gz", tmp_path / "out", together=True)
    with pytest.raises(InputError, match="PD.nii.gz: gives 9 scans to translate together"):
        translate([scans["PD"], *[scans["both"]] * 4], tmp_path / "out", together=True)


def test_scans_together_need_a_translation(scans: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--together: has no effect without translation"):
        segment([scans["PD"], scans["T2"]], tmp_path / "out", together=True, translated=False)
