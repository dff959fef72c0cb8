"""The page on what is read, what gets a warning and what is refused, made by reading a small file of each kind."""

from __future__ import annotations

import bz2
import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from accepted_dicom import DICOM_CASES, series_reading
from numpy.typing import NDArray

from midiff_monai.errors import InputError
from midiff_monai.io.volumes import check_intensity_range, read_volume, reading_warnings, states_orientation
from midiff_monai.pipeline.computation import SIDES_UNKNOWN

READ, WARNED, REFUSED = "read", "read, with a warning", "refused"

AFFINE = np.array([[-0.94, 0, 0, 60], [0, 0.94, 0, -60], [0, 0, 3, -20], [0, 0, 0, 1]])

INTRODUCTION = """# Accepted inputs

This page is generated. A small file of each kind is written and read, and the table shows what the reader says. In a
message, `FILE` stands for the path. A refused input ends a single run with exit code 2 before anything is computed.
In a batch it is recorded as failed, and the other volumes are processed. Warnings stand in the report, in
`batch_report.csv` and on the page of a study. An excluded series is no failure; `batch_report.csv` gives the reason.

Pictures of single slices are read by bundles that were [made for them](../how-to/slices.md).
"""


class Case(NamedTuple):
    """One kind of input.

    Attributes:
        kind: what it is, in a few words.
        write: writes an example into a folder and returns its path.
        modality: the `--modality` of the run.
    """

    kind: str
    write: Callable[[Path], Path]
    modality: str | None = None


class Reading(NamedTuple):
    """What the reader says about a case: `READ`, `WARNED` or `REFUSED`, and its message."""

    kind: str
    outcome: str
    message: str


def accepted_inputs() -> str:
    """Return the page as Markdown: one table for each group of cases."""
    sections = [INTRODUCTION]
    for title, cases in GROUPS.items():
        rows = [f"| {kind} | {outcome} | {_cell(message)} |" for kind, outcome, message in map(reading, cases)]
        sections.append(_section(title, rows))
    return "\n\n".join([*sections, _section("DICOM series", _dicom_rows())]) + "\n"


def _section(title: str, rows: list[str]) -> str:
    return "\n".join([f"## {title}", "", "| input | outcome | message |", "|---|---|---|", *rows])


def _dicom_rows() -> list[str]:
    rows = []
    for case in DICOM_CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = series_reading(case, Path(folder))
        rows.append(f"| {found.kind} | {found.outcome} | {_cell(found.message)} |")
    return rows


def reading(case: Case) -> Reading:
    """Write the example of a case, read it as a run does, and return what the reader says."""
    with tempfile.TemporaryDirectory() as folder:
        path = case.write(Path(folder))
        try:
            image = read_volume(path)
            check_intensity_range(image, path, case.modality or "MR")
        except InputError as error:
            return Reading(case.kind, REFUSED, _anonymous(str(error), path))
        warnings = reading_warnings(image) + ([] if states_orientation(image) else [SIDES_UNKNOWN])
        return Reading(case.kind, WARNED if warnings else READ, _anonymous(" ".join(warnings), path))


def _anonymous(message: str, path: Path) -> str:
    return message.replace(str(path), "FILE").replace(str(path.parent), "FOLDER")


def _cell(message: str) -> str:
    return message.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


def voxels(*shape: int) -> NDArray[np.float32]:
    """Positive intensities, of which no two are equal."""
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def saved(name: str, data: NDArray, affine: NDArray = AFFINE, **header: object) -> Callable[[Path], Path]:
    """A case's `write`: a NIfTI file with these header fields."""

    def write(folder: Path) -> Path:
        image = nib.Nifti1Image(data, affine)
        for field, value in header.items():
            image.header[field] = value
        if header.keys() & {"sform_code", "qform_code", "quatern_b", "srow_x", "pixdim"}:
            image = nib.Nifti1Image(data, None, image.header)
        nib.save(image, folder / name)
        return folder / name

    return write


def converted(name: str, image_class: type[nib.spatialimages.SpatialImage]) -> Callable[[Path], Path]:
    """A case's `write`: a file of another class of nibabel."""

    def write(folder: Path) -> Path:
        nib.save(image_class(voxels(6, 7, 8), AFFINE), folder / name)
        return folder / name

    return write


def with_itk(name: str) -> Callable[[Path], Path]:
    """A case's `write`: a file that ITK writes."""

    def write(folder: Path) -> Path:
        image = sitk.GetImageFromArray(voxels(6, 7, 8))
        image.SetSpacing([0.94, 0.94, 3])
        sitk.WriteImage(image, str(folder / name))
        return folder / name

    return write


def with_bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    """A case's `write`: a file with this content."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def damaged(change: Callable[[bytes], bytes], name: str = "scan.nii.gz") -> Callable[[Path], Path]:
    """A case's `write`: a valid volume whose bytes are changed."""

    def write(folder: Path) -> Path:
        path = saved("scan.nii.gz", np.random.default_rng(0).random((16, 16, 16), dtype=np.float32))(folder)
        content = change(path.read_bytes())
        path.unlink()
        return with_bytes(name, content)(folder)

    return write


def damaged_metaimage(folder: Path) -> Path:
    """Write a compressed MetaImage, one byte of which is flipped."""
    path = folder / "scan.mha"
    sitk.WriteImage(sitk.GetImageFromArray(voxels(6, 7, 8)), str(path), True)
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(content)
    return path


def edited_metaimage(directions: bytes) -> Callable[[Path], Path]:
    """A case's `write`: a MetaImage with these directions of its axes."""

    def write(folder: Path) -> Path:
        path = with_itk("scan.mha")(folder)
        path.write_bytes(path.read_bytes().replace(b"1 0 0 0 1 0 0 0 1", directions))
        return path

    return write


def without_half(folder: Path) -> Path:
    """Write a pair of a header and voxels, and remove the voxels."""
    path = converted("scan.hdr", nib.Nifti1Pair)(folder)
    path.with_suffix(".img").unlink()
    return path


def with_unknown_code(folder: Path) -> Path:
    """Write an uncompressed NIfTI file whose sform has the code 9, at byte 254."""
    path = saved("scan.nii", voxels(6, 7, 8))(folder)
    content = bytearray(path.read_bytes())
    content[254] = 9
    path.write_bytes(content)
    return path


def link_to(target: str) -> Callable[[Path], Path]:
    """A case's `write`: a link whose target does not exist."""

    def write(folder: Path) -> Path:
        (folder / "scan.nii.gz").symlink_to(target)
        return folder / "scan.nii.gz"

    return write


def _with(changes: dict[int, float]) -> NDArray[np.float32]:
    data = voxels(6, 7, 8)
    for index, value in changes.items():
        data.flat[index] = value
    return data


SHEARED = AFFINE.copy()
SHEARED[0, 1] = 0.5
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ANNEXED = "../.git/annex/objects/aa/bb/MD5E-s9.nii.gz"
RGB = np.zeros((6, 7, 8), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

GROUPS: dict[str, list[Case]] = {
    "Formats": [
        Case("NIfTI-1, compressed or not", saved("scan.nii", voxels(6, 7, 8))),
        Case("NIfTI-2", converted("scan.nii.gz", nib.Nifti2Image)),
        Case("MGZ of FreeSurfer", converted("scan.mgz", nib.MGHImage)),
        Case("NRRD", with_itk("scan.nrrd")),
        Case("MetaImage", with_itk("scan.mha")),
        Case("ANALYZE, which states no orientation", converted("scan.img", nib.AnalyzeImage)),
        Case("four axes, one frame", saved("scan.nii.gz", voxels(6, 7, 8, 1))),
        Case("four axes, several frames", saved("scan.nii.gz", voxels(6, 7, 8, 3))),
        Case("a single slice", saved("scan.nii.gz", voxels(6, 7))),
        Case("colours", saved("scan.nii.gz", RGB)),
        Case("complex numbers", saved("scan.nii.gz", voxels(6, 7, 8).astype(np.complex64))),
    ],
    "Intensities": [
        Case("8-bit or 16-bit integers", saved("scan.nii.gz", (voxels(6, 7, 8) % 251).astype(np.uint8))),
        Case("a few voxels below 0", saved("scan.nii.gz", _with({0: -5.0, 1: -3.0}))),
        Case("a mean of 0 (z-scores)", saved("scan.nii.gz", voxels(6, 7, 8) - 168)),
        Case("CT in Hounsfield units", saved("scan.nii.gz", voxels(6, 7, 8) - 300), "CT"),
        Case("CT with 1024 added", saved("scan.nii.gz", voxels(6, 7, 8) + 1024), "CT"),
        Case("NaN or infinity", saved("scan.nii.gz", _with({5: np.nan}))),
        Case("one intensity everywhere", saved("scan.nii.gz", np.full((6, 7, 8), 3, np.float32))),
        Case("nothing above 0", saved("scan.nii.gz", -voxels(6, 7, 8))),
    ],
    "Geometry": [
        Case("any orientation, oblique axes, any voxel size from 0.1 to 20 mm", saved("scan.nii", voxels(6, 7, 8))),
        Case("lengths in metres", saved("scan.nii", voxels(6, 7, 8), np.diag([1e-3, 1e-3, 3e-3, 1]), xyzt_units=1)),
        Case("the identity as affine", saved("scan.nii.gz", voxels(6, 7, 8), np.eye(4))),
        Case(
            "sform and voxel size disagree",
            saved("scan.nii.gz", voxels(6, 7, 8), np.diag([1.15, 1.1, 1.2, 1]), sform_code=4, pixdim=[1] * 8),
        ),
        Case("a sheared affine", saved("scan.nii.gz", voxels(6, 7, 8), SHEARED, qform_code=0, sform_code=1)),
        Case("a singular affine", saved("scan.nii.gz", voxels(6, 7, 8), qform_code=0, sform_code=1, srow_z=[0] * 4)),
        Case("a sheared MetaImage or NRRD", edited_metaimage(b"0.8 0.6 0 0 1 0 0 0 1")),
        Case("a MetaImage whose axes are no unit vectors", edited_metaimage(b"2 0 0 0 2 0 0 0 2")),
        Case("an unknown code of the sform", with_unknown_code),
        Case("voxels larger than 20 mm", saved("scan.nii.gz", voxels(6, 7, 8), np.diag([1.0, 1, 30, 1]))),
    ],
    "Files": [
        Case("a wrong path", lambda folder: folder / "scan.nii.gz"),
        Case("an empty file", with_bytes("scan.nii.gz", b"")),
        Case("a truncated file", damaged(lambda content: content[:2000])),
        Case("compressed voxels of a MetaImage, damaged", damaged_metaimage),
        Case("a pair of files of which one is missing", without_half),
        Case("compressed twice", damaged(gzip.compress)),
        Case("compressed with bzip2, xz or Zstandard", damaged(lambda content: bz2.compress(gzip.decompress(content)))),
        Case("a suffix in mixed case", damaged(lambda content: content, "scan.Nii.gz")),
        Case("a damaged file", damaged(lambda content: content[:3000] + b"\x00" * 9 + content[3009:])),
        Case("a text file with the name of a volume", with_bytes("scan.nii.gz", b"no image at all")),
        Case("another file with the name of a volume", with_bytes("scan.nii", bytes(9))),
        Case("named .gz but not compressed", damaged(gzip.decompress)),
        Case("compressed but not named .gz", damaged(lambda content: content, "scan.nii")),
        Case("a placeholder of git-annex (DataLad)", link_to(ANNEXED)),
        Case("a pointer of Git LFS", with_bytes("scan.nii.gz", LFS_POINTER)),
        Case("a saved web page", with_bytes("scan.nii.gz", b"<!DOCTYPE html><html></html>")),
        Case("a link without a target", link_to("elsewhere.nii.gz")),
    ],
}
