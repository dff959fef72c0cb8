"""Slicing and restacking of volumes, against loops and identity networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.data import MetaTensor
from monai.data.utils import decollate_batch, list_data_collate
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from midiff_monai.inferers.slicewise import (
    SliceRunner,
    SlicewiseInferer,
    foreground_box,
    pad_to_multiple,
    stack_slices,
)

sparse_volumes = arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 1))
all_axes = pytest.mark.parametrize("axis", [0, 1, 2])


def blob(*shape: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """Volumes (batch, 1, *shape), with a border of one background voxel and intensities in (0, 1] inside."""
    generator = torch.Generator().manual_seed(seed)
    volume = torch.zeros(batch, 1, *shape)
    inside = volume[..., 1:-1, 1:-1, 1:-1]
    inside.copy_(1 - torch.rand(inside.shape, generator=generator))
    return volume


class Recorder(nn.Module):
    """Returns the centre channel, and records its input."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[torch.Tensor] = []

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        self.batches.append(slices)
        centre_slice = slices.shape[1] // 2
        return slices[:, centre_slice : centre_slice + 1]


@pytest.mark.parametrize("context", [0, 1, 2])
def test_stack_slices_equals_a_loop(context: int) -> None:
    volumes = torch.rand(2, 1, 3, 4, 5)
    expected = torch.empty(10, 2 * context + 1, 3, 4)
    for volume in range(2):
        for position in range(5):
            for channel, offset in enumerate(range(-context, context + 1)):
                neighbour = min(max(position + offset, 0), 4)
                expected[5 * volume + position, channel] = volumes[volume, 0, :, :, neighbour]
    assert torch.equal(stack_slices(volumes, context), expected)


@all_axes
@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_restacking_reproduces_the_volumes(axis: int, context: int, batch_size: int) -> None:
    volumes = blob(7, 9, 6, batch=2)
    volumes[0] = volumes[0].roll((1, -1, 1), dims=(1, 2, 3))
    inferer = SlicewiseInferer(context, axis, False, batch_size, multiple=4)
    assert torch.equal(inferer(volumes, Recorder()), volumes)


@given(voxels=sparse_volumes, axis=st.integers(0, 2), context=st.integers(0, 2), multiple=st.integers(1, 5))
def test_restacking_reproduces_any_volume(voxels: NDArray, axis: int, context: int, multiple: int) -> None:
    volumes = torch.from_numpy(voxels)[None, None].float()
    assert torch.equal(SlicewiseInferer(context, axis, False, 2, multiple)(volumes, Recorder()), volumes)


@all_axes
def test_network_receives_each_slice_with_its_neighbours(axis: int) -> None:
    volume, network = blob(8, 8, 8), Recorder()
    SlicewiseInferer(context=1, axis=axis, batch_size=4, multiple=2)(volume, network)
    slices = volume[0, 0].movedim(axis, 0)[:, 1:-1, 1:-1]  # a stack of slices, the first and the last empty
    for position, seen in enumerate(torch.cat(network.batches)):
        neighbours = [position, position + 1, position + 2]
        assert torch.equal(seen, slices[neighbours])


def asymmetric(slices: torch.Tensor, positions: torch.Tensor) -> Iterator[torch.Tensor]:
    """Two output channels that depend on the direction of every axis."""
    yield torch.cat([slices.cumsum(2), positions[:, None, None, None] * slices], dim=1)


@all_axes
def test_mirrored_views_are_mirrored_back_and_averaged(axis: int) -> None:
    volume = blob(6, 7, 5)[0]
    single = SliceRunner(axis=axis, multiple=1)
    straight, mirrored = (single.run(image, asymmetric) for image in (volume, volume.flip(1)))
    both = SliceRunner(axis=axis, mirror=True, multiple=1, mirrored_channels=[1, 0])
    torch.testing.assert_close(both.run(volume, asymmetric), (straight + mirrored.flip(1).flip(0)) / 2)


def pooled(slices: torch.Tensor) -> torch.Tensor:
    """A network that replaces every block of two by two pixels by its mean."""
    return F.interpolate(F.avg_pool2d(slices, 2), scale_factor=2)


@all_axes
@pytest.mark.parametrize("mirror", [False, True])
def test_shifted_views_are_shifted_back_and_averaged(axis: int, mirror: bool) -> None:
    volume = torch.rand(1, 1, 6, 8, 4) + 0.1
    expected = torch.zeros_like(volume)
    across, along = (other + 2 for other in range(3) if other != axis)
    for shift in (0, 1):
        moved = volume.roll((shift, shift), (across, along))
        means = SlicewiseInferer(axis=axis, mirror=mirror, multiple=2)(moved, pooled)
        expected += means.roll((-shift, -shift), (across, along)) / 2
    found = SlicewiseInferer(axis=axis, mirror=mirror, shifts=(0, 1), multiple=2)(volume, pooled)
    torch.testing.assert_close(found, expected)


@all_axes
def test_the_coarse_pass_is_the_first_view(axis: int) -> None:
    volume = torch.rand(1, 6, 8, 4) + 0.1
    coarse = SlicewiseInferer(axis=axis, mirror=True, shifts=(0, 1), multiple=2).infer(volume, pooled, coarse=True)
    assert torch.equal(coarse, SlicewiseInferer(axis=axis, multiple=2).infer(volume, pooled))


@all_axes
@pytest.mark.parametrize("shape", [(5, 7, 3), (9, 6, 11), (1, 2, 1)])
def test_every_view_restacks_the_volume(axis: int, shape: tuple[int, int, int]) -> None:
    """With padding, a box inside the volume, and empty slices."""
    volume = F.pad(torch.rand(1, 1, *shape) + 0.1, (2, 1, 0, 3, 1, 0))
    inferer = SlicewiseInferer(axis=axis, mirror=True, shifts=(0, 1, -2), batch_size=3, multiple=4)
    torch.testing.assert_close(inferer(volume, Recorder()), volume)


@all_axes
def test_views_treat_left_and_right_alike(axis: int) -> None:
    inferer = SlicewiseInferer(axis=axis, mirror=True, shifts=(0, 1), multiple=2)
    volume = torch.rand(1, 1, 6, 8, 4) + 0.1
    torch.testing.assert_close(inferer(volume.flip(2), pooled).flip(2), inferer(volume, pooled))


def test_batch_size_limits_the_batches() -> None:
    network = Recorder()
    SlicewiseInferer(batch_size=4)(blob(5, 5, 11), network)
    assert [len(batch) for batch in network.batches] == [4, 4, 1]


def test_outputs_are_placed_at_the_positions_in_the_volume() -> None:
    def predict(slices: torch.Tensor, positions: torch.Tensor) -> Iterator[torch.Tensor]:
        for batch in positions.split(2):
            yield batch[:, None, None, None].expand(-1, 1, *slices.shape[2:]).float()

    volume = torch.zeros(1, 4, 4, 9)
    volume[..., 3] = volume[..., 4] = volume[..., 7] = 1
    result = SliceRunner(multiple=4, background=-1.0).run(volume, predict)
    assert result[0, 0, 0].tolist() == [-1, -1, -1, 3, 4, -1, -1, 7, -1]


@all_axes
def test_skipped_voxels_get_the_background_of_each_channel(axis: int) -> None:
    volume = torch.zeros(1, 1, 8, 8, 8)
    volume[0, 0, 2:6, 2:6, 2:6] = 1
    volume.movedim(axis + 2, 0)[4] = 0  # an empty slice between filled slices
    volume[0, 0, 3, 3, 3] = 0  # an empty voxel between filled voxels
    inferer = SlicewiseInferer(axis=axis, multiple=4, background=[20.0, -3.0, 0.0])
    result = inferer(volume, lambda slices: torch.full((len(slices), 3, *slices.shape[2:]), 7.0))
    computed = volume[0, 0] > 0
    for channel, background in zip(result[0], [20.0, -3.0, 0.0], strict=True):
        assert torch.equal(channel, torch.where(computed, 7.0, background))


@all_axes
@pytest.mark.parametrize("shape", [(3, 2, 5), (1, 1, 1), (17, 3, 18)])
def test_sizes_below_the_multiple_are_padded_with_zeros(axis: int, shape: tuple[int, int, int]) -> None:
    volume, network = torch.rand(1, 1, *shape) + 0.1, Recorder()
    assert torch.equal(SlicewiseInferer(axis=axis, multiple=16)(volume, network), volume)
    height, width = volume[0, 0].movedim(axis, -1).shape[:2]
    for batch in network.batches:
        assert all(side % 16 == 0 for side in batch.shape[2:])
        assert not batch[..., height:, :].any() and not batch[..., width:].any()


def test_empty_volume_is_background_and_never_reaches_the_network() -> None:
    network = Recorder()
    result = SlicewiseInferer(background=[5.0, 0.0])(torch.zeros(1, 1, 4, 5, 6), network)
    assert not network.batches
    assert result.shape == (1, 2, 4, 5, 6)
    assert (result[:, 0] == 5).all() and (result[:, 1] == 0).all()


def test_empty_volume_beside_a_filled_one() -> None:
    volumes = torch.cat([torch.zeros(1, 1, 5, 5, 5), blob(5, 5, 5)])
    result = SlicewiseInferer(multiple=1)(volumes, lambda slices: slices.repeat(1, 2, 1, 1))
    assert torch.equal(result, volumes.repeat(1, 2, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_output_is_float32_for_any_dtype_of_the_network(dtype: torch.dtype) -> None:
    volume = (blob(5, 5, 5) * 8).round() / 8
    result = SlicewiseInferer()(volume, lambda slices: slices.to(dtype))
    assert result.dtype == torch.float32
    assert torch.equal(result, volume)


def test_grid_of_a_meta_tensor_is_kept() -> None:
    affines = [torch.diag(torch.tensor(steps)) for steps in ([0.9, 1.2, 3.0, 1.0], [-1.0, 1.0, 2.0, 1.0])]
    affines[0][:3, 3] = torch.tensor([5.0, -70.0, 12.5])
    volumes = [MetaTensor(blob(4, 5, 6, seed=seed)[0], affine=affine) for seed, affine in enumerate(affines)]
    result = SlicewiseInferer(axis=1)(list_data_collate(volumes), Recorder())
    for restacked, volume in zip(decollate_batch(result), volumes, strict=True):
        assert isinstance(restacked, MetaTensor)
        np.testing.assert_array_equal(restacked.affine, volume.affine)
        np.testing.assert_array_equal(restacked, volume)


def test_a_plain_tensor_gives_a_plain_tensor() -> None:
    assert type(SlicewiseInferer()(blob(4, 4, 4), Recorder())) is torch.Tensor


@given(voxels=sparse_volumes, multiple=st.integers(1, 6))
def test_foreground_box_is_tight_and_contains_the_foreground(voxels: NDArray, multiple: int) -> None:
    box = foreground_box(torch.from_numpy(voxels), multiple)
    assert voxels[box].sum() == voxels.sum()
    for axis, side in enumerate(box):
        extent, size = side.stop - side.start, voxels.shape[axis]
        assert 0 <= side.start <= side.stop <= size
        filled = np.flatnonzero(voxels.any(axis=tuple({0, 1, 2} - {axis})))
        needed = filled[-1] - filled[0] + 1 if len(filled) else 0
        if axis == 2:
            assert extent == needed
        else:
            assert extent % multiple == 0 or extent == size
            assert extent - needed < multiple


@pytest.mark.parametrize(("shape", "padded"), [((5, 8, 3), (8, 8, 3)), ((4, 4, 4), (8, 8, 4)), ((1, 9, 2), (8, 12, 2))])
def test_pad_to_multiple_adds_zeros_at_the_ends(shape: tuple[int, ...], padded: tuple[int, ...]) -> None:
    volume = torch.rand(1, *shape) + 1
    result = pad_to_multiple(volume, 4)
    assert result.shape == (1, *padded)
    assert torch.equal(result[:, : shape[0], : shape[1]], volume)
    assert result.count_nonzero() == volume.numel()


def test_small_volumes_are_large_enough_for_instance_norm_in_the_deepest_layer() -> None:
    layers = torch.nn.AvgPool2d(16), torch.nn.InstanceNorm2d(1), torch.nn.Upsample(scale_factor=16)
    found = SlicewiseInferer(multiple=16)(torch.rand(1, 1, 5, 7, 2) + 0.1, torch.nn.Sequential(*layers))
    assert found.shape == (1, 1, 5, 7, 2) and found.isfinite().all()
