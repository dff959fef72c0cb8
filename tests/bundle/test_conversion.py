"""Converted weights of MONAI Generative: the same outputs, the same arguments, and one line for anything else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet, VarAutoEncoder
from old_unets import READABLE, SMALL, UNREADABLE, make_old_unet, network_inputs, randomise
from torch import nn

from midiff_monai.bundle.conversion import convert_checkpoint, convert_state, unet_arguments
from midiff_monai.cli.main import main
from midiff_monai.errors import InputError, OutputError

State = dict[str, torch.Tensor]


def outputs(network: nn.Module, arguments: dict[str, Any], dtype: torch.dtype) -> torch.Tensor:
    inputs = network_inputs(arguments)
    floats = {name: value.to(dtype) for name, value in inputs.items() if value.is_floating_point()}
    with torch.no_grad():
        return network.to(dtype).eval()(**inputs | floats)


def difference(
    network: nn.Module, old: nn.Module, arguments: dict[str, Any], dtype: torch.dtype = torch.float32
) -> float:
    """Norm of the difference between the outputs of two networks, as a part of the norm of the outputs."""
    found, expected = (outputs(either, arguments, dtype) for either in (network, old))
    assert expected.std() > 0.1, "the outputs are not 0"
    return float((found - expected).norm() / expected.norm())


def assert_same(network: nn.Module, old: nn.Module, arguments: dict[str, Any]) -> None:
    assert difference(network, old, arguments) < 1e-6
    assert difference(network, old, arguments, torch.float64) < 1e-13, "nothing but rounding"


def converted(old: nn.Module) -> nn.Module:
    state = old.state_dict()
    network = DiffusionModelUNet(**unet_arguments(state), **UNREADABLE)
    network.load_state_dict(convert_state(state))
    return network


def packaged_unet(arguments: dict[str, Any]) -> nn.Module:
    """The network of MONAI Generative itself."""
    reason = "needs MONAI Generative: pip install 'midiff-monai[generative]'"
    nets = pytest.importorskip("generative.networks.nets", reason=reason)
    renamed = {"num_channels" if name == "channels" else name: value for name, value in arguments.items()}
    return randomise(nets.DiffusionModelUNet(**renamed, **UNREADABLE))


@pytest.mark.parametrize("arguments", READABLE.values(), ids=READABLE)
class TestEquality:
    def test_with_the_network_restated(self, arguments: dict[str, Any]) -> None:
        old = make_old_unet(**arguments)
        assert_same(converted(old), old, arguments)

    def test_with_the_network_of_the_package(self, arguments: dict[str, Any]) -> None:
        old = packaged_unet(arguments)
        assert_same(converted(old), old, arguments)

    def test_of_the_package_and_the_network_restated(self, arguments: dict[str, Any]) -> None:
        old, restated = packaged_unet(arguments), make_old_unet(**arguments)
        restated.load_state_dict(old.state_dict())
        assert_same(restated, old, arguments)

    def test_of_the_arguments_that_the_weights_tell(self, arguments: dict[str, Any]) -> None:
        assert unet_arguments(make_old_unet(**arguments).state_dict()) == arguments


class TestLoaderOfCore:
    """`load_old_state_dict` applies a projection that was never trained."""

    @staticmethod
    def loaded(old: nn.Module, arguments: dict[str, Any]) -> nn.Module:
        network = DiffusionModelUNet(**arguments, **UNREADABLE)
        network.load_old_state_dict(copy.copy(old.state_dict()))
        return network

    @pytest.mark.parametrize("kind", ["attention in the middle alone", "attention", "volumes"])
    def test_it_changes_networks_without_conditioning(self, kind: str) -> None:
        old = make_old_unet(**READABLE[kind])
        network = self.loaded(old, READABLE[kind])
        assert difference(network, old, READABLE[kind]) > 0.01
        for name, parameter in network.named_parameters():
            if ".attn.out_proj." in name:
                nn.init.eye_(parameter) if parameter.ndim == 2 else nn.init.zeros_(parameter)
        assert_same(network, old, READABLE[kind])

    def test_it_agrees_where_all_attention_is_cross_attention(self) -> None:
        arguments = READABLE["cross-attention"]
        old = make_old_unet(**arguments)
        assert_same(self.loaded(old, arguments), old, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_data_types_are_kept(dtype: torch.dtype) -> None:
    state = make_old_unet(**SMALL).to(dtype).state_dict()
    assert {value.dtype for value in convert_state(state).values()} == {dtype}


class TestOtherWeights:
    @pytest.fixture(scope="class", params=["one level", "one level, cross-attention"])
    def state(self, request: pytest.FixtureRequest) -> State:
        return make_old_unet(**READABLE[request.param]).state_dict()

    def test_each_missing_weight_is_named(self, state: State) -> None:
        for name in state:
            with pytest.raises(ValueError) as error:
                convert_state({other: value for other, value in state.items() if other != name})
            assert str(error.value) == f"lacks {name}"

    def test_each_weight_of_another_shape_is_refused(self, state: State) -> None:
        for name, value in state.items():
            for other in (value[None], torch.cat([value, value])):
                with pytest.raises(ValueError, match="^(has|lacks) "):
                    convert_state(state | {name: other})

    def test_unknown_weights_are_refused(self, state: State) -> None:
        with pytest.raises(ValueError, match="^has controlnet.weight, which is unknown$"):
            convert_state(state | {"controlnet.weight": torch.zeros(1)})

    def test_weights_of_core_need_no_conversion(self, state: State) -> None:
        with pytest.raises(ValueError, match="holds names of MONAI core"):
            convert_state(convert_state(state))

    def test_the_number_of_differences_is_told(self, state: State) -> None:
        kept = {name: value for name, value in state.items() if not name.startswith("up_blocks")}
        with pytest.raises(ValueError, match=r"^lacks up_blocks\.0\.[^ ]+ \(and \d+ more differences\)$"):
            convert_state(kept)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.save(make_old_unet(**SMALL).state_dict(), tmp_path / "old.pt")
    return tmp_path / "old.pt"


class TestCommand:
    def test_it_writes_weights_and_prints_the_network(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        new = tmp_path / "new.pt"
        assert main(["convert-checkpoint", str(checkpoint), str(new)]) == 0
        path, call = capsys.readouterr().out.strip().split(": weights of monai.networks.nets.DiffusionModelUNet")
        assert path == str(new)
        network = DiffusionModelUNet(**eval(f"dict{call}"), **UNREADABLE)
        network.load_state_dict(torch.load(new, weights_only=True))
        assert_same(network, make_old_unet(**SMALL), SMALL)

    def test_prefix_of_parallel_training_and_entry(self, checkpoint: Path, tmp_path: Path) -> None:
        state = {f"module.{name}": value for name, value in torch.load(checkpoint, weights_only=True).items()}
        torch.save({"epoch": 3, "network": state, "optimizer": {"lr": 0.1}}, tmp_path / "trained.pt")
        convert_checkpoint(checkpoint, tmp_path / "a.pt")
        convert_checkpoint(tmp_path / "trained.pt", tmp_path / "b.pt", entry="network")
        a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    def test_an_entry_has_to_be_named(self, checkpoint: Path, tmp_path: Path) -> None:
        state = torch.load(checkpoint, weights_only=True)
        torch.save({"epoch": 3, "model": state, "ema": state}, tmp_path / "trained.pt")
        with pytest.raises(InputError, match="not a state dict. Name one of its dictionaries with --entry: model, ema"):
            convert_checkpoint(tmp_path / "trained.pt", tmp_path / "new.pt")
        with pytest.raises(InputError, match="has no dictionary 'epoch'. It has: model, ema"):
            convert_checkpoint(tmp_path / "trained.pt", tmp_path / "new.pt", "epoch")

    def test_an_output_that_exists_is_kept(self, checkpoint: Path) -> None:
        before = checkpoint.read_bytes()
        with pytest.raises(OutputError, match="old.pt: exists already"):
            convert_checkpoint(checkpoint, checkpoint)
        assert checkpoint.read_bytes() == before

    def test_an_output_needs_a_folder(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="none: is not a folder"):
            convert_checkpoint(checkpoint, tmp_path / "none" / "new.pt")


def saved(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def other_network() -> State:
    return VarAutoEncoder(2, (8, 8), 1, 4, (4, 8), (1, 2)).state_dict()


def scripted(path: Path) -> None:
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(path)


def truncated(path: Path) -> None:
    torch.save(other_network(), path)
    path.write_bytes(path.read_bytes()[:999])


BAD: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "empty": Path.touch,
    "text": lambda path: path.write_text("no checkpoint"),
    "truncated": truncated,
    "whole network": saved(nn.Linear(2, 2)),
    "code": lambda path: path.write_bytes(pickle.dumps(print)),
    "compiled network": scripted,
    "tensor": saved(torch.zeros(3)),
    "list": saved([torch.zeros(3)]),
    "numbered tensors": saved({0: torch.zeros(3)}),
    "nothing": saved({}),
    "another network": saved(other_network()),
    "another network of core": saved({"layer.attn.qkv.weight": torch.zeros(3, 1)}),
    "weights of core": saved(DiffusionModelUNet(**SMALL, **UNREADABLE).state_dict()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", BAD)
def test_other_files_are_one_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BAD[kind](tmp_path / "old.pt")
    assert main(["convert-checkpoint", str(tmp_path / "old.pt"), str(tmp_path / "new.pt")]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"midiff: error: {tmp_path / 'old.pt'}: ") and message.count("\n") == 0
    assert not (tmp_path / "new.pt").exists()
