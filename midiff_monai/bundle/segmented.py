"""Results of `midiff batch` for the volumes of a training: they tell a target without labels its tissues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from midiff_monai.errors import InputError
from midiff_monai.io.outputs import SEGMENTATION_SUFFIX, OutputPaths, outputs_beside
from midiff_monai.io.paths import volume_stem

HINT = "Make the results of all volumes with: midiff batch DATA -o RESULTS"


def training_items(volumes: Sequence[str], results: str) -> list[dict[str, str]]:
    """Return the items of a data list: each volume with its synthetic T1w and its label map.

    Args:
        volumes: volumes of the target modality.
        results: folder of the results of `midiff batch` for these volumes. Subfolders are searched.

    Raises:
        InputError: the folder does not exist, or a volume has no result, or several, or one without a synthetic T1w.
    """
    if not Path(results).is_dir():
        raise InputError(results, "is no folder", HINT)
    found = results_by_stem(Path(results))
    items = []
    for volume in volumes:
        paths = _result_of(Path(volume), found, Path(results))
        items.append({"image": volume, "t1w": str(paths.synthetic), "label": str(paths.segmentation)})
    return items


def results_by_stem(folder: Path) -> dict[str, list[OutputPaths]]:
    """Stem of a volume → the files of its results, in a folder and its subfolders."""
    found = defaultdict(list)
    for path in sorted(folder.rglob(f"*{SEGMENTATION_SUFFIX}")):
        found[path.name.removesuffix(SEGMENTATION_SUFFIX)].append(outputs_beside(path))
    return found


def _result_of(volume: Path, found: dict[str, list[OutputPaths]], folder: Path) -> OutputPaths:
    results = found.get(volume_stem(volume), [])
    if not results:
        raise InputError(folder, f"has no segmentation of {volume.name}", HINT)
    if len(results) > 1:
        fault = f"has several segmentations of {volume.name}: {results[0].segmentation}, {results[1].segmentation}"
        raise InputError(folder, fault, "Name the folder of one of them")
    if not results[0].synthetic.exists():
        raise InputError(folder, f"has no synthetic T1w of {volume.name}", HINT)
    return results[0]
