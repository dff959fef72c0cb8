"""Makes a bundle of one's own from the shipped translation: another target modality, trained without labels."""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose

from midiff_monai.bundle.choice import TRANSLATION
from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.bundle.segmented import training_items
from midiff_monai.bundle.target_plan import TargetPlan
from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.headers import times
from midiff_monai.io.inputs import find_volumes
from midiff_monai.io.paths import CONTRAST, SLICE_SUFFIXES, is_slice_name, make_folder, volume_stem
from midiff_monai.io.slices import read_image
from midiff_monai.io.volumes import check_intensity_range

MIN_VOLUMES = 3
"""Fewest volumes to train on. One of them validates."""

VOLUMES_PER_VALIDATION = 10
"""One volume of so many validates."""

SLICE_SIDES = (32, 192)
"""Least and largest side of a training slice in voxels. A larger volume is cropped at random places."""

SLICE_MULTIPLE = 16

README = """# {target} translation

A bundle of one's own, made by `midiff init` from `t1_lmi_translation`. It translates {kind} of any modality to
{target}, once it is trained.

| command | what |
|---|---|
| `midiff train {folder}` | train it, from the weights of `t1_lmi_translation` where shapes allow |
| `midiff translate --bundle {folder} SCAN -o OUT` | make `SCAN_synth{target}`{suffix} |

| id of `configs/train.yaml` | content |
|---|---|
| `dataset_dir` | folder, pattern or table of the volumes to train on |
| `validation_subjects` | number of volumes, the last ones, that validate |
| `pixdim`, `axis`, `mirror` | voxel size in {unit}; slicing axis; left and right alike. `inference.yaml` has the same |
| `slice_size` | voxels of a training slice, multiples of 16 |
| `scale_target` | percentiles or window of the intensities of the target |
{contrasts}

Add to this page: the data, their terms (`docs/data_license.txt`), and what the bundle was tested on.
"""


OF_CLASSES = "| `tissue_classes`, `contrast_randomizer` | classes of intensities, and their random contrasts |"

OF_TISSUES = "| `results_dir`, `contrast_randomizer` | results of `midiff batch`, random contrasts of their tissues |"


def make_bundle(
    folder: Path, data: str, plan: TargetPlan, progress: Callable[[Sequence[Path]], Iterable[Path]] = iter
) -> int:
    """Make a bundle for another target modality. Every volume or slice is prepared once, as the training will.

    Args:
        folder: the new bundle. It does not exist yet, or is empty.
        data: folder, pattern or table of volumes, or of slices, of the target modality, see `inputs.find_volumes`.
        plan: what the bundle is to make.
        progress: wraps the iteration over the volumes, for example `tqdm`.

    Returns:
        The number of volumes.

    Raises:
        InputError: there are too few volumes, their names mix modalities, one of them cannot be trained on or has no
            result, or slices have different sizes.
        OutputError: the folder is not empty, or cannot be written. Nothing is made in any of these cases.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(folder, "exists already", "Choose another name, or remove it")
    volumes = find_volumes(data)
    _check_number_and_names(volumes, data)
    of_slices = is_slice_name(volumes[0])
    plan = plan.completed(of_slices)
    train = _training(plan, data, len(volumes), of_slices)
    items = _items(volumes, plan)
    shapes, prepared = _shapes(train, progress(volumes), items, plan)
    train["slice_size"] = _slice_size(prepared, plan)
    size = _image_size(shapes, data) if of_slices else None
    make_folder(folder.absolute().parent)
    temporary = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    try:
        _write(temporary, folder.name, plan, train, size)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(volumes)


def check_training_volumes(data: str, validating: int) -> None:
    """Check that enough volumes are left for a training without labels.

    Raises:
        InputError: they are not, or none is found.
    """
    count = len(find_volumes(data))
    if count <= validating:
        fault = f"holds too few volumes ({count}) with {validating} for validation"
        raise InputError(data, fault, "Add some, or reserve fewer with --validation_subjects")


def _check_number_and_names(volumes: Sequence[Path], data: str) -> None:
    if len(volumes) < MIN_VOLUMES:
        kind = "slices" if is_slice_name(volumes[0]) else "volumes"
        fault = f"holds {len(volumes)} {kind}, and training needs {MIN_VOLUMES} at least"
        raise InputError(data, fault, "Add some; the more, the better")
    named = (CONTRAST.fullmatch(volume_stem(volume)) for volume in volumes)
    contrasts = sorted({match[1].upper().removesuffix("W") for match in named if match})
    if len(contrasts) > 1:
        fault = f"mixes modalities, by the names of the files: {', '.join(contrasts)}"
        raise InputError(data, fault, "Name those of the target alone, for example with --data 'FOLDER/*_FLAIR.nii.gz'")


def _training(plan: TargetPlan, data: str, count: int, of_slices: bool) -> dict[str, Any]:
    """The configuration of the training, with the ids of the plan first. Ids that the overlay sets to null are gone."""
    names = ["train.yaml", "unlabelled.yaml"] + ["slices.yaml"] * of_slices + ["segmented.yaml"] * bool(plan.segmented)
    merged = ConfigParser.load_config_files([str(bundle_root(TRANSLATION) / "configs" / name) for name in names])
    own = {"dataset_dir": str(Path(data).absolute()), "validation_subjects": max(1, count // VOLUMES_PER_VALIDATION)}
    own |= {"results_dir": str(plan.segmented.absolute())} if plan.segmented else {}
    own |= plan.grid | {"slice_size": merged["slice_size"]} | plan.intensities
    shared = {name: value for name, value in merged.items() if value is not None}
    return {"imports": shared["imports"], "bundle_root": shared["bundle_root"]} | own | shared | own


def _items(volumes: Sequence[Path], plan: TargetPlan) -> dict[Path, dict[str, str]]:
    """Volume → its item of the data list."""
    files = [str(volume) for volume in volumes]
    items = training_items(files, str(plan.segmented)) if plan.segmented else [{"image": file} for file in files]
    return dict(zip(volumes, items, strict=True))


def _shapes(
    train: dict[str, Any], volumes: Iterable[Path], items: dict[Path, dict[str, str]], plan: TargetPlan
) -> tuple[dict[Path, tuple[int, ...]], list[tuple[int, ...]]]:
    """Shapes of the volumes, and of their objects on the network's grid. All of them are read before one is refused."""
    prepare = Compose(ConfigParser(train).get_parsed_content("train#deterministic_transforms"))
    shapes, prepared, faults = {}, [], []
    for volume in volumes:
        try:
            image = read_image(volume)
            check_intensity_range(image, volume, "" if plan.window else "MR")
            shapes[volume] = image.shape
            prepared.append(_prepared_shape(prepare, items[volume]))
        except InputError as error:
            faults.append(error)
    if faults:
        more = f"; {len(faults)} files in all cannot be used" if faults[1:] else ""
        raise InputError(faults[0].path, f"{faults[0].fault}{more}", faults[0].hint)
    return shapes, prepared


def _prepared_shape(prepare: Compose, item: dict[str, str]) -> tuple[int, ...]:
    try:
        return tuple(prepare(item)["image"].shape[1:])
    except RuntimeError as error:  # MONAI wraps the errors of transforms
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from error
        raise


def _image_size(shapes: dict[Path, tuple[int, ...]], data: str) -> list[int]:
    """Columns and rows of slices, which all have the same size.

    Raises:
        InputError: they have not. The size of their pixels is unknown, so anatomy may have different scales.
    """
    (size, _), *_ = Counter(shapes.values()).most_common(1)
    for path, shape in shapes.items():
        if shape != size:
            fault = f"holds slices of unequal size: most have {times(size[:2])} pixels, {path.name} {times(shape[:2])}"
            raise InputError(data, fault, "Resize or pad them to one size")
    return list(size[:2])


def _slice_size(shapes: Sequence[tuple[int, ...]], plan: TargetPlan) -> list[int]:
    sides = np.delete(np.max(shapes, axis=0), plan.grid["axis"])
    rounded = -(-sides // SLICE_MULTIPLE) * SLICE_MULTIPLE
    return np.clip(rounded, *SLICE_SIDES).tolist()


def _write(root: Path, name: str, plan: TargetPlan, train: dict[str, Any], size: list[int] | None) -> None:
    """Write all files of a bundle, for slices of a size or for volumes."""
    template = bundle_root(TRANSLATION)
    for part in ("configs", "models", "docs"):
        (root / part).mkdir(parents=True)
    shutil.copy(template / "LICENSE", root)
    for file in ("logging.conf", "evaluate.yaml", "multi_gpu_train.yaml"):
        shutil.copy(template / "configs" / file, root / "configs")
    inference = ConfigParser.load_config_file(template / "configs" / "inference.yaml") | plan.grid
    del inference["expected_error"]  # it was fitted to T1w
    inference["output_range"] = list(plan.window or (0.0, 1.0))
    kind, suffix, unit = "volumes", " in NIfTI", "mm"
    if size:
        inference |= {"context": train["context"], "suffixes": list(SLICE_SUFFIXES)}
        kind, suffix, unit = "slices", " in the format of `SCAN`", "pixels of a slice"
    _write_yaml(root / "configs" / "inference.yaml", inference, f"Translates the {kind} of a folder to {plan.target}.")
    _write_yaml(root / "configs" / "train.yaml", train, f"Trains the {plan.target} prior without labels.")
    metadata = json.dumps(_metadata(template, plan, size), indent=4, ensure_ascii=False)
    (root / "configs" / "metadata.json").write_text(metadata + "\n", encoding="utf-8")
    words = {"target": plan.target, "folder": name, "kind": kind, "suffix": suffix, "unit": unit}
    readme = README.format(**words, contrasts=OF_TISSUES if plan.segmented else OF_CLASSES)
    (root / "docs" / "README.md").write_text(readme, encoding="utf-8")
    (root / "docs" / "data_license.txt").write_text("State the source and the terms of the training data here.\n")


def _metadata(template: Path, plan: TargetPlan, size: list[int] | None) -> dict[str, Any]:
    """The metadata of the shipped translation, with the target in place of T1w, and without its history."""
    facts = read_metadata(template)
    formats = json.loads(json.dumps(facts["network_data_format"]).replace("T1w", plan.target))
    if size:
        _leave_out_neighbours(formats["inputs"]["image"])
    noun = "slice" if size else "volume"
    what = f"{plan.target} {noun}s"
    own = {"image_size": size, "data_type": "pillow"} if size else {}
    return (
        facts
        | own
        | {
            "version": "0.1.0",
            "changelog": {"0.1.0": f"Made by midiff init from {template.name} {facts['version']}."},
            "name": f"{plan.target} translation guided by local mutual information",
            "task": f"Zero-shot translation of {noun}s of an unseen modality into {plan.target}",
            "description": f"A diffusion prior of {what}, trained on {what} only, without labels.",
            "authors": "State the authors",
            "copyright": "State the owner",
            "target": plan.target,
            "anatomy": plan.anatomy,
            "data_source": "State the source of the training data",
            "weights_sha256": "",
            "image_classes": f"{noun} of any modality, foreground scaled to [0, 1]",
            "label_classes": f"the {plan.target} {noun} that the random-contrast source was made from",
            "pred_classes": f"{plan.target} {noun} in [0, 1]",
            "eval_metrics": {},
            "network_data_format": formats,
        }
    )


def _leave_out_neighbours(image: dict[str, Any]) -> None:
    """Change the description of the network's input to that of a network without neighbouring slices."""
    kept = [channel for channel in image["channel_def"].values() if not channel.startswith("source, slice")]
    image |= {"num_channels": len(kept), "channel_def": {str(i): channel for i, channel in enumerate(kept)}}


class _Dumper(yaml.SafeDumper):
    """Writes short lists in one line."""

    def represent_list(self, data: list[Any]) -> yaml.Node:
        """A list in one line, unless it holds lists, dictionaries or expressions."""
        long = any(isinstance(item, list | dict) or str(item).startswith("$") for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=not long)


_Dumper.add_representer(list, _Dumper.represent_list)


def _write_yaml(path: Path, config: dict[str, Any], purpose: str) -> None:
    text = yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    origin = f"Made by `midiff init` from {TRANSLATION}, whose files explain the ids."
    path.write_text(f"# {purpose} {origin}\n{text}", encoding="utf-8")
