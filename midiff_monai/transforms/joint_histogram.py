"""Mutual information of a joint histogram. `guidance` has the local one, which is differentiable."""

from __future__ import annotations

from numpy import log2
from numpy.typing import NDArray


def mutual_information_bits(joint: NDArray) -> float:
    """Return the mutual information, in bits, of a joint distribution (A, B) that adds up to 1."""
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    found = joint > 0
    return float((joint[found] * log2(joint[found] / independent[found])).sum())
