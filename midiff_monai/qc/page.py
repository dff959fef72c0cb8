"""The study page, `index.html`: a table of the scans, and pictures of each to check its segmentation by.

The page works offline and without a server. Only the interactive viewer loads other files, from `_viewer/` beside the
page: NiiVue and one script for each scan, when the reader opens it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from midiff_monai.errors import InputError
from midiff_monai.io.paths import atomic_write
from midiff_monai.labels import GROUPS, LESIONS, STRUCTURES
from midiff_monai.qc.flags import MIN_SCANS, OUTLIER_Z, Flag, quality_flags, robust_z
from midiff_monai.qc.layers import LAYERS, Layer
from midiff_monai.qc.measures import Measures
from midiff_monai.qc.study import contrasts, read_study
from midiff_monai.qc.subject import Subject
from midiff_monai.qc.summary import Summary, make_summary

PAGE = "index.html"
VIEWER_FOLDER = "_viewer"
SUBJECT_FILE = re.compile(r"[0-9a-f]{16}\.js(on)?")
PARTS = Path(__file__).resolve().parent / "_page"


def write_study_page(
    folder: Path,
    progress: Callable[[Iterable[Subject]], Iterable[Subject]] = iter,  # type: ignore[assignment]
    may_be_empty: bool = True,
) -> Path:
    """Write `index.html` and `_viewer/` for the results in a folder.

    The volumes of one subject are in memory at a time. They are read only if they have changed since the last page. The
    page grows by about 80 kB for each subject.

    Args:
        folder: the output folder of `midiff segment`, `translate` or a batch; its subfolders are included.
        progress: wraps the iteration over the subjects, for example `tqdm`.
        may_be_empty: write a page without subjects if the folder holds no results.

    Returns:
        The path of the page.

    Raises:
        InputError: the batch report is not as a batch writes it, or the folder holds no results. Nothing is written.
    """
    if not folder.is_dir():
        raise InputError(folder, "is not a folder of results", "Name the folder that was given to --output")
    # listed before the subjects are read: files that another run adds meanwhile must not be deleted below
    earlier = [path for path in (folder / VIEWER_FOLDER).glob("*") if SUBJECT_FILE.fullmatch(path.name)]
    found = read_study(folder)
    if not found and not may_be_empty:
        raise InputError(folder, "holds no results", "Name the folder that was given to --output")
    _copy_viewer(folder / VIEWER_FOLDER)
    subjects, summaries = [], []
    for subject in progress(found):
        subjects.append(subject)
        summaries.append(make_summary(subject, folder / _script(subject, folder)))
    entries = _entries(subjects, summaries, folder)
    page = folder / PAGE
    with atomic_write(page) as temporary:
        temporary.write_text(_html(folder.resolve().name, entries), encoding="utf-8")
    shown = {entry["key"] for entry in entries if entry["viewer"]}
    for path in earlier:
        if path.stem not in shown:
            path.unlink(missing_ok=True)
    return page


def _copy_viewer(viewer: Path) -> None:
    """Copy NiiVue into the folder of the viewer."""
    viewer.mkdir(exist_ok=True)
    for name in ("niivue.js", "niivue.LICENSE.txt"):
        with atomic_write(viewer / name) as temporary:
            shutil.copyfile(PARTS / name, temporary)


def _entries(subjects: list[Subject], summaries: list[Summary], folder: Path) -> list[dict[str, Any]]:
    """Return what the page shows of each subject, as JSON types."""
    z_scores = _compare([summary.measures for summary in summaries], list(map(contrasts, subjects)))
    return [
        _facts(subject, folder) | _results(subject, summary, z, folder)
        for subject, summary, z in zip(subjects, summaries, z_scores, strict=True)
    ]


def _compare(measures: list[Measures], contrasts: list[str]) -> list[dict[str, float]]:
    """Return the z-scores of each subject among the subjects of the same contrast.

    Scans of different contrasts are not compared, because the method's errors depend on the contrast.
    """
    if not measures:
        return []
    scores = pd.DataFrame([measured.scores() for measured in measures])
    z_scores = pd.concat(robust_z(alike) for _, alike in scores.groupby(pd.Series(contrasts)))
    return z_scores.sort_index().to_dict("records")


def _facts(subject: Subject, folder: Path) -> dict[str, Any]:
    """Return what the records say about a subject."""
    report = subject.report
    return {
        "key": _key(subject, folder),
        "name": subject.name,
        "input": subject.input,
        "contrast": contrasts(subject),
        "status": subject.status,
        "seconds": subject.seconds,
        "error": subject.error,
        "report": _relative_report(subject, folder),
        "started": report.get("started"),
        "settings": report.get("settings", {}),
        "weights": report.get("weights", {}),
        "environment": report.get("environment", {}),
    }


def _results(subject: Subject, summary: Summary, z: dict[str, float], folder: Path) -> dict[str, Any]:
    """Return what was measured and drawn of a subject."""
    flags = quality_flags(summary.measures, z)
    return {
        "structures": {**summary.measures.volumes, **_lesions(subject)},
        "scores": {name: _finite(score) for name, score in summary.measures.scores().items()},
        "z": {name: _finite(value) for name, value in z.items()},
        "flags": [flag._asdict() for flag in flags],
        "warnings": [*_warnings_beside(subject, flags), *summary.warnings],
        "pictures": summary.pictures,
        "viewer": _script(subject, folder).as_posix() if summary.pictures else None,
    }


def _lesions(subject: Subject) -> dict[int, float]:
    """Return the volume of the white matter lesions in millilitres by `labels.LESIONS`, if the scan shows them."""
    lesions = subject.report.get("lesions", {})
    return {LESIONS.id: lesions["volume_ml"]} if "volume_ml" in lesions else {}


def _warnings_beside(subject: Subject, flags: list[Flag]) -> list[str]:
    """Return the warnings of the run, without the flags of a kind that the page raises itself."""
    kinds = {flag.kind for flag in flags}
    repeated = {flag.text for flag in subject.flags if flag.kind in kinds}
    return [warning for warning in subject.warnings if warning not in repeated]


def _key(subject: Subject, folder: Path) -> str:
    """Return 16 hexadecimal digits that stand for a subject in addresses and file names."""
    origin = f"{_relative_report(subject, folder)}\n{subject.input}".encode(errors="surrogateescape")
    return hashlib.sha256(origin).hexdigest()[:16]


def _relative_report(subject: Subject, folder: Path) -> str:
    return subject.report_path.relative_to(folder).as_posix() if subject.report_path else ""


def _script(subject: Subject, folder: Path) -> Path:
    """Return the path of a subject's viewer script, relative to the page."""
    return Path(VIEWER_FOLDER) / f"{_key(subject, folder)}.js"


def _finite(value: float) -> float | None:
    """Return the value rounded to 4 digits; None for NaN, which JSON cannot express."""
    return round(float(value), 4) if np.isfinite(value) else None


def _layer(layer: Layer) -> dict[str, Any]:
    facts = {"role": layer.role, "title": layer.title, "opacity": layer.opacity, "high": layer.high}
    return facts | {"colours": layer.lookup()}


def _html(title: str, entries: list[dict[str, Any]]) -> str:
    """Fill the page. Text from outside goes into the data alone, which the script shows as text and never as markup."""
    data = {
        "title": title,
        "groups": ["brain", *GROUPS],
        "structures": [{"id": each.id, "name": each.name, "colour": each.colour} for each in (*STRUCTURES, LESIONS)],
        "layers": [_layer(layer) for layer in LAYERS],
        "min_scans": MIN_SCANS,
        "outlier_z": OUTLIER_Z,
        "subjects": entries,
    }
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        style=(PARTS / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),  # no </script>, no <!--
    )
