"""Write the volumes that targets of one's own are trained and measured on.

    python evaluation/target_volumes.py --data ../shared/data --out target_data

`OUT/train/TARGET` holds the volumes of a target that train, and `OUT/test` all scans of the people that do not, on the
grid of their FLAIR, with masks of lesions. All are brains without skull, so that a prior sees in training what it
translates. `OUT/test-heads` holds the whole heads of those of `heads-flair`, with masks of the brain. PROTOCOL.md says
who is held out, and why.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from register import as_itk
from yardstick_heads import MovedHead

from midiff_monai import segment
from midiff_monai.io.volumes import read_volume, write_like

HELD_OUT = ("301D00262", "301D00368", "mni-patient07", "Subj09", "Subj10", "Subj11")
"""People whose scans no FLAIR prior is trained on. The T2w prior is trained on mni-patient07, too."""

TRAINED = {
    "FLAIR": ("301D00252", "301D00293", "raw-patient01", *(f"Subj0{number}" for number in range(1, 9))),
    "T2w": ("301D00252", "301D00293", "mni-patient07", "raw-patient01"),
}
"""Target → people whose volumes of it train. The last one by name validates."""

CONTRAST = {"FLAIR": "FLAIR", "T2w": "T2"}
"""Target → contrast in the names of the files."""

FOLDERS = ("multicontrast", "open-ms", "heads-flair")

CLOSING_MM = 4.0
"""Gaps of a brain mask up to twice this width are filled: the labels leave out CSF between gyri."""


def scan_of(data: Path, subject: str, contrast: str) -> Path | None:
    """Find the scan of a person, or None."""
    found = [data / folder / f"{subject}_{contrast}.nii.gz" for folder in FOLDERS]
    return next((path for path in found if path.exists()), None)


def brain_of(scan: Path, data: Path) -> tuple[nib.Nifti1Image, NDArray[np.bool_]]:
    """Read a scan (X, Y, Z), and the mask of its brain.

    Brains of `multicontrast` and of MNI space come without a skull. The mask of a head of `heads-flair` is that of its
    parcellation, and that of a raw head is what midiff segments.
    """
    image = read_volume(scan)
    if scan.parent.name == "heads-flair":
        moved = MovedHead(scan, scan.with_name(scan.name.replace("FLAIR", "T1")))
        return image, closed(np.asarray(moved.truth.dataobj) > 0, image)
    if scan.name.startswith("raw"):
        with tempfile.TemporaryDirectory() as folder:
            labels = segment([scan], folder, lesions=False)[0].segmentation
        assert labels is not None
        return image, closed(labels > 0, image)
    return image, np.asarray(image.dataobj) != 0


def closed(mask: NDArray[np.bool_], image: nib.Nifti1Image) -> NDArray[np.bool_]:
    """Close a mask (X, Y, Z) on the grid of an image, and fill its holes."""
    radius = [round(CLOSING_MM / side) for side in image.header.get_zooms()[:3]]
    stored = as_itk(nib.Nifti1Image(mask.astype(np.uint8), image.affine))
    filled = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(stored, radius))
    return sitk.GetArrayFromImage(filled).transpose() > 0


def write_training(data: Path, out: Path) -> None:
    """Write the volumes that train each target."""
    for target, subjects in TRAINED.items():
        for subject in subjects:
            path = out / "train" / target / f"{subject}_{target}.nii.gz"
            scan = scan_of(data, subject, CONTRAST[target])
            if scan and not path.exists():
                _write_brain(*brain_of(scan, data), path)


def write_tests(data: Path, out: Path) -> None:
    """Write the scans of the people who are held out, each on one grid, and their lesions.

    Heads of `heads-flair` are written whole, too, with the mask of their brain.
    """
    for subject in HELD_OUT:
        is_head = subject.startswith("Subj")
        last = out / "test-heads" / f"{subject}_brain.nii.gz" if is_head else out / "test" / f"{subject}_FLAIR.nii.gz"
        if last.exists():
            continue
        scans = [*scans_on_one_grid(subject, data)]
        for contrast, image, brain in scans:
            _write_brain(image, brain, out / "test" / f"{subject}_{contrast}.nii.gz")
        if is_head:
            _write_heads(scans, out / "test-heads", subject)


def scans_on_one_grid(subject: str, data: Path) -> Iterator[tuple[str, nib.Nifti1Image, NDArray[np.bool_]]]:
    """The contrasts of a person, the lesions among them, and the mask of the brain. FLAIR is the last one."""
    flair = scan_of(data, subject, "FLAIR")
    assert flair
    image, brain = brain_of(flair, data)
    lesions = flair.with_name(f"{subject}_lesions.nii.gz")
    if subject.startswith("Subj"):
        lesions = flair.with_name(f"{subject}_FLAIR_WMH.nii.gz")
        moved = MovedHead(flair, flair.with_name(f"{subject}_T1.nii.gz"))
        yield "T1", nib.Nifti1Image(moved.t1_voxels, image.affine), brain
    for contrast in ("T1", "T2", "PD") if not subject.startswith("Subj") else ():
        if scan := scan_of(data, subject, contrast):
            yield contrast, resample_from_to(read_volume(scan), image, order=1), brain
    yield "lesions", read_volume(lesions), np.ones_like(brain)
    yield "FLAIR", image, brain


def _write_heads(scans: Sequence[tuple[str, nib.Nifti1Image, NDArray[np.bool_]]], folder: Path, subject: str) -> None:
    for contrast, image, _ in scans:
        _write(np.asarray(image.dataobj), image, folder / f"{subject}_{contrast}.nii.gz")
    _, flair, brain = scans[-1]
    _write(brain, flair, folder / f"{subject}_brain.nii.gz")


def _write_brain(image: nib.Nifti1Image, brain: NDArray[np.bool_], path: Path) -> None:
    _write(np.where(brain, np.asarray(image.dataobj), 0), image, path)


def _write(voxels: NDArray, like: nib.Nifti1Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_like(voxels, like, path, np.float32)


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the development data")
    parser.add_argument("--out", type=Path, required=True, help="folder for train/, test/ and test-heads/")
    arguments = parser.parse_args()
    write_training(arguments.data, arguments.out)
    write_tests(arguments.data, arguments.out)


if __name__ == "__main__":
    main()
