"""Parzen-window entropies of `entropy.py`, compiled by numba for CPUs: two-dimensional images, without gradients.

The cost is almost entirely one logarithm for every pair of bins, patch and shift. Here it is computed from the bits of
the number and a polynomial, for a vector of patches at once. Bins that no pixel of a tile touches are skipped. The
tiles of an image are distributed over all cores. Intermediate results fit into the caches. The entropies agree with
those of torch to about 1e-5.
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

# The patches of a tile form one vector of TILE_LENGTH values. This length is a multiple of every vector unit, and the
# weights of a tile fit into a core's second-level cache. A narrower tile touches fewer bins.
TILE_LENGTH = 512
TILE_WIDTH = 32
# With fewer pixels per thread, starting the thread takes longer than the pixels do.
PIXELS_PER_THREAD = 4 * TILE_LENGTH
# A bin with a smaller weight in every pixel of a tile contributes less than 2e-6 nats.
NEGLIGIBLE_WEIGHT = np.float32(1e-7)

# bits of a float32
EXPONENT, MANTISSA, ONE = np.int32(-0x00800000), np.int32(0x007FFFFF), np.int32(0x3F800000)
EXPONENT_UNIT = np.float32(2**-23)
# minimax polynomial of log2 on [1, 2], highest power first; its largest error is 1.9e-6
LOG2 = (-0.0256911194, 0.2751488883, -1.2669181136, 3.2865273475, -5.3419864240, 6.1129608358, -3.0400395684)
C6, C5, C4, C3, C2, C1, C0 = (np.float32(coefficient) for coefficient in LOG2)
NATS = np.float32(np.log(2))


def bin_weights(image: torch.Tensor, centres: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """Parzen weights (B, bins, H, W) of an image (B, 1, H, W), as in `entropy.ParzenEntropy`.

    One thread computes them. The threads of torch would afterwards wait in a busy loop and slow down `joint_entropy`.
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
    """Entropy (B, 1, H, W), in nats, of the histogram of each patch, from bin weights as in `joint_entropy`."""
    one_bin = weights.new_ones((1, 1, *weights.shape[2:]))
    return joint_entropy(one_bin, weights, patch_size)


def joint_entropy(fixed: torch.Tensor, moving: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Entropy, in nats, of the joint histogram p(a, b) = mean over the pixels k of a patch of w_a(S_k) w_b(X_k).

    It uses as many threads as torch may use.

    Args:
        fixed: weights (B or 1, bins, H + patch_size − 1, W + patch_size − 1), float32 on a CPU.
        moving: weights of the other image; the number of bins may differ.
        patch_size: side of the patches, in pixels.

    Returns:
        (B, 1, H, W).
    """
    batch = torch.broadcast_shapes(fixed.shape[:1], moving.shape[:1])
    entropies = moving.new_empty((*batch, 1, *(size - patch_size + 1 for size in moving.shape[2:])))
    pairs = zip(*(weights.expand(*batch, -1, -1, -1) for weights in (fixed, moving)), entropies, strict=True)
    # the length of a tuple is part of its type, so the compiler unrolls the loops over a patch
    taps = (0,) * patch_size
    workers = max(1, min(torch.get_num_threads(), entropies[0].numel() // PIXELS_PER_THREAD))
    run = map if workers == 1 else _threads(os.getpid()).map
    for first, second, result in pairs:
        fill = functools.partial(_fill, *_flat_view(first), *_flat_view(second), taps, result[0].numpy(), workers)
        list(run(fill, range(workers)))
    return entropies


@functools.cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Thread pool of a process. A forked process needs its own. The threads of numba would wait in a busy loop."""
    return ThreadPoolExecutor(thread_name_prefix="lmi")


def _flat_view(weights: torch.Tensor) -> tuple[Array, Layout]:
    """View (bins, H, W) as a flat vector, with the number of bins and the strides of bins and rows.

    The compiler vectorises slices of a contiguous vector. It cannot assume that the pixels of a strided array are
    adjacent.
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
    workers: int,
    worker: int,
) -> None:
    """Write the joint entropies (H, W) of every `workers`-th tile of a pair of images, from the tile `worker` on."""
    height, width = entropies.shape
    across = -(-width // TILE_WIDTH)
    columns = -(-width // across)
    rows = TILE_LENGTH // (columns + len(taps) - 1)
    for tile in range(worker, -(-height // rows) * across, workers):
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
    """Weights (bins, pixels) of a tile and its margin, row by row, for the bins that the tile touches."""
    bins, plane, row = layout
    tile = np.zeros((bins, TILE_LENGTH + (patch_size - 1) * pitch), np.float32)
    used = 0
    for index in range(bins):
        touched = False
        for y in range(rows + patch_size - 1):
            start = index * plane + (top + y) * row + left
            source, target = flat[start : start + pitch], tile[used, y * pitch : (y + 1) * pitch]
            for x in range(pitch):
                target[x] = source[x]
                touched |= not (source[x] <= NEGLIGIBLE_WEIGHT)  # unlike `>`, this is true for NaN
        used += touched
    return tile[:used]


@njit(cache=True)
def _sum_over_bins(first: Array, second: Array, pitch: int, taps: tuple[int, ...]) -> Array:
    """Sum (TILE_LENGTH,) of p log2 p over all pairs of bins, for each patch at its upper left corner.

    The values at the end of each row, where a patch would cross the margin, are meaningless.
    """
    total, sums = np.zeros(TILE_LENGTH, np.float32), np.zeros(TILE_LENGTH + len(taps) - 1, np.float32)
    for a in range(len(first)):
        for b in range(len(second)):
            _add(first[a], second[b], pitch, taps, sums, total)
    return total


@njit(cache=True, fastmath={"contract"})
def _add(first: Array, second: Array, pitch: int, taps: tuple[int, ...], sums: Array, total: Array) -> None:
    """Add p log2 p of one pair of bins to `total`; `sums` is a buffer for the sums over the rows of a patch."""
    for i in range(TILE_LENGTH):
        p = first[i] * second[i]
        for k in range(1, len(taps)):
            below = np.uint64(i + k * pitch)  # a signed index may count from the end, which prevents vector loads
            p += first[below] * second[below]
        sums[i] = p
    for i in range(TILE_LENGTH):
        p = sums[i]
        for k in range(1, len(taps)):
            p += sums[i + k]
        total[i] += _times_log2(p)


@njit(cache=True, fastmath={"contract"})
def _times_log2(p: np.float32) -> np.float32:
    """p log2 p. The exponent of p is the integer part of log2 p; a polynomial of the mantissa m gives the rest."""
    bits = np.float32(p).view(np.int32)
    exponent = np.float32((bits - ONE) & EXPONENT) * EXPONENT_UNIT
    m = np.int32((bits & MANTISSA) | ONE).view(np.float32)
    return p * (exponent + (C0 + m * (C1 + m * (C2 + m * (C3 + m * (C4 + m * (C5 + m * C6)))))))
