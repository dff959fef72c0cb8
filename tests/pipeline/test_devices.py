"""A GPU, here a fake one: its results are those of the CPU, which takes over when the memory of the GPU runs out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from fake_device import fake_device

from midiff_monai import ImageResult, segment_image
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.inferers.intracranial import IntracranialSpace
from midiff_monai.pipeline.fallback import on_cpu_if_memory_runs_out
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Task

SETTINGS: dict[str, Any] = {"steps": 2, "precision": "float32", "parcellation": True, "probability": True}
VOLUMES = ("synthetic", "segmentation", "parcels", "probability")


@pytest.fixture(scope="module")
def scan() -> nib.Nifti1Image:
    scan: nib.Nifti1Image = make_phantom("PD").image.slicer[::2, ::2, 30:36]
    return scan


@pytest.fixture(scope="module")
def expected(scan: nib.Nifti1Image) -> ImageResult:
    return segment_image(scan, device="cpu", **SETTINGS)


def volume_pairs(result: ImageResult, expected: ImageResult) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(getattr(result.computation, name), getattr(expected.computation, name)) for name in VOLUMES]


def test_a_gpu_gives_the_results_of_the_cpu(scan: nib.Nifti1Image, expected: ImageResult) -> None:
    """No float64 is used on it, and no operation mixes its tensors with those of the CPU. Rounding may differ."""
    with fake_device() as name:
        result = segment_image(scan, device=name, **SETTINGS)
    for actual, desired in volume_pairs(result, expected):
        assert np.isclose(actual, desired, atol=1e-4).mean() > 0.999
    assert result.manifest["settings"]["device"] == name and result.warnings == expected.warnings


def test_the_cpu_takes_over_when_the_memory_runs_out(scan: nib.Nifti1Image, expected: ImageResult) -> None:
    with fake_device(most=1_000_000) as name:
        result = segment_image(scan, device=name, **SETTINGS)
    for actual, desired in volume_pairs(result, expected):
        np.testing.assert_array_equal(actual, desired)
    assert result.manifest["settings"] == expected.manifest["settings"]
    told, *others = result.warnings
    assert told.startswith(f"The memory of {name} did not suffice") and others == expected.warnings


def test_the_space_inside_the_skull_is_found_on_a_gpu() -> None:
    places = torch.cartesian_prod(*[torch.arange(40.0)] * 3).reshape(1, 40, 40, 40, 3) - 20
    depth = (places.square().sum(-1) < 100).float()
    volume = torch.cat([torch.rand(depth.shape, generator=torch.Generator().manual_seed(0)), depth])
    with fake_device() as name:
        result = IntracranialSpace().infer(volume.to(name), _depth_as_logits).cpu()
    torch.testing.assert_close(result, IntracranialSpace().infer(volume, _depth_as_logits))
    assert result.max() > 0.9


def _depth_as_logits(pair: torch.Tensor) -> torch.Tensor:
    return 20 * pair[:, 1:] - 10


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("cuda:0", RuntimeError("expected scalar type Float")),
        ("cpu", torch.OutOfMemoryError("out of memory")),
        ("cuda:0", ValueError("out of memory")),
    ],
    ids=["another error", "the CPU itself", "not of torch"],
)
def test_other_errors_are_raised(device: str, error: Exception) -> None:
    bundle = SimpleNamespace(setting=lambda name: torch.device(device))

    def fail(task: Task, models: Models) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        on_cpu_if_memory_runs_out(fail, Task(), Models(bundle))  # type: ignore[arg-type]
    assert raised.value is error
