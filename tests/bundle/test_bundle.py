"""The bundles, checked with MONAI's tools."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata, verify_net_in_out
from small_targets import write_targets

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.resources import available_bundles, available_overlays, bundle_root, trainable_bundles
from midiff_monai.bundle.weights import load_state, load_weights, read_metadata, save_weights
from midiff_monai.errors import BundleError
from midiff_monai.provenance import sha256
from midiff_monai.training.contrast import ContrastRandomizer

BUNDLES = available_bundles()
TRAINABLE = trainable_bundles()
TRAINED = [name for name in TRAINABLE if read_metadata(bundle_root(name))["weights_sha256"]]

# JSON schema of metadata.json after MONAI's bundle specification; MONAI would download its own
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAMED = "schema version monai_version pytorch_version numpy_version name task description authors copyright".split()
TENSOR = {
    "type": {"enum": ["image", "series", "tuples", "probabilities"]},
    "format": TEXT,
    "modality": TEXT,
    "num_channels": {"type": "integer"},
    "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}, "uniqueItems": True},
    "dtype": TEXT,
    "value_range": {"type": "array", "items": {"type": "number"}},
    "is_patch_data": {"type": "boolean"},
    "channel_def": TEXTS,
}
TENSORS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "object", "properties": TENSOR, "required": list(TENSOR)},
}
PACKAGES = {"changelog": TEXTS, "required_packages_version": TEXTS}
FORMATS = {"type": "object", "properties": dict.fromkeys(("inputs", "outputs"), TENSORS)}
SCHEMA = {
    "type": "object",
    "properties": dict.fromkeys(NAMED, TEXT)
    | PACKAGES
    | {"network_data_format": FORMATS | {"required": ["inputs", "outputs"]}},
    "required": [*NAMED, *PACKAGES, "network_data_format"],
}


def workflow(name: str, kind: str, **overrides: Any) -> ConfigWorkflow:
    configs = bundle_root(name) / "configs"
    return ConfigWorkflow(
        config_file=str(configs / ("train.yaml" if kind == "train" else "inference.yaml")),
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        workflow_type=kind,
        bundle_root=str(bundle_root(name)),
        **overrides,
    )


@pytest.mark.parametrize("name, kind", [(n, "inference") for n in BUNDLES] + [(n, "train") for n in TRAINABLE])
def test_has_the_properties_that_monai_requires(name: str, kind: str, tmp_path: Path) -> None:
    write_targets(tmp_path, "T1w")
    flow = workflow(name, kind, dataset_dir=str(tmp_path), init_id="nothing")
    flow.initialize()
    assert not flow.check_properties()


@pytest.mark.parametrize("name", BUNDLES)
def test_inference_lists_the_volumes_of_a_folder(name: str, tmp_path: Path) -> None:
    volumes = ["a.nii.gz", "b.NII", "c.nrrd", "d.mha"]
    for file in (*volumes, "notes.txt", "a.json"):
        (tmp_path / file).touch()
    found = workflow(name, "inference", dataset_dir=str(tmp_path)).parser.get_parsed_content("datalist")
    assert [sample["image"] for sample in found] == [str(tmp_path / volume) for volume in volumes]


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("sizes", [{}, {"n": 2, "p": 3}])
def test_metadata_describe_the_network(name: str, sizes: dict[str, int]) -> None:
    configs = bundle_root(name) / "configs"
    options: dict[str, Any] = {"device": "cpu", "config_file": str(configs / "inference.yaml"), "any": 4} | sizes
    times = {"timesteps": torch.zeros(1)} if "target" in read_metadata(bundle_root(name)) else {}
    verify_net_in_out("network_def", str(configs / "metadata.json"), extra_forward_args=times, **options)


@pytest.mark.parametrize("name", BUNDLES)
def test_metadata_follow_the_specification(name: str, tmp_path: Path) -> None:
    """The schema is at the path to which `verify_metadata` would download it."""
    schema, meta_file = tmp_path / "schema.json", bundle_root(name) / "configs" / "metadata.json"
    schema.write_text(json.dumps(SCHEMA))
    verify_metadata(meta_file=str(meta_file), filepath=str(schema))
    metadata = read_metadata(bundle_root(name))
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_every_channel_is_described(name: str, side: str) -> None:
    for tensor in read_metadata(bundle_root(name))["network_data_format"][side].values():
        assert tensor["format"] != "segmentation" or tensor["num_channels"] == 1, "one-hot channels are `labels`"
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]
        assert tensor["value_range"] == sorted(tensor["value_range"])


@pytest.mark.parametrize("name", TRAINED)
def test_weights_are_a_bare_state_dict_of_the_recorded_hash(name: str) -> None:
    path = bundle_root(name) / "models" / "model.pt"
    assert path.stat().st_size <= 25e6
    assert hashlib.sha256(path.read_bytes()).hexdigest() == read_metadata(bundle_root(name))["weights_sha256"]
    assert all(isinstance(value, torch.Tensor) for value in torch.load(path, weights_only=True).values())


@pytest.mark.parametrize("name", TRAINABLE)
def test_training_and_inference_have_the_same_network_and_guide(name: str) -> None:
    configs = [
        ConfigParser.load_config_file(str(bundle_root(name) / "configs" / f"{c}.yaml")) for c in ("train", "inference")
    ]
    for part in ("network_def", "body", "guide", "scheduler", "context"):
        assert configs[0].get(part) == configs[1].get(part)


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("files", [["train"], ["train", "multi_gpu_train"]])
@pytest.mark.parametrize(
    "options, resumed",
    [
        ({}, True),
        ({"warm_start": True}, False),
        ({"warm_start": True, "resume": True}, True),
        ({"resume": False}, False),
    ],
)
def test_a_checkpoint_does_not_replace_the_weights_of_a_warm_start(
    name: str, files: list[str], options: dict[str, bool], resumed: bool, tmp_path: Path
) -> None:
    parser = ConfigParser()
    parser.read_config([str(bundle_root(name) / "configs" / f"{file}.yaml") for file in files])
    parser.update({"ckpt_dir": str(tmp_path)} | options)
    assert parser.get_parsed_content("checkpoint_loader::_disabled_"), "nothing to resume"
    (tmp_path / "checkpoint_last.pt").touch()
    parser.parse(reset=True)
    assert parser.get_parsed_content("checkpoint_loader::_disabled_") != resumed


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.parametrize("files", [["train"], ["train", "multi_gpu_train"]])
def test_averaged_weights_are_on_the_device_of_the_network(
    name: str, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds in whatever order the configuration instantiates them."""
    monkeypatch.setenv("RANK", "0")
    parser = ConfigParser()
    parser.read_config([str(bundle_root(name) / "configs" / f"{file}.yaml") for file in files])
    parser["device"] = torch.device("meta")  # available on every machine, unlike CUDA
    averaged = parser.get_parsed_content("ema").ema_model
    assert {parameter.device.type for parameter in averaged.parameters()} == {"meta"}


@pytest.mark.parametrize("name", TRAINABLE)
def test_has_the_files_of_the_model_zoo(name: str) -> None:
    root = bundle_root(name)
    for file in (
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.yaml",
        "docs/README.md",
        "docs/data_license.txt",
        "configs/evaluate.yaml",
        "configs/multi_gpu_train.yaml",
    ):
        assert (root / file).is_file(), file
    assert (root / "models" / "model.pt").is_file() == (name in TRAINED)
    assert not (root / "scripts").exists()


@pytest.mark.parametrize("overlay", available_overlays())
def test_overlays_replace_settings_of_the_bundle(overlay: str) -> None:
    original, overlaid = open_bundle("t1_lmi_translation"), open_bundle("t1_lmi_translation", [overlay])
    same = original.parser["scale_intensity"] == overlaid.parser["scale_intensity"]
    assert same == (overlay == "MR"), "the preset of MR is the default"
    assert overlaid.setting("clear_background").absolute == (overlay != "MR")


def test_saved_weights_can_be_loaded(tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation"), tmp_path / "bundle")
    network = open_bundle("t1_brain_segmentation").setting("network_def")
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    assert save_weights(state, tmp_path / "bundle") == load_weights(network, tmp_path / "bundle")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=1e-3, rtol=1e-3)


def test_tensors_with_several_names_are_stored_once(tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation"), tmp_path / "bundle")
    shared = torch.rand(1000, 100)
    state = {"once": shared, "again": shared, "other": shared + 1, "first": shared[0]}
    save_weights(state, tmp_path / "bundle")
    path = tmp_path / "bundle" / "models" / "model.pt"
    stored = torch.load(path, weights_only=True)
    torch.testing.assert_close(stored["again"].float(), shared, atol=1e-3, rtol=0)
    torch.testing.assert_close(stored["other"].float(), shared + 1, atol=1e-3, rtol=0)
    torch.testing.assert_close(stored["first"].float(), shared[0], atol=1e-3, rtol=0)
    assert path.stat().st_size < 2.1 * shared.numel() * 2


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation"), tmp_path / "bundle")
    path = tmp_path / "bundle" / "models" / "model.pt"
    torch.save({"evil": Path("x")}, path)
    with pytest.raises(BundleError, match="SHA-256"):
        load_weights(torch.nn.Identity(), tmp_path / "bundle")
    with pytest.raises(BundleError, match="more than tensors"):
        load_weights(torch.nn.Identity(), tmp_path / "bundle", trusted=True)


@pytest.mark.parametrize("content", [b"", b"weights", bytes(1000)])
def test_damaged_weights_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(BundleError, match="is damaged"):
        load_state(torch.nn.Identity(), tmp_path / "model.pt")


def test_weights_that_are_no_state_dict_do_not_fit(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "model.pt")
    with pytest.raises(BundleError, match="does not fit the network"):
        load_state(torch.nn.Identity(), tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("metadata.json", '{"version": "1.0.0"}', "lacks 'weights_sha256'"),
        ("inference.yaml", "a: [1", "a configuration that cannot be read"),
        ("inference.yaml", None, "a configuration that cannot be read"),
    ],
)
def test_incomplete_bundles_are_refused(file: str, text: str | None, fault: str, tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation") / "configs", tmp_path / "configs")
    (tmp_path / "configs" / file).unlink()
    if text is not None:
        (tmp_path / "configs" / file).write_text(text)
    with pytest.raises(BundleError, match=fault):
        open_bundle(tmp_path)


def test_weights_with_another_hash_are_loaded_if_trusted(tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation"), tmp_path / "bundle")
    path = tmp_path / "bundle" / "models" / "model.pt"
    network = torch.nn.Linear(2, 2)
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, path)
    assert load_weights(network, tmp_path / "bundle", trusted=True) == sha256(path)
    assert (network.weight == 1).all()


def test_replaced_weights_are_kept(tmp_path: Path) -> None:
    shutil.copytree(bundle_root("t1_brain_segmentation"), tmp_path / "bundle")
    path = tmp_path / "bundle" / "models" / "model.pt"
    before = path.read_bytes()
    save_weights({"weight": torch.ones(2, 2)}, tmp_path / "bundle")
    assert path.with_name(f"model_{hashlib.sha256(before).hexdigest()[:12]}.pt").read_bytes() == before
    assert torch.load(path, weights_only=True)["weight"].dtype == torch.float16


def test_real_and_synthetic_t1w_are_drawn_equally_often() -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle_root("t1_brain_segmentation") / "configs" / "train.yaml"))
    parser.update({"images": [f"{n}_T1.nii.gz" for n in range(10)], "synthetic": [{"image": "synthetic"}] * 12})
    parser.update({"train#dataset": {"_target_": "Dataset", "data": "@train_datalist"}, "epoch_length": 1000})
    torch.manual_seed(0)
    drawn = list(parser.get_parsed_content("train#sampler"))
    items = parser.get_parsed_content("train#dataset")
    share = sum(items[index]["image"] == "synthetic" for index in drawn) / len(drawn)
    assert len(drawn) == 1000 and abs(share - 0.5) < 0.05
    assert set(drawn) == set(range(4 + 12))


def test_without_synthetic_t1w_all_samples_are_real() -> None:
    parser = ConfigParser()
    parser.read_config(str(bundle_root("t1_brain_segmentation") / "configs" / "train.yaml"))
    parser.update({"images": [f"{n}_T1.nii.gz" for n in range(10)], "synthetic": []})
    assert set(parser.get_parsed_content("train#sampler")) == set(range(4))


def test_degraded_contrasts_carry_less_information() -> None:
    configs = bundle_root("t1_lmi_translation") / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.yaml") for name in ("train", "random_contrast", "degraded_contrast")])
    degraded = parser.get_parsed_content("validate#contrast").contrast_randomizer
    usual = ContrastRandomizer()
    for setting in ("csf_gm_overlap_prob", "blur", "through_plane_blur", "noise"):
        assert getattr(degraded, setting) > getattr(usual, setting)
    assert degraded.tissue_order_probs.sum() == pytest.approx(1.0)
