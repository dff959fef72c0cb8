"""Measure the time of sampling, compared with MONAI's inferer, and the share of the guide.

    python -m benchmarks.sampler_speed

One batch has all slices of a small volume. The network is that of the bundle, without test-time augmentation. MONAI's
inferer gets the same channels. They are computed once from pure noise, because it cannot update them in each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from benchmarks.measure import milliseconds, publish
from benchmarks.scaling import volume
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import TRANSLATION

SIDE, SLICES = 96, 8
STOCK = {"MONAI, DDIM": (DDIMScheduler, 50), "MONAI, DDPM": (DDPMScheduler, 1000)}


def rows() -> Iterator[dict[str, Any]]:
    """Yield one row per sampler."""
    bundle = open_bundle(TRANSLATION)
    network, inferer = bundle.setting("network"), bundle.setting("inferer").inferer
    neighbours = [[max(z - 1, 0), z, min(z + 1, SLICES - 1)] for z in range(SLICES)]
    source = volume(SIDE, SLICES)[0][..., neighbours].permute(2, 3, 0, 1)
    noise = torch.randn(SLICES, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        prepared = inferer.guide.prepare(source, same_volume=True)
        channels = inferer.guide(prepared, noise, 0.0)
        inferer.scheduler.set_timesteps(bundle.setting("steps"))
        settings: dict[str, Any] = {"source": source, "same_volume": True, "verbose": False}
        ours = milliseconds(lambda: inferer.sample(noise, network, **settings))
        before = milliseconds(lambda: inferer.guide.prepare(source, same_volume=True))
        each = milliseconds(lambda: inferer.guide(prepared, noise, 1.0, noise))
        yield row("ours", bundle.setting("steps"), ours) | {"guide once, ms": before, "guide a step, ms": each}
        for name, (scheduler, steps) in STOCK.items():
            stock = DiffusionInferer(scheduler(prediction_type="sample"))
            stock.scheduler.set_timesteps(steps)
            settings = {"conditioning": channels, "mode": "concat", "verbose": False}
            yield row(name, steps, milliseconds(lambda: stock.sample(noise, network, **settings), 1))  # noqa: B023


def row(name: str, steps: int, total: float) -> dict[str, Any]:
    """Format the row of a sampler that took `total` milliseconds."""
    return {"sampler": name, "steps": steps, "slices": SLICES, "total ms": total, "ms a step": total / steps}


if __name__ == "__main__":
    publish("sampler_speed", rows())
