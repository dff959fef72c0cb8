"""Bundles for slices: what `midiff init` makes of a folder of pictures, and of a public data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from small_slices import disc, write_picture, write_pictures
from small_targets import write_volume

from midiff_monai.bundle.choice import choose_bundles
from midiff_monai.bundle.own import make_bundle
from midiff_monai.bundle.resources import read_metadata
from midiff_monai.bundle.target_plan import TargetPlan
from midiff_monai.cli.main import main
from midiff_monai.errors import BundleError, InputError


def config(root: Path, name: str) -> dict[str, Any]:
    return ConfigParser.load_config_file(root / "configs" / f"{name}.yaml")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    plan = TargetPlan("PDw", spacing=[2.0, 1.0])
    assert make_bundle(folder / "pd", str(write_pictures(folder / "data", count=4)), plan) == 4
    return folder / "pd"


def test_its_network_sees_one_slice_on_the_grid_of_the_plan(own: Path) -> None:
    for name in ("train", "inference"):
        found = config(own, name)
        assert (found["context"], found["axis"], found["pixdim"]) == (0, 2, [2.0, 1.0, 2.0])
    assert config(own, "train")["slices_per_volume"] == 1


def test_its_metadata_describe_slices(own: Path) -> None:
    metadata = read_metadata(own)
    assert metadata["image_size"] == [48, 40] and "volume" not in metadata["description"]
    image = metadata["network_data_format"]["inputs"]["image"]
    parser = ConfigParser(config(own, "inference"))
    assert image["num_channels"] == len(image["channel_def"]) == 1 + parser.get_parsed_content("guide").channels(0)
    assert "slice below" not in json.dumps(image)


def test_a_prepared_slice_has_the_pixels_of_its_file(own: Path, tmp_path: Path) -> None:
    """At a spacing of 1, columns and rows keep their numbers, and the rows run from the back to the front."""
    path = write_picture(tmp_path / "x.png", seed=7)
    parser = ConfigParser(config(own, "train") | {"pixdim": [1.0, 1.0, 1.0]})
    sample: Any = {"image": str(path)}
    for transform in parser.get_parsed_content("train#deterministic_transforms"):
        sample = transform(sample)
    picture = disc(7)
    low, high = np.percentile(picture[::2, ::2][picture[::2, ::2] > 0], [1, 99])
    rows, columns = np.nonzero(picture)
    cropped = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1][::-1].T.astype(float)
    prepared = sample["image"][0, ..., 0].numpy()
    assert prepared.shape == cropped.shape
    bright = cropped > 0
    np.testing.assert_allclose(prepared[bright], ((cropped - low) / (high - low)).clip(1e-3, 1)[bright], atol=0.02)


def test_it_neither_segments_nor_finds_a_brain(own: Path, tmp_path: Path) -> None:
    metadata = read_metadata(own) | {"target": "T1w"}
    (tmp_path / "t1" / "configs").mkdir(parents=True)
    (tmp_path / "t1" / "configs" / "metadata.json").write_text(json.dumps(metadata))
    chosen = choose_bundles([str(tmp_path / "t1")])
    assert chosen.image_size == (48, 40) and not chosen.finds_brain
    with pytest.raises(BundleError, match="translates slices"):
        chosen.check_volumes()
    choose_bundles([]).check_volumes()


@pytest.mark.parametrize("command", [["segment"], ["batch", "--translate-only"], ["batch"]])
def test_commands_for_volumes_refuse_it(
    command: list[str], own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_picture(tmp_path / "x.png")
    assert main([*command, "--bundle", str(own), str(path), "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "translates slices" in error and "midiff translate" in error and error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [path]


# --- bad input ---


def coloured(folder: Path) -> str:
    Image.fromarray(np.stack([disc(), disc(1), disc(2)], -1)).save(folder / "a.png")
    return r"a.png: holds colours \(RGB\)"


def empty(folder: Path) -> str:
    for name in ("a.png", "b.png"):
        Image.new("L", (48, 40)).save(folder / name)
    return "a.png: is constant: every voxel is 0; 2 files in all cannot be used"


def unreadable(folder: Path) -> str:
    (folder / "a.png").write_bytes((folder / "case1_000.png").read_bytes()[:100])
    return "a.png: cannot be read as an image"


def of_another_size(folder: Path) -> str:
    write_picture(folder / "a.png", shape=(50, 48))
    return "holds slices of unequal size: most have 48 x 40 pixels, a.png 48 x 50"


def without_contrast(folder: Path) -> str:
    Image.fromarray((disc() > 0).astype(np.uint8) * 200).save(folder / "a.png")
    return "a.png: shows no object with a contrast"


@pytest.mark.parametrize("spoil", [coloured, empty, unreadable, of_another_size, without_contrast])
def test_one_line_and_nothing_made(spoil: Any, tmp_path: Path) -> None:
    data = write_pictures(tmp_path / "data", count=4)
    fault = spoil(data)
    with pytest.raises(InputError, match=fault) as caught:
        make_bundle(tmp_path / "own", str(data), TargetPlan("PDw"))
    assert "\n" not in str(caught.value) and sorted(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"slices": "coronal"}, "each file is a slice already"), ({"spacing": [1.0, 1.0, 1.0]}, "has 3 numbers")],
)
def test_options_of_volumes_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        TargetPlan("PDw", **settings).completed(of_slices=True)


@pytest.mark.parametrize(
    ("spacing", "of_slices", "expected"),
    [
        (None, False, [2, 2, 2]),
        ([3.0], False, [3, 3, 3]),
        (None, True, [1, 1, 1]),
        ([2.0], True, [2, 2, 2]),
        ([1.0, 2.0], True, [1, 2, 2]),
    ],
)
def test_missing_sides_of_a_voxel(spacing: list[float] | None, of_slices: bool, expected: list[float]) -> None:
    assert TargetPlan("PDw", spacing=spacing).completed(of_slices).grid["pixdim"] == expected


# --- presets of public data sets ---


def test_a_preset_makes_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, subject in enumerate(("IXI002-Guys-0828", "IXI012-HH-1211", "IXI013-HH-1212")):
        for contrast in ("T1", "PD"):
            write_volume(tmp_path / "IXI" / f"IXI-{contrast}" / f"{subject}-{contrast}.nii.gz", number)
    command = ["init", str(tmp_path / "pd"), "--preset", "ixi-pd", "--data", str(tmp_path / "IXI"), "--spacing", "4"]
    assert main(command) == 0
    assert "3 volumes of PDw" in capsys.readouterr().out
    train = config(tmp_path / "pd", "train")
    images = ConfigParser(train).get_parsed_content("images")
    assert [Path(image).parent.name for image in images] == ["IXI-PD"] * 3
    assert train["pixdim"] == [4.0] * 3 and train["mirror"] and read_metadata(tmp_path / "pd")["target"] == "PDw"


def test_a_target_or_a_preset_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "own"), "--data", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "midiff: error: --target: is missing. Name the target modality, or choose a --preset.\n"
    )
