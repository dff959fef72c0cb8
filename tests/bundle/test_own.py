"""Bundles of one's own: what `midiff init` makes of the shipped translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from small_targets import workflow, write_targets, write_volume

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import TRANSLATION
from midiff_monai.bundle.own import make_bundle
from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.bundle.target_plan import AXES, TargetPlan
from midiff_monai.bundle.weights import load_matching_weights, load_weights
from midiff_monai.errors import BundleError, InputError, MidiffError, OutputError

SHIPPED = bundle_root(TRANSLATION)


def config(root: Path, name: str) -> dict[str, Any]:
    return ConfigParser.load_config_file(root / "configs" / f"{name}.yaml")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    plan = TargetPlan("FLAIR", spacing=(2.0, 3.0, 4.0), slices="coronal")
    make_bundle(folder / "flair", str(write_targets(folder / "data", count=4)), plan)
    return folder / "flair"


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_it_has_the_properties_that_monai_requires(kind: str, own: Path) -> None:
    assert not workflow(own, kind).check_properties()


def test_it_has_the_files_of_the_model_zoo_but_no_weights(own: Path) -> None:
    paths = {path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()}
    files = {path for path in paths if not path.startswith("eval/")}  # other tests prepare a training
    configs = ("evaluate.yaml", "inference.yaml", "logging.conf", "metadata.json", "multi_gpu_train.yaml", "train.yaml")
    others = {"LICENSE", "docs/README.md", "docs/data_license.txt"}
    assert files == others | {f"configs/{name}" for name in configs}
    assert (own / "models").is_dir()


def test_untrained_it_cannot_be_opened(own: Path) -> None:
    with pytest.raises(BundleError, match="model.pt: does not exist. Train the bundle"):
        open_bundle(own)


def test_metadata_name_the_target_everywhere(own: Path) -> None:
    metadata, shipped = read_metadata(own), read_metadata(SHIPPED)
    assert metadata["target"] == "FLAIR" and metadata["anatomy"] == "brain"
    assert metadata.keys() == shipped.keys() and metadata["version"] in metadata["changelog"]
    assert "T1w" not in json.dumps(metadata["network_data_format"])


@pytest.mark.parametrize("part", ["network_def", "guide", "scheduler", "context"])
def test_network_and_guide_are_those_of_the_shipped_bundle(part: str, own: Path) -> None:
    assert config(own, "train")[part] == config(own, "inference")[part] == config(SHIPPED, "inference")[part]


def test_training_and_inference_share_the_grid(own: Path) -> None:
    train, inference = config(own, "train"), config(own, "inference")
    for name, value in {"pixdim": [2.0, 3.0, 4.0], "axis": 1, "mirror": True}.items():
        assert train[name] == inference[name] == value
    assert train["validation_subjects"] == 1
    assert inference["inferer"]["axis"] == train["validate"]["inferer"]["axis"] == "@axis"


def test_it_needs_nothing_of_labels(own: Path) -> None:
    text = (own / "configs" / "train.yaml").read_text()
    for word in ("DLMUSE", "signed_distance", "ventricles", "csf_dilation"):
        assert word not in text


@pytest.mark.parametrize("slices", AXES)
def test_slabs_are_cut_across_the_slices(slices: str, own: Path) -> None:
    """The trainer cuts along the last axis, so the slicing axis of the volume has to be there."""
    parser = workflow(own, "train", axis=AXES[slices], slice_size=[32, 48], slices_per_volume=3).parser
    volume = np.indices((30, 34, 24))[AXES[slices]].astype(np.float32)
    sample = {"image": torch.from_numpy(volume)[None], "regions": torch.ones(1, 30, 34, 24)}
    for settings in ({"rotate_std": 0.0, "scale_std": 0.0, "displacement_std": 0.0, "flip_prob": 0.0},):
        crop = parser["train"]["crop"] | settings
        parser["train::crop"] = crop
    parser.parse(reset=True)
    for transform in parser.get_parsed_content("train#random_transforms"):
        sample = transform(sample)
    assert sample["image"].shape == (1, 32, 48, 5)
    centre = sample["image"][0, 16, 24]
    assert (centre.diff() > 0).all(), "the coordinate along the slicing axis rises along the last axis"


def test_slices_are_as_large_as_the_objects(own: Path) -> None:
    """The balls are 0.85 of the volumes: 51, 57.8 and 40.8 mm, of which 2 and 4 mm are the sides of a slice's voxel."""
    extents = np.array([51 / 2, 40.8 / 4])
    size = np.array(config(own, "train")["slice_size"])
    assert (size % 16 == 0).all() and (size >= 32).all() and (size >= extents).all() and (size < extents + 32).all()


def test_a_window_replaces_percentiles(tmp_path: Path) -> None:
    data = write_targets(tmp_path / "data", "CT")
    for path in data.iterdir():
        image = nib.load(path)
        voxels = np.asarray(image.dataobj) * 2 - 1000
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), image.affine), path)
    make_bundle(tmp_path / "ct", str(data), TargetPlan("CT", anatomy="any", window=(-900.0, 600.0)))
    assert config(tmp_path / "ct", "inference")["output_range"] == [-900.0, 600.0]
    parser = workflow(tmp_path / "ct", "train").parser
    (first, *_) = sorted(data.iterdir())
    sample: Any = {"image": str(first)}
    for transform in parser.get_parsed_content("train#deterministic_transforms"):
        sample = transform(sample)
    hu = np.asarray(nib.load(first).dataobj)
    share = np.sort(np.clip((hu[hu > -900] + 900) / 1500, 1e-3, 1))
    found = np.sort(sample["image"].numpy()[sample["image"].numpy() > 0])
    np.testing.assert_allclose(np.quantile(found, [0.1, 0.5, 0.9]), np.quantile(share, [0.1, 0.5, 0.9]), atol=0.02)
    assert parser["mirror"] is False and read_metadata(tmp_path / "ct")["anatomy"] == "any"


# --- the weights it starts from ---


def test_training_starts_from_the_shipped_weights(own: Path) -> None:
    parser = workflow(own, "train").parser
    network, shipped = parser.get_parsed_content("network_def"), open_bundle(TRANSLATION).setting("network_def")
    parser.get_parsed_content("weights")
    for name, value in shipped.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=0)


def test_weights_of_another_shape_are_left_out(own: Path) -> None:
    """More context changes the number of input channels, and thus the first convolution alone."""
    network = workflow(own, "train", context=2).parser.get_parsed_content("network_def")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shipped = open_bundle(TRANSLATION).setting("network_def").state_dict()
    load_matching_weights(network, SHIPPED)
    left_out = {name for name, value in network.state_dict().items() if value.shape != shipped[name].shape}
    assert len(left_out) == 1
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name] if name in left_out else shipped[name], rtol=0, atol=0)


@pytest.mark.parametrize("epochs", [1, 20, 200])
def test_saved_weights_are_those_of_the_training(epochs: int, own: Path) -> None:
    """Weights are 0 from the first step on. Of those before it, 1, their running average keeps hardly anything."""
    network = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1, "bias": False}
    parser = workflow(own, "train", max_epochs=epochs, epoch_length=20, network_def=network).parser
    average = parser.get_parsed_content("ema")
    torch.nn.init.zeros_(average.model.weight)
    torch.nn.init.ones_(average.ema_model.weight)
    training = Engine(lambda engine, batch: None)
    average.attach(training)
    training.run([None] * 20, max_epochs=epochs)
    assert average.ema_model.weight.item() < 0.001


def test_weights_of_the_shipped_bundle_are_not_its_own(own: Path) -> None:
    with pytest.raises(BundleError):
        load_weights(torch.nn.Identity(), own)


# --- bad input ---


def empty(folder: Path) -> Path:
    path = folder / "sub-3_FLAIR.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    return path


def flat(folder: Path) -> Path:
    """A ball without contrast."""
    path = write_volume(folder / "sub-3_FLAIR.nii.gz")
    image = nib.load(path)
    mask = np.asarray(image.dataobj) > 0
    nib.save(nib.Nifti1Image(mask.astype(np.float32), image.affine), path)
    return path


def z_scored(folder: Path) -> Path:
    """As after a division by the standard deviation: half of the object is below 0."""
    path = write_volume(folder / "sub-3_FLAIR.nii.gz", scale=1.0)
    image = nib.load(path)
    voxels = np.asarray(image.dataobj)
    voxels = np.where(voxels > 0, voxels - np.median(voxels[voxels > 0]), 0)
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    return path


@pytest.mark.parametrize("make", [empty, flat, z_scored])
def test_a_volume_that_cannot_be_trained_on_is_named(make: Any, tmp_path: Path) -> None:
    data = write_targets(tmp_path / "data")
    bad = make(data)
    with pytest.raises(InputError) as caught:
        make_bundle(tmp_path / "own", str(data), TargetPlan("FLAIR"))
    assert str(caught.value).startswith(f"{bad}: ") and sorted(tmp_path.iterdir()) == [data]


def test_a_window_that_does_not_fit_the_unit_of_a_volume_is_noticed(tmp_path: Path) -> None:
    """As a CT of 8 bits among those in Hounsfield units: all its tissues would have one intensity."""
    data = write_targets(tmp_path / "data", "CT")
    bad = write_volume(data / "sub-3_CT.nii.gz", scale=1.0)
    with pytest.raises(
        InputError, match="shows no object with a contrast.*check its intensities and the window"
    ) as caught:
        make_bundle(tmp_path / "ct", str(data), TargetPlan("CT", anatomy="any", window=(-1000.0, 1500.0)))
    assert str(caught.value).startswith(f"{bad}: ") and sorted(tmp_path.iterdir()) == [data]


def test_too_few_volumes_are_refused(tmp_path: Path) -> None:
    data = write_targets(tmp_path / "data", count=2)
    with pytest.raises(InputError, match="holds 2 volumes, and training needs 3"):
        make_bundle(tmp_path / "own", str(data), TargetPlan("FLAIR"))
    assert sorted(tmp_path.iterdir()) == [data]


def test_a_mixture_of_modalities_is_refused(tmp_path: Path) -> None:
    data = write_targets(write_targets(tmp_path / "data", "T1w"), "FLAIR")
    with pytest.raises(InputError, match="mixes modalities, by the names of the files: FLAIR, T1"):
        make_bundle(tmp_path / "own", str(data), TargetPlan("FLAIR"))
    assert make_bundle(tmp_path / "own", f"{data}/*_FLAIR.nii.gz", TargetPlan("FLAIR")) == 3


def test_a_table_names_the_volumes(tmp_path: Path) -> None:
    write_targets(tmp_path / "data", count=4)
    table = tmp_path / "train.csv"
    table.write_text("input\n" + "\n".join(f"data/sub-{number}_FLAIR.nii.gz" for number in range(3)))
    assert make_bundle(tmp_path / "own", str(table), TargetPlan("FLAIR")) == 3
    images = workflow(tmp_path / "own", "train").parser.get_parsed_content("images")
    assert [Path(image).name for image in images] == [f"sub-{number}_FLAIR.nii.gz" for number in range(3)]


def test_a_folder_that_is_not_empty_is_kept(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.txt").touch()
    with pytest.raises(OutputError, match="exists already"):
        make_bundle(tmp_path / "own", str(write_targets(tmp_path / "data")), TargetPlan("FLAIR"))
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "settings",
    [{"target": "T2 w"}, {"target": "../T2"}, {"target": ""}, {"spacing": (2.0, 0.0, 2.0)}, {"window": (60.0, -5.0)}],
)
def test_a_plan_that_cannot_be_followed_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(MidiffError):
        TargetPlan(**{"target": "FLAIR"} | settings)
