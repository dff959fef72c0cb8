"""The summary of a subject: measures and pictures of its volumes, cached until one of its files changes.

To read, measure and draw a subject's volumes takes seconds. Each summary is therefore cached in `_viewer/KEY.json`. The
volumes for the interactive viewer lie beside it, in `_viewer/KEY.js`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL.Image import Image

from midiff_monai.errors import in_one_line
from midiff_monai.io.paths import atomic_write
from midiff_monai.labels import LESIONS, STRUCTURES
from midiff_monai.provenance import environment
from midiff_monai.qc.asymmetry import Asymmetry
from midiff_monai.qc.geometry import Geometry
from midiff_monai.qc.measures import Measures, measure
from midiff_monai.qc.mosaic import montage
from midiff_monai.qc.orientation import Orientation
from midiff_monai.qc.subject import Images, Subject
from midiff_monai.qc.viewer import write_viewer_script

WEBP_QUALITY = 80
COLOURS = {structure.id: structure.hex_colour for structure in (*STRUCTURES, LESIONS)}


@dataclass(frozen=True)
class Summary:
    """What the study page shows of a subject's volumes.

    Attributes:
        measures: for scores and flags.
        pictures: data URIs by role. If there are any, a viewer script exists too.
        warnings: one for each file that cannot be shown.
    """

    measures: Measures = Measures({}, {})
    pictures: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> Summary:
        """Restore a summary from JSON, in which the keys of `volumes` have become strings."""
        measures = facts["measures"]
        volumes = {int(label): volume for label, volume in measures["volumes"].items()}
        parts = {"volumes": volumes, "geometry": Geometry(**measures["geometry"])}
        if measures["orientation"]:
            parts["orientation"] = Orientation(*measures["orientation"])
        if measures["asymmetry"]:
            parts["asymmetry"] = Asymmetry(*measures["asymmetry"])
        return cls(Measures(**measures | parts), facts["pictures"], facts["warnings"])


def make_summary(subject: Subject, script: Path) -> Summary:
    """Return the cached summary if no file has changed since; else make a new one and cache it.

    An error becomes a warning, so that one subject never keeps the others from being shown.

    Args:
        subject: any subject; the summary is empty without the manifest of a complete run.
        script: path of the viewer script, which is written too. The cache lies beside it, with the suffix `.json`.
    """
    if not subject.report:
        return Summary()
    try:
        fingerprint = _fingerprint(subject)
        cached = _read_cached(script.with_suffix(".json"), fingerprint) if script.is_file() else None
        return cached or _summarise(subject, script, fingerprint)
    except Exception as error:
        return Summary(warnings=[f"The result cannot be shown: {type(error).__name__}: {in_one_line(error)}"])


def _fingerprint(subject: Subject) -> str:
    """Return a hash of the manifest, of size and time of each file, and of the version of midiff."""
    made_by = environment()
    versions = made_by["packages"]["midiff-monai"], made_by["git_commit"]
    facts = [versions, subject.report, [_size_and_time(path) for path in subject.files()]]
    return hashlib.sha256(json.dumps(facts).encode("ascii")).hexdigest()


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:  # missing or out of reach
        return None
    return status.st_size, status.st_mtime_ns


def _read_cached(path: Path, fingerprint: str) -> Summary | None:
    try:
        cached = json.loads(path.read_text(encoding="ascii"))
        return Summary.from_json(cached["summary"]) if cached["fingerprint"] == fingerprint else None
    except (OSError, ValueError, LookupError, TypeError):  # missing, damaged or of another tool
        return None


def _summarise(subject: Subject, script: Path, fingerprint: str) -> Summary:
    """Measure and draw one subject, write its viewer script, and cache the summary."""
    images, image_warnings = subject.images()
    volumes, table_warnings = subject.volumes()
    warnings = image_warnings + table_warnings
    if images is None:
        return Summary(Measures(volumes, {}, quality=subject.quality), warnings=warnings)
    low, high = subject.intensity_range
    std = None if images.synthetic_std is None else images.synthetic_std / (high - low)
    arrays = images.source, images.synthetic, std, images.segmentation
    measures = replace(measure(*arrays, volumes, images.affine), quality=subject.quality)
    summary = Summary(measures, _pictures(images), warnings)
    write_viewer_script(images, script)
    # a file that exists but cannot be read now may be readable for the next page
    if not warnings or not all(_size_and_time(path) for path in subject.files()):
        _write_cache(script.with_suffix(".json"), summary, fingerprint)
    return summary


def _write_cache(path: Path, summary: Summary, fingerprint: str) -> None:
    with atomic_write(path) as temporary:
        cached = {"fingerprint": fingerprint, "summary": asdict(summary)}
        temporary.write_text(json.dumps(cached) + "\n", encoding="ascii")


def _pictures(images: Images) -> dict[str, str]:
    """Return data URIs: a grey montage of source and synthetic T1w, and the structures to overlay on them."""
    sheets, structures = montage(images.intensity_images, images.structures, images.affine, COLOURS)
    pictures = {role: _data_uri(sheet, "webp", quality=WEBP_QUALITY) for role, sheet in sheets.items()}
    if images.segmentation is not None:
        pictures["structures"] = _data_uri(structures, "png", optimize=True, transparency=0)
    return pictures


def _data_uri(image: Image, kind: str, **options: Any) -> str:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
