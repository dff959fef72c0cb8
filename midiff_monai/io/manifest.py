"""The run manifest, a JSON file that says how an output came about, and the exit codes of the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from midiff_monai.io.paths import OutputPaths, atomic_write
from midiff_monai.provenance import PACKAGE, environment, sha256

Setting = str | int | float | bool | None

RENAMED_ROLES = {"picture": "qc_image"}
"""Roles of outputs in manifests of version 0.3 and before, and what they are called now."""


@dataclass
class RunReport:
    """Collects what happened to one input volume.

    Attributes:
        command: the subcommand, for example `segment`.
        input: the volume that was read; its hash is taken when the report is written.
        settings: whatever decides the result, such as seed, steps, samples and modality.
        weights: SHA-256 of the weights by the name of the bundle they belong to.
        outputs: what was written, by its role (the field names of `midiff_monai.io.paths.OutputPaths`).
        warnings: sentences for the reader of the result.
        timings: seconds by step, filled by `timed`.
        started: when the run began, ISO 8601 in UTC.
        files: the files that the input is made of, if it is not one itself.
        hashes: SHA-256 of the outputs, by their role, and of those that an earlier run left beside them.
        configurations: SHA-256 of the configurations by the name of the bundle they belong to.
    """

    command: str
    input: Path
    settings: Mapping[str, Setting]
    weights: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    files: tuple[Path, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)
    configurations: dict[str, str] = field(default_factory=dict)
    _input: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        # now, and not once all is done: what a file holds that is still being copied then is not what was read
        self._input = self._describe_input()

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the wall-clock seconds of the body to `timings[step]`, also when the body raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[step] = self.timings.get(step, 0.0) + time.perf_counter() - start

    def to_dict(self, complete: bool = True) -> dict[str, Any]:
        """The manifest as plain JSON types; the order of keys never changes, that of timings is the order of work.

        Args:
            complete: whether every output is there; False while they are being written.
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
            "timings_seconds": {step: round(seconds, 3) for step, seconds in self.timings.items()},
            "environment": environment(),
        }

    def _describe_input(self) -> dict[str, Any]:
        files = self.files or (self.input,)
        parts = {} if files == (self.input,) else {"files": [str(file.absolute()) for file in files]}
        return {"path": str(self.input.absolute()), "sha256": sha256(*files)} | parts

    def to_json(self, complete: bool = True) -> str:
        """The manifest as indented JSON with a final newline.

        Raises:
            ValueError: a setting is NaN or infinite, for which JSON has no word.
        """
        # in ASCII: a file name need not be Unicode
        return json.dumps(self.to_dict(complete), indent=2, allow_nan=False) + "\n"

    def write(self, path: Path, complete: bool = True) -> None:
        """Write the manifest, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.to_json(complete), encoding="ascii")


def cache_key(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result, of a manifest: of two runs with the same identity, one is enough.

    Where the input lies, which device computed, with which units, and who trusted the weights are of no consequence.
    Another version of midiff may make something else of the same.
    """
    idle = ("device", "precision", "trust_weights")
    settings = {name: value for name, value in manifest["settings"].items() if name not in idle}
    decisive = {name: manifest[name] for name in ("weights", "configurations")}
    version = manifest["environment"]["packages"][PACKAGE]
    return decisive | {"settings": settings, "input": manifest["input"]["sha256"], "version": version}


def read_earlier_manifest(paths: OutputPaths) -> dict[str, Any]:
    """The manifest of the last run that wrote these files, as JSON types.

    Of a run that was killed while it wrote, what it was to write is midiff's, though perhaps not all of one run: those
    files have the hashes that they have now. Without a manifest of midiff's, no file is.
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
    """The manifest with the roles of its outputs named as in this version."""
    renamed = {
        table: {RENAMED_ROLES.get(role, role): value for role, value in manifest[table].items()}
        for table in ("outputs", "outputs_sha256")
        if table in manifest
    }
    return manifest | renamed


def remove_failure_record(path: Path) -> None:
    """Remove the file that a batch keeps of a failure; what another tool left under that name stays."""
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
