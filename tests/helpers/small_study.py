"""Results of ellipsoid phantoms, written in milliseconds: without models and without QC images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.volumes import read_volume
from midiff_monai.parcels import PARCELS
from midiff_monai.pipeline.result import Result
from midiff_monai.qc.study import read_study
from midiff_monai.qc.subject import Subject

WEIGHTS = "0123456789abcdef" * 4


def head(size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return source and segmentation (24, 28, 24) of an ellipsoid brain; `size` scales its white matter."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 28, 24)), indexing="ij")
    radius = np.hypot(np.hypot(x, y), z)
    left = x < 0
    segmentation = np.select(
        [radius < 0.2, radius < 0.5 * size, radius < 0.8],
        [np.where(left, 4, 43), np.where(left, 2, 41), np.where(left, 3, 42)],
        0,
    )
    return np.select([radius < 0.2, radius < 0.5 * size, radius < 0.8], [900.0, 500.0, 650.0], 10.0), segmentation


def write_result(folder: Path, name: str, size: float = 1, layers: bool = False, **facts: Any) -> None:
    """Write a volume and its results into one folder; `facts` are fields of `RunReport`.

    With `layers`, the results have all that the viewer draws. All cortex is one parcel. All labels are equally certain.
    """
    source, segmentation = head(size)
    path = folder / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(source.astype(np.float32), np.diag([6, 6, 6, 1])), path)
    report = RunReport("segment", path, {"steps": 2}, {"t1_lmi_translation": WEIGHTS}, **facts)
    result = Result(read_volume(path), report, paths=output_paths(path, folder), render=draw_nothing)
    result.synthetic, result.segmentation = 0.8 - source / 1500, segmentation
    if layers:
        result.parcels = np.where(np.isin(segmentation, (3, 42)), PARCELS[-1].id, 0).astype(np.uint8)
        result.intracranial = np.ones_like(segmentation, np.uint8)
        result.probability, result.entropy = np.where(segmentation, 0.6, 0), np.where(segmentation, 0.16, 0)
        result.synthetic_error = np.full(source.shape, 0.12)
    result.write()


def draw_nothing(*arguments: Any) -> None:
    """Takes the place of `qc_mosaic`, whose fifth argument is the path of the picture."""
    arguments[4].touch()


def data_of(page: Path) -> dict[str, Any]:
    """Return the data of a page."""
    (text,) = re.findall(r'<script type="application/json" id="study">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(text)


def subjects_of(page: Path) -> dict[str, dict[str, Any]]:
    """Return the subjects of a page by name."""
    return {subject["name"]: subject for subject in data_of(page)["subjects"]}


def write_single_result(tmp_path: Path, **computed: Any) -> Path:
    """Write results of one volume with a synthetic T1w and a segmentation, and return their folder."""
    source = tmp_path / "in" / "sub-01_PDw.nii.gz"
    source.parent.mkdir()
    data = np.random.default_rng(0).random((6, 7, 8), dtype=np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([2, 2, 2, 1])), source)
    out = tmp_path / "out"
    out.mkdir()
    report = RunReport("segment", source, {"seed": 0}, warnings=["Look twice."], timings={"read": 1.0, "segment": 2.0})
    report.intensity_range = computed.pop("intensity_range", report.intensity_range)
    images: dict[str, Any] = {"synthetic": data / 2, "segmentation": np.full(data.shape, 3, np.int16)} | computed
    Result(read_volume(source), report, **images, paths=output_paths(source, out), render=draw_nothing).write()
    return out


def only(folder: Path) -> Subject:
    """The only subject of a folder of results."""
    (subject,) = read_study(folder)
    return subject
