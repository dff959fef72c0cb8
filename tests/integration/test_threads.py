"""Nearly the same voxels for any number of threads, so that workers of a batch give what a single run gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midiff_monai import segment_image
from midiff_monai.evaluation.phantom import make_phantom


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_voxels_hardly_depend_on_the_number_of_threads(precision: str) -> None:
    image = make_phantom("PD").image.slicer[::2, ::2, 30:35]  # type: ignore[arg-type]
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        result = segment_image(image, precision=precision, keep_models=True)
        assert result.synthetic is not None and result.segmentation is not None
        found.append([np.asarray(volume.dataobj) for volume in (result.synthetic, result.segmentation)])
    (one, one_labels), (other, other_labels) = found
    np.testing.assert_allclose(one, other, atol=1e-5)  # sums in another order
    assert (one_labels != other_labels).mean() < 1e-3
