"""Settings and fixtures of all tests: few threads, no display, the path to the development data."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from fake_pipeline import FakePipeline

    from midiff_monai.io.inputs import Job

# Torch, ITK and matplotlib read these variables when they are first imported.
os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("MPLBACKEND", "Agg")

# A deadline per example would fail on a busy machine.
# The same examples in every run; `pytest --hypothesis-profile explore` looks for new ones.
hypothesis.settings.register_profile("midiff", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile("midiff")

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real volumes beside the checkout. They may not be redistributed, so it can be missing."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("needs the development data in ../shared/data (see its README.md), which is not distributed")
    return _SHARED_DATA


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., list[Path]]:
    """Writes voxels (X, Y, Z) with an affine to RAS as a series of MR images, with file names in random order.

    Returns the files in the order of the slices. Keywords set attributes of every image.
    """
    import numpy as np
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    def write(folder: Path, voxels: np.ndarray, affine: np.ndarray, **attributes: Any) -> list[Path]:
        lps = np.diag([-1, -1, 1, 1]) @ affine
        sides = np.linalg.norm(lps[:3, :3], axis=0)
        common: dict[str, Any] = {keyword: generate_uid() for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}
        common |= {"FrameOfReferenceUID": generate_uid(), "Modality": "MR", "SOPClassUID": MRImageStorage}
        common |= {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "SeriesNumber": 4, "SeriesDescription": "PD TSE"}
        common |= {"PatientName": "Doe^Jane", "PatientID": "7", "PatientBirthDate": "", "PatientSex": "O"}
        common |= {"StudyDate": "20200101", "StudyTime": "120000", "StudyID": "1", "AccessionNumber": ""}
        common |= {"ReferringPhysicianName": "", "PositionReferenceIndicator": "", "Manufacturer": "none"}
        common |= {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 1}
        common |= {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "SliceThickness": round(sides[2], 6)}
        common |= {
            "PixelSpacing": [round(sides[1], 9), round(sides[0], 9)],
            "Rows": voxels.shape[1],
            "Columns": voxels.shape[0],
        }
        common |= {"ImageOrientationPatient": [round(cosine, 9) for cosine in (lps[:3, :2] / sides[:2]).T.flat]}
        folder.mkdir(parents=True, exist_ok=True)
        names = np.random.default_rng(0).permutation(voxels.shape[2])
        files = [folder / f"IM{name:04d}" for name in names]
        for k, file in enumerate(files):
            image = Dataset()
            image.file_meta = FileMetaDataset()
            image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            for keyword, value in (common | attributes).items():
                setattr(image, keyword, value)
            image.SOPInstanceUID = generate_uid()
            image.InstanceNumber = k + 1
            image.ImagePositionPatient = [round(float(x), 6) for x in lps[:3, 3] + k * lps[:3, 2]]
            image.PixelData = voxels[:, :, k].T.astype("<i2").tobytes()
            image.save_as(file, enforce_file_format=True)
        return files

    return write


@pytest.fixture(scope="session")
def write_multiframe() -> Callable[[list[Path], Path], None]:
    """Converts a series with highdicom to one multi-frame image, whose frames it stores in random order."""
    import highdicom as hd
    import numpy as np
    from pydicom import dcmread
    from pydicom.uid import generate_uid

    def write(files: list[Path], path: Path) -> None:
        images = [dcmread(file) for file in files]
        converted = hd.legacy.LegacyConvertedEnhancedMRImage(images, generate_uid(), 5, generate_uid(), 1)
        order = np.random.default_rng(1).permutation(len(files))
        converted.PixelData = converted.pixel_array[order].tobytes()
        converted.PerFrameFunctionalGroupsSequence = [converted.PerFrameFunctionalGroupsSequence[k] for k in order]
        path.parent.mkdir(parents=True, exist_ok=True)
        converted.save_as(path)

    return write


@pytest.fixture
def pipeline() -> FakePipeline:
    """A stand-in for the models of a batch."""
    from fake_pipeline import FakePipeline  # heavy, and only batches need it

    return FakePipeline()


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Three jobs for it."""
    from fake_pipeline import write_jobs

    return write_jobs(tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """File names can be invalid Unicode, and xdist cannot send a report whose captured messages hold one."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture
def threads() -> Generator[None]:
    """Restores the number of torch's threads."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
