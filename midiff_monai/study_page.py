"""The page of a study, `index.html`: a table of the subjects, and for each the pictures to trust or doubt it by.

The page needs no network and no other file. Only its interactive viewer asks for its neighbours in `_viewer/`: NiiVue
and one script a subject, loaded when a person opens it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from PIL.Image import Image

from midiff_monai.errors import in_one_line
from midiff_monai.figures import montage
from midiff_monai.labels import GROUPS, STRUCTURES
from midiff_monai.paths import staged
from midiff_monai.quality import (
    FEWEST_SUBJECTS,
    ODD_Z,
    Measures,
    edge_agreement,
    edge_contact,
    foreground,
    quality_flags,
    robust_z,
)
from midiff_monai.study import Images, Subject, read_study
from midiff_monai.viewer import write_viewer_script

PAGE = "index.html"
VIEWER_FOLDER = "_viewer"
WEBP_QUALITY = 80
PARTS = Path(__file__).resolve().parent / "_page"
COLOURS = {structure.id: structure.hex_colour for structure in STRUCTURES}


def write_study_page(folder: Path) -> Path:
    """Write `index.html` and `_viewer/` for the results in a folder, and return the page's path.

    One subject's volumes are in memory at a time; the page itself grows by about 80 kB a subject.

    Args:
        folder: the output folder of `midiff segment`, `translate` or a batch, results in folders below it included.
    """
    viewer = folder / VIEWER_FOLDER
    viewer.mkdir(exist_ok=True)
    for name in ("niivue.js", "niivue.LICENSE.txt"):
        with staged(viewer / name) as temporary:
            shutil.copyfile(PARTS / name, temporary)
    subjects = read_study(folder)
    entries, measures = [], []
    for subject in subjects:
        try:
            entry, measured = _subject(subject, folder)
        # one subject must not keep the others from being shown, whatever is the matter with it
        except Exception as error:
            subject.warnings.append(f"It cannot be shown: {type(error).__name__}: {in_one_line(error)}")
            entry, measured = _without_pictures(subject, folder), Measures({}, {})
        entries.append(entry)
        measures.append(measured)
    _compare(entries, measures)
    page = folder / PAGE
    with staged(page) as temporary:
        temporary.write_text(_html(folder.resolve().name, entries), encoding="utf-8")
    return page


def _subject(subject: Subject, folder: Path) -> tuple[dict[str, Any], Measures]:
    """Measure and picture one subject, and write its volumes for the viewer."""
    images, volumes = subject.images(), subject.volumes()
    entry = _without_pictures(subject, folder) | {"structures": volumes}
    if images is None:
        return entry, Measures(volumes, {})
    script = Path(VIEWER_FOLDER) / f"{entry['key']}.js"
    write_viewer_script(images, folder / script)
    return entry | {"pictures": _pictures(images), "viewer": script.as_posix()}, _measure(images, volumes)


def _without_pictures(subject: Subject, folder: Path) -> dict[str, Any]:
    return _facts(subject, folder) | {"structures": {}, "pictures": {}, "viewer": None}


def _facts(subject: Subject, folder: Path) -> dict[str, Any]:
    """What the manifest and the batch say, for the page; the key names the subject in addresses and file names."""
    report = subject.report
    place = subject.report_path.relative_to(folder).as_posix() if subject.report_path else ""
    identity = f"{place}\n{subject.input}".encode(errors="surrogateescape")
    return {
        "key": hashlib.sha256(identity).hexdigest()[:16],
        "name": subject.name,
        "input": subject.input,
        "status": subject.status,
        "seconds": subject.seconds,
        "warnings": subject.warnings,
        "error": subject.error,
        "report": place,
        "started": report.get("started"),
        "settings": report.get("settings", {}),
        "weights": report.get("weights", {}),
        "environment": report.get("environment", {}),
    }


def _measure(images: Images, volumes: dict[int, float]) -> Measures:
    seen = images.synthetic if images.source is None else images.source
    mask = foreground(images.segmentation, seen)
    compared = (images.source, images.synthetic)
    return Measures(
        volumes,
        edge_contact(images.segmentation, seen, images.affine),
        edge_agreement(*compared, mask, images.affine) if all(image is not None for image in compared) else np.nan,  # type: ignore[arg-type]
        np.nan if images.synthetic_std is None else float(images.synthetic_std[mask].mean()),
    )


def _pictures(images: Images) -> dict[str, str]:
    """Return the montages as data URIs: source and synthetic T1w in grey, structures to lay over them."""
    greys, structures = montage(images.greys, images.structures, images.affine, COLOURS)
    pictures = {role: _data_uri(grey, "webp", quality=WEBP_QUALITY) for role, grey in greys.items()}
    if images.segmentation is not None:
        pictures["structures"] = _data_uri(structures, "png", optimize=True, transparency=0)
    return pictures


def _data_uri(image: Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _compare(entries: list[dict[str, Any]], measures: list[Measures]) -> None:
    """Add to each entry its scores, their z-scores against the study, and its flags."""
    if not entries:
        return
    scores = pd.DataFrame([measured.scores() for measured in measures])
    z_scores = robust_z(scores)
    for entry, measured, (_, z) in zip(entries, measures, z_scores.iterrows(), strict=True):
        entry["scores"] = {name: _finite(score) for name, score in measured.scores().items()}
        entry["z"] = {name: _finite(value) for name, value in z.items()}
        entry["flags"] = [flag._asdict() for flag in quality_flags(measured, z)]


def _finite(value: float) -> float | None:
    """JSON has no word for NaN."""
    return round(float(value), 4) if np.isfinite(value) else None


def _html(title: str, entries: list[dict[str, Any]]) -> str:
    """Fill the page; whatever comes from outside is in the data, which the script shows as text, never as markup."""
    data = {
        "title": title,
        "groups": ["brain", *GROUPS],
        "structures": [{"id": s.id, "name": s.name, "colour": s.colour} for s in STRUCTURES],
        "fewest_subjects": FEWEST_SUBJECTS,
        "odd_z": ODD_Z,
        "subjects": entries,
    }
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        style=(PARTS / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),  # no </script>, no <!--
    )
