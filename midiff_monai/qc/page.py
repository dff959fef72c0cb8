"""The page of a study, `index.html`: a table of the subjects, and for each the pictures to trust or doubt it by.

The page needs no network and no other file. Only its interactive viewer asks for its neighbours in `_viewer/`: NiiVue
and one script a subject, loaded when a person opens it. Beside each script lies what the page shows of the subject, for
the next page: to read, measure and picture a subject's volumes takes seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from PIL.Image import Image

from midiff_monai.errors import in_one_line
from midiff_monai.io.paths import atomic_write
from midiff_monai.labels import GROUPS, STRUCTURES
from midiff_monai.provenance import environment
from midiff_monai.qc.flags import MIN_SCANS, OUTLIER_Z, Measures, measure, quality_flags, robust_z
from midiff_monai.qc.mosaic import montage
from midiff_monai.qc.study import Images, Subject, contrast, read_study
from midiff_monai.qc.viewer import write_viewer_script

PAGE = "index.html"
VIEWER_FOLDER = "_viewer"
WEBP_QUALITY = 80
OF_A_SUBJECT = re.compile(r"[0-9a-f]{16}\.js(on)?")
PARTS = Path(__file__).resolve().parent / "_page"
COLOURS = {structure.id: structure.hex_colour for structure in STRUCTURES}


@dataclass(frozen=True)
class Portrait:
    """What the page shows of a subject's volumes, and takes long to make.

    Attributes:
        measures: for scores and flags.
        pictures: data URIs by role; empty where there is no volume to show. Where there is, there is a viewer's script.
        warnings: of what could not be shown.
    """

    measures: Measures = Measures({}, {})
    pictures: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Portrait:
        """The inverse of `asdict`, by way of JSON."""
        measures = facts["measures"]
        volumes = {int(label): volume for label, volume in measures["volumes"].items()}
        return cls(Measures(**measures | {"volumes": volumes}), facts["pictures"], facts["warnings"])


def write_study_page(
    folder: Path,
    progress: Callable[[Iterable[Subject]], Iterable[Subject]] = iter,  # type: ignore[assignment]
) -> Path:
    """Write `index.html` and `_viewer/` for the results in a folder, and return the page's path.

    One subject's volumes are in memory at a time, and are read only if they have changed since the last page; the page
    itself grows by about 80 kB a subject.

    Args:
        folder: the output folder of `midiff segment`, `translate` or a batch, results in folders below it included.
        progress: wraps the iteration over the subjects, for example `tqdm`.
    """
    # listed before the subjects: what another run adds meanwhile is of subjects that this one may not know
    earlier = _lay_out_viewer(folder / VIEWER_FOLDER)
    subjects = [_subject(subject, folder) for subject in progress(read_study(folder))]
    entries = [entry for entry, _ in subjects]
    _compare(entries, [measures for _, measures in subjects])
    page = folder / PAGE
    with atomic_write(page) as temporary:
        temporary.write_text(_html(folder.resolve().name, entries), encoding="utf-8")
    shown = {entry["key"] for entry in entries if entry["viewer"]}
    for path in earlier:
        if path.stem not in shown:
            path.unlink(missing_ok=True)
    return page


def _lay_out_viewer(viewer: Path) -> list[Path]:
    """Make the folder of the viewer, and list what it holds of the subjects of earlier pages."""
    viewer.mkdir(exist_ok=True)
    for name in ("niivue.js", "niivue.LICENSE.txt"):
        with atomic_write(viewer / name) as temporary:
            shutil.copyfile(PARTS / name, temporary)
    return [path for path in viewer.iterdir() if OF_A_SUBJECT.fullmatch(path.name)]


def _subject(subject: Subject, folder: Path) -> tuple[dict[str, Any], Measures]:
    """All that the page says and shows of one subject, but for the comparison with others."""
    facts = _facts(subject, folder)
    script = Path(VIEWER_FOLDER) / f"{facts['key']}.js"
    portrait = _portrait(subject, folder / script)
    shown = {
        "structures": portrait.measures.volumes,
        "pictures": portrait.pictures,
        "viewer": script.as_posix() if portrait.pictures else None,
        "warnings": [*facts["warnings"], *portrait.warnings],
    }
    return facts | shown, portrait.measures


def _portrait(subject: Subject, script: Path) -> Portrait:
    """The portrait that an earlier page was made of, if nothing has changed since; else a new one."""
    if not subject.report:
        return Portrait()
    known = len(subject.warnings)
    try:
        fingerprint = _fingerprint(subject)
        kept = _kept(script.with_suffix(".json"), fingerprint) if script.is_file() else None
        return kept or _draw(subject, script, fingerprint)
    # one subject must not keep the others from being shown, whatever is the matter with it
    except Exception as error:
        reason = f"It cannot be shown: {type(error).__name__}: {in_one_line(error)}"
        return Portrait(warnings=[*subject.warnings[known:], reason])


def _fingerprint(subject: Subject) -> str:
    """What changes with the manifest, the size or the time of a file that is shown, and the version of midiff."""
    made_by = environment()
    versions = made_by["packages"]["midiff-monai"], made_by["git_commit"]
    facts = [versions, subject.report, [_stamp(path) for path in subject.files()]]
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # not there, or not to be reached
        return None
    return status.st_size, status.st_mtime_ns


def _kept(path: Path, fingerprint: str) -> Portrait | None:
    try:
        kept = json.loads(path.read_text(encoding="ascii"))
        return Portrait.of(kept["portrait"]) if kept["fingerprint"] == fingerprint else None
    except (OSError, ValueError, LookupError, TypeError):  # not there, torn, or of another tool
        return None


def _draw(subject: Subject, script: Path, fingerprint: str) -> Portrait:
    """Measure and picture one subject, write its volumes for the viewer, and keep the portrait beside them."""
    known = len(subject.warnings)
    images, volumes = subject.images(), subject.volumes()
    warnings = subject.warnings[known:]
    if images is None:
        return Portrait(Measures(volumes, {}), warnings=warnings)
    seen = images.source, images.synthetic, images.synthetic_std, images.segmentation
    portrait = Portrait(measure(*seen, volumes, images.affine), _pictures(images), warnings)
    write_viewer_script(images, script)
    if warnings and all(_stamp(path) for path in subject.files()):  # what is there may be readable next time
        return portrait
    with atomic_write(script.with_suffix(".json")) as temporary:
        kept = {"fingerprint": fingerprint, "portrait": asdict(portrait)}
        temporary.write_text(json.dumps(kept) + "\n", encoding="ascii")
    return portrait


def _facts(subject: Subject, folder: Path) -> dict[str, Any]:
    """What the manifest and the batch say, for the page; the key names the subject in addresses and file names."""
    report = subject.report
    place = subject.report_path.relative_to(folder).as_posix() if subject.report_path else ""
    origin = f"{place}\n{subject.input}".encode(errors="surrogateescape")
    return {
        "key": hashlib.sha256(origin).hexdigest()[:16],
        "name": subject.name,
        "input": subject.input,
        "contrast": contrast(subject.input),
        "status": subject.status,
        "seconds": subject.seconds,
        "warnings": list(subject.warnings),
        "error": subject.error,
        "report": place,
        "started": report.get("started"),
        "settings": report.get("settings", {}),
        "weights": report.get("weights", {}),
        "environment": report.get("environment", {}),
    }


def _pictures(images: Images) -> dict[str, str]:
    """Return the montages as data URIs: source and synthetic T1w in grey, structures to lay over them."""
    intensity_images, structures = montage(images.intensity_images, images.structures, images.affine, COLOURS)
    pictures = {role: _data_uri(grey, "webp", quality=WEBP_QUALITY) for role, grey in intensity_images.items()}
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
    # an algorithm that errs on one contrast errs alike on all scans of it
    contrasts = pd.Series([entry["contrast"] for entry in entries])
    z_scores = pd.concat(robust_z(alike) for _, alike in scores.groupby(contrasts)).sort_index()
    for entry, measured, (_, z) in zip(entries, measures, z_scores.iterrows(), strict=True):
        entry["scores"] = {name: _finite(score) for name, score in measured.scores().items()}
        entry["z"] = {name: _finite(value) for name, value in z.items()}
        entry["flags"] = [flag._asdict() for flag in quality_flags(measured, z)]
        in_manifest = {flag.text for flag in quality_flags(measured)}  # by the manifest, without the comparison
        entry["warnings"] = [warning for warning in entry["warnings"] if warning not in in_manifest]


def _finite(value: float) -> float | None:
    """JSON has no word for NaN."""
    return round(float(value), 4) if np.isfinite(value) else None


def _html(title: str, entries: list[dict[str, Any]]) -> str:
    """Fill the page; whatever comes from outside is in the data, which the script shows as text, never as markup."""
    data = {
        "title": title,
        "groups": ["brain", *GROUPS],
        "structures": [{"id": s.id, "name": s.name, "colour": s.colour} for s in STRUCTURES],
        "fewest_scans": MIN_SCANS,
        "odd_z": OUTLIER_Z,
        "subjects": entries,
    }
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    return Template((PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        style=(PARTS / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),  # no </script>, no <!--
    )
