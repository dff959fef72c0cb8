"""Measure how the time of a translation depends on pixels, slices, patch size, search size and steps.

    python -m benchmarks.scaling

Each block varies one parameter. Its first row is the same case in all blocks, and the ratios refer to that row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.measure import milliseconds, publish
from torch.nn import functional as F

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import TRANSLATION

CASE = {"side": 96, "slices": 8, "patch": 3, "search": 3, "steps": 2}
BLOCKS: dict[str, tuple[int, ...]] = {
    "side": (96, 48, 192),
    "slices": (8, 4, 16),
    "patch": (3, 1, 5),
    "search": (3, 1, 5),
    "steps": (2, 1, 4, 8),
}


def volume(side: int, slices: int) -> torch.Tensor:
    """Draw a smooth volume without background: (1, side, side, slices)."""
    coarse = torch.rand(1, 1, side // 8, side // 8, slices, generator=torch.Generator().manual_seed(0))
    return 0.1 + 0.9 * F.interpolate(coarse, size=(side, side, slices), mode="trilinear")[0]


def translation(side: int, slices: int, patch: int, search: int, steps: int) -> dict[str, float]:
    """Measure the time of a translation, and of its guide, in milliseconds.

    The network supports one search size only. For other sizes, only the guide is timed.
    """
    sizes = {"guide#lmi#patch_size": patch, "guide#lmi#search_size": search}
    bundle = open_bundle(TRANSLATION, steps=steps, **(sizes if search == CASE["search"] else {}))
    guide = open_bundle(TRANSLATION).parser
    guide.update(sizes)
    guide = guide.get_parsed_content("guide")
    image = volume(side, slices)
    source, noise = image.movedim(-1, 0), torch.randn(slices, 1, side, side)
    with torch.inference_mode():
        prepared = guide.prepare(source)
        once, each = milliseconds(lambda: guide.prepare(source), 3), milliseconds(lambda: guide(prepared, noise), 3)
    row = {"guide ms": once + steps * each}
    if search == CASE["search"]:
        row["total ms"] = milliseconds(lambda: bundle.infer(image), 2)
    return row


def rows() -> Iterator[dict[str, Any]]:
    """Yield one row per case."""
    for varied, values in BLOCKS.items():
        first: dict[str, float] = {}
        for value in values:
            case = CASE | {varied: value}
            times = translation(**case)
            first = first or times
            ratios = {name.replace("ms", "times"): time / first[name] for name, time in times.items()}
            yield {"varied": varied} | case | times | ratios


if __name__ == "__main__":
    publish("scaling", rows())
