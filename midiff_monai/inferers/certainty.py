"""How certain a segmentation is: probability and entropy of each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

import torch

MEAN = 0.88
"""About the mean probability of the labels of a scan at 1 mm."""

LARGEST_LOG = 0.7
"""Temperatures lie between 0.5 and 2, as in the scans that calibrations were fitted to."""


class ConfidenceCalibration:
    """Calibrates the probability of the label of each voxel by the mean probability of all labels of a scan.

    The logit of a probability is divided by a temperature (Guo et al., ICML 2017), with the label against all other
    classes. One temperature for all scans is not enough: a network that is sure of a scan is too modest about it, and
    one that is unsure is too bold. The logarithm of the temperature is thus a linear function of the mean.

    Args:
        intercept: logarithm of the temperature at a mean probability of `MEAN`.
        slope: its change by a mean that is higher by 1.

    Example:
        >>> ConfidenceCalibration(intercept=0.0, slope=-10.0)(torch.tensor([0.0, 0.8, 1.0])).round(decimals=2)
        tensor([0.0000, 0.8400, 1.0000])
    """

    def __init__(self, intercept: float, slope: float) -> None:
        self.intercept, self.slope = intercept, slope

    def __call__(self, probability: torch.Tensor) -> torch.Tensor:
        """Calibrate the probabilities (X, Y, Z) of the labels of a scan, in [0, 1]; 0, which is no label, stays."""
        labelled = probability > 0
        if not labelled.any():
            return probability
        temperature = self.temperature(float(probability[labelled].mean()))
        return torch.where(labelled, at_temperature(probability, temperature), probability)

    def temperature(self, mean: float) -> float:
        """The temperature of a scan whose labels have this mean probability."""
        return exp(min(max(self.intercept + self.slope * (mean - MEAN), -LARGEST_LOG), LARGEST_LOG))


def at_temperature(probability: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide the logits of probabilities (…) in [0, 1] by a temperature.

    Example:
        >>> at_temperature(torch.tensor([0.9, 0.5]), 2.0)
        tensor([0.7500, 0.5000])
    """
    return (torch.logit(probability) / temperature).sigmoid()


def normalized_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the entropy (…) of class probabilities (C, …), in [0, 1]: 1 if all classes are equally probable.

    Example:
        >>> normalized_entropy(torch.tensor([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]]))
        tensor([0., 1.])
    """
    return torch.special.entr(probabilities).sum(dim=0) / log(len(probabilities))


class Certainty:
    """Collects probability and entropy of the labels of a volume while its voxels are labelled, see `Observer`.

    Background has neither: it is chosen by masks as well, such as that of the largest component, and its probabilities
    say nothing there.

    Args:
        foreground: (X, Y, Z). Nothing is labelled outside.

    Attributes:
        probability: (X, Y, Z), the probability of the label of each voxel; 0 without a label.
        entropy: (X, Y, Z), the `normalized_entropy` of the probabilities; 0 without a label.
    """

    def __init__(self, foreground: torch.Tensor) -> None:
        self.foreground = foreground
        self.probability, self.entropy = torch.zeros(foreground.shape), torch.zeros(foreground.shape)

    def __call__(self, window: Sequence[slice], known: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Keep what the probabilities of a part of the volume say, as an `Observer`."""
        window = tuple(window)
        labelled = self.foreground[window][known] & (probabilities.argmax(dim=0) > 0)
        shares = probabilities[:, labelled] / probabilities[:, labelled].sum(dim=0)
        where = torch.zeros_like(known).masked_scatter(known, labelled)
        self.probability[window][where] = shares.amax(dim=0)
        self.entropy[window][where] = normalized_entropy(shares)
