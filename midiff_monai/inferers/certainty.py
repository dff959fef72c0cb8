"""How certain a segmentation is: probability and entropy of each voxel."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch


def at_temperature(probabilities: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divide the logits of class probabilities by a temperature: p^(1/T), normalised (Guo et al., ICML 2017).

    The order of the classes does not change. A temperature above 1 makes a confident network less confident.

    Args:
        probabilities: (C, …), in [0, 1], not all 0. They may add up to less than 1.
        temperature: above 0.

    Returns:
        (C, …), adding up to 1.

    Example:
        >>> at_temperature(torch.tensor([0.9, 0.1]), 2.0)
        tensor([0.7500, 0.2500])
    """
    scaled = (probabilities / probabilities.amax(dim=0)) ** (1 / temperature)
    return scaled / scaled.sum(dim=0)


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
        temperature: that of the probabilities, see `at_temperature`.

    Attributes:
        probability: (X, Y, Z), the probability of the label of each voxel; 0 without a label.
        entropy: (X, Y, Z), the `normalized_entropy` of the probabilities; 0 without a label.
    """

    def __init__(self, foreground: torch.Tensor, temperature: float) -> None:
        self.foreground, self.temperature = foreground, temperature
        self.probability, self.entropy = torch.zeros(foreground.shape), torch.zeros(foreground.shape)

    def __call__(self, window: Sequence[slice], known: torch.Tensor, probabilities: torch.Tensor) -> None:
        """Keep what the probabilities of a part of the volume say, as an `Observer`."""
        window = tuple(window)
        labelled = self.foreground[window][known] & (probabilities.argmax(dim=0) > 0)
        scaled = at_temperature(probabilities[:, labelled], self.temperature)
        where = torch.zeros_like(known).masked_scatter(known, labelled)
        self.probability[window][where] = scaled.amax(dim=0)
        self.entropy[window][where] = normalized_entropy(scaled)
