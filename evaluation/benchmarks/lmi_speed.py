"""Measure time and memory of local mutual information, compared with the published algorithm.

    python -m benchmarks.lmi_speed

Each call computes the map of one image. As in sampling, `prepare` computes everything that depends only on the source
beforehand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.measure import milliseconds, peak_megabytes, publish
from torch.nn import functional as F

from midiff_monai.guidance import entropy_numba as lmi_numba  # noqa: F401  fails without numba, so that torch is not timed as numba
from midiff_monai.guidance.mutual_information import LocalMutualInformation

CASES = [(128, 3, 3), (64, 3, 3), (192, 3, 3), (128, 5, 3), (128, 3, 5)]
BINS, BANDWIDTH = 27, 8 / 255


def published(source: torch.Tensor, target: torch.Tensor, patch: int, search: int) -> torch.Tensor:
    """Compute the map by the formula of Wang et al., without the faults of their code, with full-size temporaries.

    For each shift, it computes the joint histogram of each pair of patches, its marginals and entropies.
    """
    size, reach = target.shape[2:], search // 2
    margin = patch // 2 + reach
    extended = F.pad(target, (margin,) * 4, mode="replicate")
    first = _bin_weights(F.pad(source, (patch // 2,) * 4, mode="replicate"), patch)
    maps = []
    for row, column in itertools.product(range(search), repeat=2):
        height, width = size[0] + patch - 1, size[1] + patch - 1
        second = _bin_weights(extended[..., row : row + height, column : column + width], patch)
        joint = torch.einsum("npa,npb->nab", first, second) / patch**2
        entropies = [torch.special.entr(p).flatten(1).sum(1) for p in (joint.sum(2), joint.sum(1), joint)]
        total = entropies[0] + entropies[1]
        maps.append((2 * (total - entropies[2]) / total.clamp(min=1e-6)).clamp(min=0))
    return torch.stack(maps).amax(0).reshape(1, 1, *size)


def _bin_weights(image: torch.Tensor, patch: int) -> torch.Tensor:
    """Compute Parzen weights (patches, pixels of a patch, bins)."""
    pixels = F.unfold(image, patch)[0].T
    kernel = torch.exp(-((pixels[..., None] - torch.linspace(0, 1, BINS)) ** 2) / (2 * BANDWIDTH**2))
    return kernel / kernel.sum(-1, keepdim=True)


def images(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a smooth source and a noisy target, (1, 1, side, side) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, side // 8, side // 8, generator=generator)
    smooth = F.interpolate(coarse, size=(side, side), mode="bilinear")
    return smooth, torch.rand(1, 1, side, side, generator=generator)


def rows() -> Iterator[dict[str, Any]]:
    """Yield one row per case and method."""
    for side, patch, search in CASES:
        source, target = images(side)
        with torch.inference_mode():
            plain = milliseconds(lambda: published(source, target, patch, search), 1)  # noqa: B023
            memory = peak_megabytes(lambda: published(source, target, patch, search))  # noqa: B023
        case = {"pixels": side**2, "patch": patch, "search": search}
        yield case | {"method": "published", "ms": plain, "MB": memory, "times faster": 1.0}
        for method, lmi in layers(patch, search).items():
            yield case | {"method": method} | measured(lmi, source, target, plain)


def layers(patch: int, search: int) -> dict[str, LocalMutualInformation]:
    """Return the layer with each estimator. Both rows of "parzen" use torch if a gradient is needed."""
    plain, compiled = (LocalMutualInformation(patch, search, "parzen") for _ in range(2))
    plain.estimator.use_numba = False
    return {
        "parzen (torch)": plain,
        "parzen (numba)": compiled,
        "renyi": LocalMutualInformation(patch, search, "renyi"),
    }


def measured(lmi: LocalMutualInformation, source: torch.Tensor, target: torch.Tensor, plain: float) -> dict[str, float]:
    """Measure time and memory of the map, and the time of the map with its gradient."""
    with torch.inference_mode():
        prepared = lmi.prepare(source)
        forward = milliseconds(lambda: lmi(prepared, target))
        memory = peak_megabytes(lambda: lmi(prepared, target))
    prepared, moving = lmi.prepare(source), target.clone().requires_grad_()
    both = milliseconds(lambda: torch.autograd.grad(lmi(prepared, moving).sum(), moving), 3)
    return {"ms": forward, "MB": memory, "times faster": plain / forward, "ms with gradient": both}


if __name__ == "__main__":
    publish("lmi_speed", rows())
