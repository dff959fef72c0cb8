"""The layers of the interactive viewer: what it can draw over a scan, and in which colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import ImageColor

from midiff_monai.labels import LESIONS, STRUCTURES, Structure
from midiff_monai.parcels import PARCELS

LAST_LEVEL = 255
"""The viewer's volumes are bytes."""


@dataclass(frozen=True)
class Layer:
    """A volume of the results that the viewer draws over the source or the synthetic T1w: labels or numbers.

    Zero is transparent: it stands for the background, or for no number.

    Attributes:
        role: its role in `midiff_monai.io.outputs.OutputPaths`.
        title: its name on the page.
        opacity: its opacity when it is chosen, in [0, 1].
        labels: of a label map or a mask, all labels but the background.
        colours: of a map of numbers, "#rrggbb" at equal distances from 0 to `high`. Numbers between them have
            interpolated colours.
        high: the number that has the last colour. Larger numbers have it too.
    """

    role: str
    title: str
    opacity: float
    labels: Sequence[Structure] = ()
    colours: Sequence[str] = ()
    high: float = LAST_LEVEL

    def lookup(self) -> dict[str, list[Any]]:
        """Return NiiVue's table of colours: red, green, blue and opacity, 0 to 255, by level; names of labels."""
        if self.labels:
            rgba = [(0, 0, 0, 0), *((*label.colour, 255) for label in self.labels)]
            names = [STRUCTURES[0].name, *(label.name for label in self.labels)]
            return _channels(rgba) | {"I": [0, *(label.id for label in self.labels)], "labels": names}
        steps = len(self.colours) - 1
        # NiiVue's slices do not show degrees of opacity: every level above 0 is opaque
        rgba = [(*ImageColor.getrgb(colour), 255 if step else 0) for step, colour in enumerate(self.colours)]
        return _channels(rgba) | {"I": [LAST_LEVEL * step // steps for step in range(steps + 1)]}


def _channels(rgba: Sequence[tuple[int, ...]]) -> dict[str, list[Any]]:
    return {name: list(channel) for name, channel in zip("RGBA", zip(*rgba, strict=True), strict=True)}


UNCERTAIN = ("#0d0887", "#7e03a8", "#cc4778", "#f89540", "#f0f921")
"""From blue by purple to yellow, Matplotlib's "plasma": what is uncertain is conspicuous."""

LAYERS = (
    Layer("segmentation", "segmentation", 0.4, labels=(*STRUCTURES[1:], LESIONS)),
    Layer("parcels", "parcels", 0.4, labels=PARCELS),
    Layer("intracranial", "intracranial mask", 0.3, labels=(Structure(1, "Intracranial", (0, 200, 255)),)),
    Layer("probability", "probability", 0.6, colours=UNCERTAIN[::-1], high=1),
    Layer("entropy", "entropy", 0.6, colours=UNCERTAIN, high=0.4),
    Layer("synthetic_error", "expected error", 0.6, colours=UNCERTAIN, high=0.15),
)
"""The layers, in the order in which the page offers them. It shows the first one that a scan has.

Two equally probable labels have an entropy of 0.20. Nearly all voxels of a brain have an expected error below 0.15.
"""
