"""The detail branch of a segmenter: boundaries at full resolution from coarse probabilities and the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

MIN_PROBABILITY = 1e-4

MIN_CONTRAST = 0.05
"""Least difference between the means of two tissues."""

MAX_RELATIVE = 3.0
"""Largest absolute relative intensity."""

SLOPE = 0.1
"""Slope of the activation below 0."""


class DetailBranch(nn.Module):
    """Refine class probabilities of a coarse segmenter by the image at full resolution.

    The probabilities are squeezed to a few channels. Dilated residual convolutions see them beside the image and beside
    its intensities relative to the tissues around. Their output is added to the logarithm of the probabilities. It is 0
    before training. There is no normalisation layer, so the result of a block does not depend on its surroundings
    beyond `halo`.

    Args:
        classes: number of classes.
        squeezed: number of channels that the probabilities are squeezed to.
        features: number of features of each convolution.
        dilations: dilation of each residual convolution.

    Example:
        >>> branch = DetailBranch(classes=3, features=8)
        >>> probabilities = torch.rand(1, 3, 16, 16, 16).softmax(1)
        >>> branch(torch.rand(1, 1, 16, 16, 16), probabilities, torch.rand(1, 3, 16, 16, 16)).shape
        torch.Size([1, 3, 16, 16, 16])
    """

    def __init__(
        self, classes: int, squeezed: int = 16, features: int = 32, dilations: Sequence[int] = (1, 2, 1, 2)
    ) -> None:
        super().__init__()
        self.halo = 1 + sum(dilations)
        self.squeeze = nn.Conv3d(classes, squeezed, 1)
        self.stem = nn.Conv3d(3 + squeezed, features, 3, padding=1)
        self.residuals = nn.ModuleList(nn.Conv3d(features, features, 3, padding=d, dilation=d) for d in dilations)
        self.head = nn.Conv3d(features, classes, 1)
        self.sharpness = nn.Parameter(torch.ones(()))
        self._initialize()

    def _initialize(self) -> None:
        """Give all hidden features about unit variance (He et al., ICCV 2015), because no layer normalises them.

        With PyTorch's default they shrink from layer to layer, and the branch hardly learns.
        """
        for convolution in (self.squeeze, self.stem, *self.residuals):
            nn.init.kaiming_normal_(convolution.weight, a=SLOPE)
            nn.init.zeros_(convolution.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, image: torch.Tensor, probabilities: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            image: (B, 1, X, Y, Z) in [0, 1], 0 in the background.
            probabilities: (B, classes, X, Y, Z), interpolated from the coarse grid.
            means: (B, 3, X, Y, Z), intensities of white matter, grey matter and CSF, see `tissue_means`.

        Returns:
            Logits (B, classes, X, Y, Z). Those within `halo` voxels of a face of the block are not final, unless that
            face is the end of the volume.
        """
        relative = relative_intensities(image, means)
        inputs = torch.cat([4 * (image - 0.5), relative, self.squeeze(probabilities)], dim=1)
        hidden = F.leaky_relu(self.stem(inputs), SLOPE)
        for convolution in self.residuals:
            hidden = hidden + F.leaky_relu(convolution(hidden), SLOPE)
        coarse = probabilities.clamp(min=MIN_PROBABILITY).log()
        return self.sharpness * coarse + self.head(hidden)


def relative_intensities(image: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Express intensities relative to the tissues around, so that contrast and bias field cancel.

    Args:
        image: (B, 1, X, Y, Z).
        means: (B, 3, X, Y, Z), intensities of white matter, grey matter and CSF.

    Returns:
        (B, 2, X, Y, Z). The first channel is -1/2 in grey matter and 1/2 in white matter, the second -1/2 in CSF and
        1/2 in grey matter.

    Example:
        >>> means = torch.tensor([0.8, 0.5, 0.1]).reshape(1, 3, 1, 1, 1)
        >>> relative_intensities(torch.full((1, 1, 1, 1, 1), 0.65), means).flatten().round(decimals=3).tolist()
        [0.0, 0.875]
    """
    bright, dark = means[:, :2], means[:, 1:]
    relative = (image - (bright + dark) / 2) / (bright - dark).clamp(min=MIN_CONTRAST)
    return relative.clamp(-MAX_RELATIVE, MAX_RELATIVE)


class CoarseToFineSegmenter(nn.Module):
    """A segmenter of coarse slices and the branch that refines its probabilities, with one set of weights.

    Args:
        body: maps slices with their neighbours to logits, both at the coarse resolution.
        detail: refines interpolated probabilities by the image at full resolution.
    """

    def __init__(self, body: nn.Module, detail: nn.Module) -> None:
        super().__init__()
        self.body, self.detail = body, detail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the coarse logits of the body."""
        return self.body(x)
