"""The recorded denoising steps are those of the bundle."""

from __future__ import annotations

from typing import Any

import torch
from phantom_figures import record

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import TRANSLATION


def test_every_step_is_recorded() -> None:
    slices = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    single: dict[str, Any] = {"inferer::mirror": False}
    translation = open_bundle(TRANSLATION, steps=4, **single)
    taken = record(translation, slices)
    assert taken.levels == [999, 749, 499, 249]
    assert len(taken.noisy) == len(taken.guide) == len(taken.clean) == 4
    made = translation.setting("inferer").sample_slices(slices, torch.arange(2), translation.setting("network"))
    torch.testing.assert_close(taken.clean[-1], made, rtol=1e-4, atol=1e-4)
