from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImaged

from midiff_monai.bundle.saving import SaveWithSourceHeaderd
from midiff_monai.errors import InputError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A left-handed volume with units, and with the code of a template space in the sform only."""
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.diag([-2.0, 2, 3, 1]))
    image.set_sform(image.affine, code=4)
    image.set_qform(image.affine, code=0)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "sub-1_PDw.nii.gz")
    return tmp_path / "sub-1_PDw.nii.gz"


def test_each_channel_is_written_in_the_space_of_its_source(source: Path, tmp_path: Path) -> None:
    data = LoadImaged("pred", ensure_channel_first=True)({"pred": str(source)})
    data["pred"] = torch.cat([data["pred"], data["pred"] / 7])
    save = SaveWithSourceHeaderd("pred", tmp_path / "new" / "out", ["synthetic", "synthetic_std"])
    save(data)
    expected = nib.Nifti1Image.from_filename(source)
    for name, factor in (("synthT1w", 1), ("synthT1w_std", 7)):
        written = nib.Nifti1Image.from_filename(tmp_path / "new" / "out" / f"sub-1_PDw_{name}.nii.gz")
        np.testing.assert_allclose(written.get_fdata(), expected.get_fdata() / factor, rtol=1e-6)
        np.testing.assert_array_equal(written.affine, expected.affine)
        for field in ("sform_code", "qform_code", "xyzt_units"):
            assert written.header[field] == expected.header[field], field


def test_labels_stay_integers_and_missing_channels_have_no_file(source: Path, tmp_path: Path) -> None:
    data = LoadImaged("pred", ensure_channel_first=True)({"pred": str(source)})
    data["pred"] = data["pred"].to(torch.int16)
    SaveWithSourceHeaderd("pred", tmp_path / "out", ["segmentation", "synthetic_std"])(data)
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "sub-1_PDw_dseg.nii.gz"
    assert nib.Nifti1Image.from_filename(file).get_data_dtype() == np.int16


def test_volumes_with_the_same_name_do_not_overwrite_each_other(source: Path, tmp_path: Path) -> None:
    twin = source.with_name("sub-1_PDw.nii")
    nib.save(nib.Nifti1Image.from_filename(source), twin)
    save = SaveWithSourceHeaderd("pred", tmp_path / "out", ["segmentation"])
    load = LoadImaged("pred", ensure_channel_first=True)
    save(load({"pred": str(source)}))
    save(load({"pred": str(source)}))
    with pytest.raises(InputError, match="would write the same files as"):
        save(load({"pred": str(twin)}))
