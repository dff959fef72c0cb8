"""Makes a bundle of one's own from the shipped translation: another target modality, trained without labels."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Compose

from midiff_monai.bundle.choice import TRANSLATION
from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.errors import InputError, OutputError
from midiff_monai.io.inputs import find_volumes
from midiff_monai.io.outputs import TARGET
from midiff_monai.io.paths import CONTRAST, make_folder, volume_stem
from midiff_monai.io.volumes import check_intensity_range, read_volume

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Orientation of slices → the axis of a volume in RAS that they are cut along."""

ANATOMIES = ("brain", "any")

MIN_VOLUMES = 3
"""Fewest volumes to train on. One of them validates."""

VOLUMES_PER_VALIDATION = 10
"""One volume of so many validates."""

SLICE_SIDES = (32, 192)
"""Least and largest side of a training slice in voxels. A larger volume is cropped at random places."""

SLICE_MULTIPLE = 16

README = """# {target} translation

A bundle of one's own, made by `midiff init` from `t1_lmi_translation`. It translates volumes of any modality to
{target}, once it is trained.

| command | what |
|---|---|
| `midiff train {folder}` | train it, from the weights of `t1_lmi_translation` where shapes allow |
| `midiff translate --bundle {folder} SCAN -o OUT` | make `SCAN_synth{target}.nii.gz` |

| id of `configs/train.yaml` | content |
|---|---|
| `dataset_dir` | folder, pattern or table of the volumes to train on |
| `validation_subjects` | number of volumes, the last ones, that validate |
| `pixdim`, `axis`, `mirror` | voxel size in mm; slicing axis; left and right alike. `inference.yaml` has the same |
| `slice_size` | voxels of a training slice, multiples of 16 |
| `scale_target` | percentiles or window of the intensities of the target |
| `tissue_classes`, `contrast_randomizer` | classes of intensities, and their random contrasts |

Add to this page: the data, their terms (`docs/data_license.txt`), and what the bundle was tested on.
"""


@dataclass(frozen=True)
class TargetPlan:
    """What a bundle of one's own is to make.

    Attributes:
        target: name of the target modality, a part of file names: "FLAIR", "T2w", "CT" …
        anatomy: "brain", or "any" for anatomy that is not alike on the left and on the right.
        spacing: voxel size of the network's grid, in mm: left-right, posterior-anterior, inferior-superior.
        slices: a key of `AXES`.
        window: the intensities that become 0 and 1, for an absolute scale such as HU. None takes percentiles of the
            foreground of each volume.

    Raises:
        InputError: the name cannot be part of a file name, or a number is out of range.
    """

    target: str
    anatomy: str = "brain"
    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
    slices: str = "axial"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not TARGET.fullmatch(self.target):
            raise InputError(f"--target {self.target}", "is a part of file names", "Use letters and digits alone")
        if not all(0.1 <= side <= 20 for side in self.spacing):
            raise InputError("--spacing", f"is {self.spacing} mm", "Give sides from 0.1 to 20 mm")
        if self.window and self.window[0] >= self.window[1]:
            raise InputError("--window", f"is {self.window}", "Give the lower intensity first")

    @property
    def grid(self) -> dict[str, Any]:
        """The ids that training and inference share."""
        return {"pixdim": list(self.spacing), "axis": AXES[self.slices], "mirror": self.anatomy == "brain"}

    @property
    def intensities(self) -> dict[str, Any]:
        """The ids that scale the target in training."""
        scale: dict[str, Any] = {"_target_": "midiff_monai.transforms.ScaleForegroundIntensityd", "keys": "image"}
        scale |= {"window": list(self.window)} if self.window else {"lower": 1.0, "upper": 99.0}
        clear = {"_target_": "midiff_monai.transforms.ClearBackgroundd", "keys": "image"}
        return {"scale_target": scale, "clear_background": clear | {"absolute": self.window is not None}}


def make_bundle(
    folder: Path, data: str, plan: TargetPlan, progress: Callable[[Sequence[Path]], Iterable[Path]] = iter
) -> int:
    """Make a bundle for another target modality. Every volume is prepared once, as the training will.

    Args:
        folder: the new bundle. It does not exist yet, or is empty.
        data: folder, pattern or table of volumes of the target modality, see `inputs.find_volumes`.
        plan: what the bundle is to make.
        progress: wraps the iteration over the volumes, for example `tqdm`.

    Returns:
        The number of volumes.

    Raises:
        InputError: there are too few volumes, their names mix modalities, or one of them cannot be trained on.
        OutputError: the folder is not empty, or cannot be written. Nothing is made in any of these cases.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(folder, "exists already", "Choose another name, or remove it")
    volumes = find_volumes(data)
    _check_number_and_names(volumes, data)
    train = _training(plan, data, len(volumes))
    train["slice_size"] = _slice_size(_prepared_shapes(train, progress(volumes), plan), plan)
    make_folder(folder.absolute().parent)
    temporary = folder.with_name(f".{secrets.token_hex(4)}.{folder.name}")
    try:
        _write(temporary, folder.name, plan, train)
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
        fault = f"holds {count} volumes, and {validating} are reserved for validation"
        raise InputError(data, fault, "Add some, or reserve fewer with --validation_subjects")


def _check_number_and_names(volumes: Sequence[Path], data: str) -> None:
    if len(volumes) < MIN_VOLUMES:
        fault = f"holds {len(volumes)} volumes, and training needs {MIN_VOLUMES} at least"
        raise InputError(data, fault, "Add some; the more, the better")
    named = (CONTRAST.fullmatch(volume_stem(volume)) for volume in volumes)
    contrasts = sorted({match[1].upper().removesuffix("W") for match in named if match})
    if len(contrasts) > 1:
        fault = f"mixes modalities, by the names of the files: {', '.join(contrasts)}"
        raise InputError(data, fault, "Name those of the target alone, for example with --data 'FOLDER/*_FLAIR.nii.gz'")


def _training(plan: TargetPlan, data: str, count: int) -> dict[str, Any]:
    """The configuration of the training, with the ids of the plan first. Ids that the overlay sets to null are gone."""
    configs = bundle_root(TRANSLATION) / "configs"
    merged = ConfigParser.load_config_files([str(configs / name) for name in ("train.yaml", "unlabelled.yaml")])
    own = {"dataset_dir": str(Path(data).absolute()), "validation_subjects": max(1, count // VOLUMES_PER_VALIDATION)}
    own |= plan.grid | {"slice_size": merged["slice_size"]} | plan.intensities
    shared = {name: value for name, value in merged.items() if value is not None}
    return {"imports": shared["imports"], "bundle_root": shared["bundle_root"]} | own | shared | own


def _prepared_shapes(train: dict[str, Any], volumes: Iterable[Path], plan: TargetPlan) -> list[tuple[int, ...]]:
    """Shapes of the volumes on the network's grid, cropped to their objects."""
    prepare = Compose(ConfigParser(train).get_parsed_content("train#deterministic_transforms"))
    shapes = []
    for volume in volumes:
        check_intensity_range(read_volume(volume), volume, "" if plan.window else "MR")
        try:
            shapes.append(tuple(prepare({"image": str(volume)})["image"].shape[1:]))
        except RuntimeError as error:  # MONAI wraps the errors of transforms
            if isinstance(error.__cause__, InputError):
                raise error.__cause__ from error
            raise
    return shapes


def _slice_size(shapes: Sequence[tuple[int, ...]], plan: TargetPlan) -> list[int]:
    sides = np.delete(np.max(shapes, axis=0), AXES[plan.slices])
    rounded = -(-sides // SLICE_MULTIPLE) * SLICE_MULTIPLE
    return np.clip(rounded, *SLICE_SIDES).tolist()


def _write(root: Path, name: str, plan: TargetPlan, train: dict[str, Any]) -> None:
    """Write all files of a bundle."""
    template = bundle_root(TRANSLATION)
    for part in ("configs", "models", "docs"):
        (root / part).mkdir(parents=True)
    shutil.copy(template / "LICENSE", root)
    for file in ("logging.conf", "evaluate.yaml", "multi_gpu_train.yaml"):
        shutil.copy(template / "configs" / file, root / "configs")
    inference = ConfigParser.load_config_file(template / "configs" / "inference.yaml") | plan.grid
    inference["output_range"] = list(plan.window or (0.0, 1.0))
    _write_yaml(root / "configs" / "inference.yaml", inference, f"Translates the volumes of a folder to {plan.target}.")
    _write_yaml(root / "configs" / "train.yaml", train, f"Trains the {plan.target} prior without labels.")
    metadata = json.dumps(_metadata(template, plan), indent=4, ensure_ascii=False)
    (root / "configs" / "metadata.json").write_text(metadata + "\n", encoding="utf-8")
    (root / "docs" / "README.md").write_text(README.format(target=plan.target, folder=name), encoding="utf-8")
    (root / "docs" / "data_license.txt").write_text("State the source and the terms of the training data here.\n")


def _metadata(template: Path, plan: TargetPlan) -> dict[str, Any]:
    """The metadata of the shipped translation, with the target in place of T1w, and without its history."""
    facts = read_metadata(template)
    formats = json.loads(json.dumps(facts["network_data_format"]).replace("T1w", plan.target))
    what = f"{plan.target} volumes"
    return facts | {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"Made by midiff init from {template.name} {facts['version']}."},
        "name": f"{plan.target} translation guided by local mutual information",
        "task": f"Zero-shot translation of volumes of an unseen modality into {plan.target}",
        "description": f"A diffusion prior of {what}, trained on {what} only, without labels.",
        "authors": "State the authors",
        "copyright": "State the owner",
        "target": plan.target,
        "anatomy": plan.anatomy,
        "data_source": "State the source of the training data",
        "weights_sha256": "",
        "image_classes": "volume of any modality, foreground scaled to [0, 1]",
        "label_classes": f"the {plan.target} volume that the random-contrast source was made from",
        "pred_classes": f"{plan.target} volume in [0, 1]",
        "eval_metrics": {},
        "network_data_format": formats,
    }


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
