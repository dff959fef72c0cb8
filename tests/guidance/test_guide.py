"""The channels of the guide, against the layers that they are made of."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from small_inferers import images, make_guide

from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide
from midiff_monai.guidance.mutual_information import LocalMutualInformation, standardize_locally


@pytest.mark.parametrize("reduction", ["max", "none"])
@pytest.mark.parametrize("include_source", [True, False])
@pytest.mark.parametrize("standardize", [None, 5])
@pytest.mark.parametrize("context", [0, 1, 2])
def test_number_of_channels_is_that_of_channels(
    reduction: Literal["max", "none"], include_source: bool, standardize: int | None, context: int
) -> None:
    guide = make_guide(reduction, include_source=include_source, standardize=standardize)
    maps = guide(guide.prepare(torch.rand(2, 2 * context + 1, 8, 9)), torch.randn(2, 1, 8, 9))
    assert maps.shape == (2, guide.channels(context), 8, 9)
    assert maps.min() >= 0 and maps.max() <= 1


@pytest.mark.parametrize("reduction", ["max", "none"])
@pytest.mark.parametrize("standardize", [None, 7])
def test_channels_are_source_self_maps_and_cross_map(
    reduction: Literal["max", "none"], standardize: int | None
) -> None:
    clean, _, source = images()
    guide = make_guide(reduction, standardize=standardize)
    maps = guide(guide.prepare(source), clean)
    centre_slice = source[:, 1:2] if standardize is None else standardize_locally(source[:, 1:2], standardize)
    assert torch.equal(maps[:, :3], source)
    assert torch.equal(maps[:, 3:-3], LocalMutualInformation(reduction=reduction)(centre_slice, centre_slice))
    assert torch.equal(maps[:, -3:-2], LocalMutualInformation()(centre_slice, (clean + 1) / 2))
    assert not maps[:, -2:].any()


def test_last_channels_are_conditional_means_given_the_centre_slice() -> None:
    clean, noise, source = images()
    guide, means = make_guide(), ConditionalMean()
    maps = guide(guide.prepare(source), noise, estimate=clean)
    assert torch.equal(maps[:, -2:], means(means.prepare(source[:, 1:2]), clean))


def test_published_guide_is_two_maps() -> None:
    clean, _, source = images()
    lmi = LocalMutualInformation(estimator="parzen")
    guide = LMIGuide(lmi, include_source=False, standardize=None)
    expected = torch.cat([lmi(source[:, 1:2], source[:, 1:2]), lmi(source[:, 1:2], (clean + 1) / 2)], dim=1)
    assert torch.equal(guide(guide.prepare(source), clean), expected)
    assert guide.channels(context=1) == 2


def test_guide_does_not_modify_its_lmi_layer() -> None:
    lmi = LocalMutualInformation(reduction="none")
    LMIGuide(lmi, ConditionalMean())
    assert lmi.reduction == "none"
