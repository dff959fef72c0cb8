"""The run manifest: a JSON file that records how the outputs of one volume were made."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from midiff_monai.io.outputs import UNIT_RANGE, OutputPaths
from midiff_monai.io.paths import atomic_write
from midiff_monai.provenance import PACKAGE, environment, sha256

Setting = str | int | float | bool | None

RENAMED_ROLES = {"picture": "qc_image"}
"""Role of an output in manifests of version 0.3 and earlier → its current role."""

_logger = logging.getLogger(__name__)


@dataclass
class RunReport:
    """Collects the record of one input volume.

    Attributes:
        command: The subcommand, for example `segment`.
        input: The volume that is read. Its hash is taken when the report is created. None for an image in memory.
        settings: Everything that decides the result, such as seed, steps, samples and modality.
        weights: Name of the bundle → SHA-256 of its weights.
        outputs: Role → written file. The roles are the field names of `midiff_monai.io.outputs.OutputPaths`.
        warnings: Sentences for the reader of the result, including those of the flags.
        flags: Automatic flags with the keys "kind", "value" and "text"; see `midiff_monai.qc.flags.Flag`.
        lesions: White matter lesions with the keys "volume_ml" and "count", or "reason" if the scan cannot show them.
            Empty if they were not looked for.
        together: How each further scan was brought to the grid of the first; empty for a single scan.
        quality: Expected Dice of the segmentation; see `midiff_monai.qc.quality.Quality`. Empty without one.
        expected_error: Of the synthetic volume, with the keys "mean", over its voxels, and "interval", the factor by
            which the error map becomes half the width of a 90 % interval. Empty without the map.
        intensity_range: Intensities of the synthetic volume where the network gives 0 and 1.
        timings: Step → seconds, filled by `timed`.
        started: Start of the run, ISO 8601 in UTC.
        files: The files of the input, if it consists of several.
        frames: Which frames of the files are the input, such as an echo of a multi-frame image. Empty for all.
        hashes: Role → SHA-256 of the output, including outputs that an earlier run left.
        configurations: Name of the bundle → SHA-256 of its configuration.
    """

    command: str
    input: Path | None
    settings: Mapping[str, Setting]
    weights: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    flags: list[dict[str, Any]] = field(default_factory=list)
    lesions: dict[str, Any] = field(default_factory=dict)
    together: list[dict[str, Any]] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    expected_error: dict[str, float] = field(default_factory=dict)
    intensity_range: tuple[float, float] = UNIT_RANGE
    timings: dict[str, float] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    files: tuple[Path, ...] = ()
    frames: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    configurations: dict[str, str] = field(default_factory=dict)
    _input: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # The hash is taken before the computation: a file that is still being copied may change later.
        self._input = self._describe_input()

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the wall-clock seconds of the `with` body to `timings[step]`, also if the body raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.timings[step] = self.timings.get(step, 0.0) + seconds
            _logger.debug("%s: %s, %.1f s", self.input or "image", step, seconds)

    def to_dict(self, complete: bool = True) -> dict[str, Any]:
        """Return the manifest as JSON types. The order of the keys is fixed; timings keep the order of the steps.

        Args:
            complete: Whether all outputs exist. False while they are being written.
        """
        return {
            "command": self.command,
            "complete": complete,
            "started": self.started,
            "input": self._input,
            "outputs": {role: str(path) for role, path in sorted(self.outputs.items())},
            "outputs_sha256": dict(sorted(self.hashes.items())),
            "settings": dict(sorted(self.settings.items())),
            "weights": dict(sorted(self.weights.items())),
            "configurations": dict(sorted(self.configurations.items())),
            "warnings": self.warnings,
            "flags": self.flags,
            "lesions": self.lesions,
            **({"together": self.together} if self.together else {}),
            "quality": self.quality,
            **({"expected_error": self.expected_error} if self.expected_error else {}),
            **({} if self.intensity_range == UNIT_RANGE else {"intensity_range": list(self.intensity_range)}),
            "timings_seconds": {step: round(seconds, 3) for step, seconds in self.timings.items()},
            "environment": environment(),
        }

    def _describe_input(self) -> dict[str, Any]:
        if self.input is None:
            return {}
        files = self.files or (self.input,)
        parts: dict[str, Any]
        parts = {} if files == (self.input,) else {"files": [str(file.absolute()) for file in files]}
        parts |= {"frames": self.frames} if self.frames else {}
        return {"path": str(self.input.absolute()), "sha256": sha256(*files)} | parts

    def to_json(self, complete: bool = True) -> str:
        """Return the manifest as indented JSON with a final newline.

        Raises:
            ValueError: A setting is NaN or infinite, which JSON cannot represent.
        """
        # The text is ASCII, because a file name may not be valid Unicode.
        return json.dumps(self.to_dict(complete), indent=2, allow_nan=False) + "\n"

    def write(self, path: Path, complete: bool = True) -> None:
        """Write the manifest atomically."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(complete), encoding="ascii")


def cache_key(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a manifest that decide the result. Two runs with equal keys give the same result.

    The path of the input, the device, the precision and `trust_weights` are not part of the key. The version of midiff
    is part of it.
    """
    irrelevant = ("device", "precision", "trust_weights")
    settings = {name: value for name, value in manifest["settings"].items() if name not in irrelevant}
    decisive = {name: manifest[name] for name in ("weights", "configurations")}
    version = manifest["environment"]["packages"][PACKAGE]
    return decisive | {"settings": settings, "input": input_identity(manifest["input"]), "version": version}


def input_identity(source: Mapping[str, Any]) -> str:
    """Return what identifies the content of an input, from its entry in a manifest."""
    return " ".join(filter(None, (source["sha256"], source.get("frames"))))


def read_earlier_manifest(paths: OutputPaths) -> dict[str, Any]:
    """Read the manifest of the last run that wrote these files, as JSON types.

    If that run was killed while it wrote, the files that it was to write count as outputs of midiff, with their current
    hashes. Without a manifest of midiff, no file counts as its output.
    """
    try:
        manifest = json.loads(paths.report.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        manifest = None
    if not _is_manifest(manifest):
        return {"complete": False, "outputs": {}, "outputs_sha256": {}}
    manifest = with_current_roles(manifest)
    if not manifest["complete"]:
        files = {role: path for role, path in asdict(paths).items() if role in manifest["outputs"]}
        manifest["outputs_sha256"] |= {role: sha256(path) for role, path in files.items() if path.is_file()}
    return manifest


def with_current_roles(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with current names for the roles of its outputs."""
    renamed = {
        table: {RENAMED_ROLES.get(role, role): value for role, value in manifest[table].items()}
        for table in ("outputs", "outputs_sha256")
        if table in manifest
    }
    return manifest | renamed


def remove_failure_record(path: Path) -> None:
    """Remove the record of a failure that a batch wrote. A file of another tool with this name stays."""
    with suppress(OSError, ValueError, AttributeError):
        if {"status", "error"} <= json.loads(path.read_text(encoding="utf-8")).keys():
            path.unlink()


def _is_manifest(found: Any) -> bool:
    tables = ("input", "outputs", "outputs_sha256", "settings", "weights", "configurations", "environment")
    return (
        isinstance(found, dict)
        and {"command", "complete", "warnings"} <= found.keys()
        and all(isinstance(found.get(table), dict) for table in tables)
    )
