"""What trains the segmenter of random contrasts, and that it is used with its own weights."""

from __future__ import annotations

from pathlib import Path

import methods
import numpy as np
import torch
from label_contrast import RandLabelContrastd

from midiff_monai.labels import MIRRORED
from midiff_monai.phantom import make_phantom
from midiff_monai.report import sha256
from midiff_monai.volumes import write_like

CLASSES = len(MIRRORED)


def painted(seed: int, noise: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """An image, and its labels in columns of a hundred voxels."""
    label = torch.arange(CLASSES, dtype=torch.uint8).reshape(1, -1, 1, 1).expand(1, -1, 10, 10)
    paint = RandLabelContrastd("image", "label", MIRRORED, noise=noise)
    paint.set_random_state(seed)
    return paint({"image": torch.zeros(label.shape), "label": label})["image"], label


def test_both_sides_of_a_structure_have_one_grey_value_and_outside_is_nothing() -> None:
    image, label = painted(0)
    values = image[0, :, 0, 0]
    assert torch.equal(values, values[list(MIRRORED)])
    assert not image[label == 0].any() and (values[1:] >= 0.05).all()
    assert len(values.unique()) == 1 + len({min(pair) for pair in list(enumerate(MIRRORED))[1:]})


def test_grey_values_fill_their_range_and_noise_differs_by_structure() -> None:
    values = torch.stack([painted(seed)[0][0, 1:, 0, 0] for seed in range(200)])
    np.testing.assert_allclose(values.mean(), 0.525, atol=0.02)
    np.testing.assert_allclose(values.std(), 0.95 / np.sqrt(12), atol=0.02)
    grain = painted(0, noise=0.1)[0] - painted(0)[0]
    deviations = grain[0, 1:].flatten(1).std(1)
    assert deviations.min() < 0.02 and 0.07 < deviations.max() < 0.12


def test_the_rival_is_used_with_its_own_weights_and_says_so(tmp_path: Path) -> None:
    phantom = make_phantom("PD").image
    write_like(np.asarray(phantom.dataobj)[..., ::4], phantom.slicer[..., ::4], tmp_path / "X_PD.nii.gz", np.float32)
    result = methods.randomised_contrast(tmp_path / "X_PD.nii.gz", tmp_path)
    assert result.report.weights == {"randomised_contrast": sha256(methods.RANDOMISED_CONTRAST)}
    assert result.segmentation is not None and len(np.unique(result.segmentation)) > 10
