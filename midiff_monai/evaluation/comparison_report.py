"""The files of a comparison: two tables, a figure, and the record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.evaluation.comparison import Comparison, Group, compare
from midiff_monai.evaluation.comparison_figure import draw_comparison
from midiff_monai.evaluation.distribution import LEAST_SHARE, of_inception, of_segmenter
from midiff_monai.evaluation.metrics import HISTOGRAM_BINS, SSIM_WINDOW
from midiff_monai.evaluation.pairing import find_pairs
from midiff_monai.evaluation.scores import PEAK_PERCENTILE
from midiff_monai.io.paths import atomic_write, check_writable, volume_files
from midiff_monai.io.slices import read_image
from midiff_monai.provenance import environment, sha256

DOTS_PER_INCH = 110


@dataclass(frozen=True)
class ComparisonPaths:
    """The files of a comparison.

    Attributes:
        summary: a row for each metric.
        pairs: a row for each synthetic volume.
        figure: the picture of both.
        report: the record: inputs with their hashes, settings, weights, versions, commit.
    """

    summary: Path
    pairs: Path
    figure: Path
    report: Path


def comparison_paths(folder: Path) -> ComparisonPaths:
    """Name the files of a comparison in a folder. Nothing is created."""
    names = ("comparison.csv", "comparison_pairs.csv", "comparison.png", "comparison.json")
    return ComparisonPaths(*(folder / name for name in names))


def run_comparison(
    real: str | Path,
    synthetic: str | Path,
    output: Path,
    pairing: str = "by name",
    overwrite: bool = False,
    progress: Callable[[Sequence[Group]], Iterable[Group]] = iter,
    inception: Path | None = None,
) -> tuple[Comparison, ComparisonPaths]:
    """Compare real volumes with synthetic ones, and write `ComparisonPaths`.

    Args:
        real: folder, pattern or table of real volumes of the target modality, or of real slices.
        synthetic: the same of synthetic volumes. Of results of midiff, the synthetic volumes count.
        output: folder for the files.
        pairing: one of `pairing.PAIRINGS`.
        overwrite: replace files that exist.
        progress: wraps the iteration over the real volumes, for example `tqdm`.
        inception: TorchScript file whose features FID and KID take, see `distribution.of_inception`. None takes those
            of the segmenter.

    Raises:
        InputError: volumes are missing, too few, or cannot be read, as `inception`, or pairs are missing or not unique.
        OutputError: a file exists already or cannot be written. Nothing is written in any of these cases.
    """
    sides = find_pairs(real, synthetic, pairing)
    paths, volumes = comparison_paths(output), [*sides[0], *sides[1]]
    for volume in volumes:
        read_image(volume)
    segmenter = open_bundle(SEGMENTATION)
    extractor = of_inception(inception, segmenter.setting("device")) if inception else of_segmenter(segmenter)
    check_writable(output, asdict(paths).values(), overwrite, volumes)
    record = describe(sides[0], sides[1], segmenter, pairing)
    record["settings"]["features"] = extractor.name
    if inception:
        record["weights"][inception.name] = sha256(inception)
    comparison = compare(*sides, segmenter, extractor, progress)
    write_comparison(comparison, paths, record)
    return comparison, paths


def as_text(comparison: Comparison) -> str:
    """Return the summary and the notes as text for a terminal."""
    table = (
        comparison.summary().drop(columns="features").to_string(index=False, na_rep="", float_format="{:.4g}".format)
    )
    features = f"Features of FID and KID: {comparison.features}; not comparable with published values."
    return "\n".join([table, *([features] if comparison.distances else []), *comparison.notes()])


def describe(real: Sequence[Path], synthetic: Sequence[Path], segmenter: Bundle, pairing: str) -> dict[str, Any]:
    """Return the record of a comparison that is about to be made, as JSON types. Its hashes are taken now."""
    constants = {"ssim_window": SSIM_WINDOW, "peak_percentile": PEAK_PERCENTILE, "mi_bins": HISTOGRAM_BINS}
    return {
        "command": "compare",
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "inputs": {
            side: {str(path.absolute()): sha256(*volume_files(path)) for path in paths}
            for side, paths in {"real": real, "synthetic": synthetic}.items()
        },
        "settings": {"pairing": pairing, "least_slice_share": LEAST_SHARE} | constants,
        "weights": {segmenter.root.name: segmenter.weights_sha256},
        "configurations": {segmenter.root.name: segmenter.configuration_sha256},
        "environment": environment(),
    }


def write_comparison(comparison: Comparison, paths: ComparisonPaths, record: Mapping[str, Any]) -> None:
    """Write all files of a comparison, the record last."""
    for table, path in ((comparison.summary(), paths.summary), (comparison.pairs, paths.pairs)):
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False, float_format="%.6g", errors="surrogateescape")
    with atomic_write(paths.figure) as temporary:
        draw_comparison(comparison).savefig(temporary, dpi=DOTS_PER_INCH)
    written = {role: path for role, path in asdict(paths).items() if role != "report"}
    outputs = {role: str(path.absolute()) for role, path in written.items()}
    hashes = {role: sha256(path) for role, path in written.items()}
    complete = {**record, "notes": comparison.notes(), "outputs": outputs, "outputs_sha256": hashes}
    with atomic_write(paths.report) as temporary:
        temporary.write_text(json.dumps(complete, indent=2) + "\n", encoding="ascii")
