"""What "parzen" of `lmi.py` computes, compiled by numba for a CPU: for images in two dimensions, without a gradient.

Nearly the whole cost is one logarithm for every pair of bins, patch and shift. Here it comes from the bits of the
number and a polynomial, which a processor does for a vector of patches at once; bins that no pixel nearby touches are
left out; and every core takes its share of the image. Beside the weights of the target nothing is held but what fits
into the caches. Entropies agree with those of torch to about 1e-5.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float32]
Layout = tuple[int, int, int]

# Patches are worked on in tiles, as one long vector. Its length leaves no remainder in any vector unit, and the weights
# of a tile stay in a core's second-level cache. The narrower a tile, the fewer bins it touches.
LENGTH = 512
WIDTH = 32
# For fewer pixels another thread is not worth waking.
GRAIN = 4 * LENGTH
# A bin of a smaller share in every patch of a tile is worth less than 2e-6 nats.
NEGLIGIBLE = np.float32(1e-7)

# bits of a float32
EXPONENT, MANTISSA, ONE = np.int32(-0x00800000), np.int32(0x007FFFFF), np.int32(0x3F800000)
EXPONENT_UNIT = np.float32(2**-23)
# the polynomial nearest to log2 on [1, 2] in the maximum norm, 1.9e-6 off, from the highest power to the lowest
LOG2 = (-0.0256911194, 0.2751488883, -1.2669181136, 3.2865273475, -5.3419864240, 6.1129608358, -3.0400395684)
C6, C5, C4, C3, C2, C1, C0 = (np.float32(coefficient) for coefficient in LOG2)
NATS = np.float32(np.log(2))


def bin_weights(image: torch.Tensor, centres: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """Weights (B, bins, H, W) of the bins in every pixel of an image (B, 1, H, W), by the formula of `lmi.py` in place.

    In one thread: those of torch would go on to wait for work in a busy loop, and hold up the threads that follow.
    """
    result = image.new_empty((len(image), centres.shape[1], *image.shape[2:]))
    weights = result.numpy()
    np.subtract(image.detach().numpy(), centres.numpy(), out=weights)
    np.square(weights, out=weights)
    weights /= -2 * bandwidth**2
    weights -= weights.max(axis=1, keepdims=True)
    np.exp(np.maximum(weights, -20, out=weights), out=weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return result


def entropy(weights: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Entropy (B, 1, H, W), in nats, of the histogram of each patch; see `joint_entropy`."""
    one_bin = weights.new_ones((1, 1, *weights.shape[2:]))
    return joint_entropy(one_bin, weights, patch_size)


def joint_entropy(fixed: torch.Tensor, moving: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Entropy, in nats, of the joint histogram p(a, b) = mean over the pixels k of a patch of w_a(S_k) w_b(X_k).

    Args:
        fixed: weights (B or 1, bins, H + patch_size − 1, W + patch_size − 1), float32 on a CPU.
        moving: those of the other image; bins may differ in number.
        patch_size: side of the patches. As many threads work as torch may use.

    Returns:
        (B, 1, H, W).
    """
    batch = torch.broadcast_shapes(fixed.shape[:1], moving.shape[:1])
    entropies = moving.new_empty((*batch, 1, *(size - patch_size + 1 for size in moving.shape[2:])))
    pairs = zip(*(weights.expand(*batch, -1, -1, -1) for weights in (fixed, moving)), entropies, strict=True)
    taps = (0,) * patch_size  # the length of a tuple is part of its type: the loops over a patch get unrolled
    shares = max(1, min(torch.get_num_threads(), entropies[0].numel() // GRAIN))
    run = map if shares == 1 else _threads(os.getpid()).map
    for first, second, result in pairs:
        fill = functools.partial(_fill, *_memory(first), *_memory(second), taps, result[0].numpy(), shares)
        list(run(fill, range(shares)))
    return entropies


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """The threads of a process; a fork has to have its own. Those of numba wait in a busy loop, as torch's do."""
    return ThreadPoolExecutor(thread_name_prefix="lmi")


def _memory(weights: torch.Tensor) -> tuple[Array, Layout]:
    """The memory of (bins, H, W) as a vector; and the number of bins, the steps from bin to bin and from row to row.

    For all that a compiler knows of a window, its pixels lie apart; of a slice of a vector it knows that they do not.
    """
    if weights.stride(-1) != 1:
        weights = weights.contiguous()
    span = 1 + sum((size - 1) * step for size, step in zip(weights.shape, weights.stride(), strict=True))
    return weights.as_strided((span,), (1,)).numpy(), (len(weights), weights.stride(0), weights.stride(1))


@njit(cache=True, nogil=True)
def _fill(
    fixed: Array,
    fixed_layout: Layout,
    moving: Array,
    moving_layout: Layout,
    taps: tuple[int, ...],
    entropies: Array,
    shares: int,
    share: int,
) -> None:
    """Write one share of the joint entropies (H, W) of a pair of images, tile by tile; the tiles are dealt in turn."""
    height, width = entropies.shape
    across = -(-width // WIDTH)
    columns = -(-width // across)
    rows = LENGTH // (columns + len(taps) - 1)
    for tile in range(share, -(-height // rows) * across, shares):
        top, left = tile // across * rows, tile % across * columns
        part = entropies[top : top + rows, left : left + columns]
        pitch = part.shape[1] + len(taps) - 1
        first = _load(fixed, fixed_layout, top, left, part.shape[0], pitch, len(taps))
        second = _load(moving, moving_layout, top, left, part.shape[0], pitch, len(taps))
        first *= np.float32(1 / len(taps) ** 2)
        total = _sum_over_bins(first, second, pitch, taps)
        for y in range(part.shape[0]):
            for x in range(part.shape[1]):
                part[y, x] = -NATS * total[y * pitch + x]


@njit(cache=True)
def _load(flat: Array, layout: Layout, top: int, left: int, rows: int, pitch: int, patch_size: int) -> Array:
    """Weights (bins, pixels) of a tile with its margin, row after row, of those bins that the tile touches."""
    bins, plane, row = layout
    tile = np.zeros((bins, LENGTH + (patch_size - 1) * pitch), np.float32)
    used = 0
    for index in range(bins):
        touched = False
        for y in range(rows + patch_size - 1):
            start = index * plane + (top + y) * row + left
            source, goal = flat[start : start + pitch], tile[used, y * pitch : (y + 1) * pitch]
            for x in range(pitch):
                goal[x] = source[x]
                touched |= not (source[x] <= NEGLIGIBLE)  # so asked, NaN counts as well
        used += touched
    return tile[:used]


@njit(cache=True)
def _sum_over_bins(first: Array, second: Array, pitch: int, taps: tuple[int, ...]) -> Array:
    """Sum of p log2 p over all pairs of bins for the patches of a tile, each at its upper left corner (LENGTH,).

    At the end of each row, where a patch would reach over the margin, stands what means nothing.
    """
    total, sums = np.zeros(LENGTH, np.float32), np.zeros(LENGTH + len(taps) - 1, np.float32)
    for a in range(len(first)):
        for b in range(len(second)):
            _add(first[a], second[b], pitch, taps, sums, total)
    return total


@njit(cache=True, fastmath={"contract"})
def _add(first: Array, second: Array, pitch: int, taps: tuple[int, ...], sums: Array, total: Array) -> None:
    """Add the p log2 p of one pair of bins; `sums` is room for the sums over the rows of a patch."""
    for i in range(LENGTH):
        share = first[i] * second[i]
        for k in range(1, len(taps)):
            below = np.uint64(i + k * pitch)  # a signed index might count from the end, and no vector be loaded
            share += first[below] * second[below]
        sums[i] = share
    for i in range(LENGTH):
        share = sums[i]
        for k in range(1, len(taps)):
            share += sums[i + k]
        total[i] += _times_log2(share)


@njit(cache=True, fastmath={"contract"})
def _times_log2(share: np.float32) -> np.float32:
    """p log2 p: the exponent of p is the integer part of the logarithm, the mantissa m has the rest."""
    bits = np.float32(share).view(np.int32)
    exponent = np.float32((bits - ONE) & EXPONENT) * EXPONENT_UNIT
    m = np.int32((bits & MANTISSA) | ONE).view(np.float32)
    return share * (exponent + (C0 + m * (C1 + m * (C2 + m * (C3 + m * (C4 + m * (C5 + m * C6)))))))
