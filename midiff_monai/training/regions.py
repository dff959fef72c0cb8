"""The codes of a region map, which the label transforms write and the contrast randomisation reads."""

from __future__ import annotations

from enum import IntEnum


class Region(IntEnum):
    """Values of a region map (1, X, Y, Z).

    `BrainMaskd` writes OUTSIDE and BRAIN. `LabelBoundaryd` adds VENTRICLE_BOUNDARY, and `LabelStructuresd` adds the
    structures. Structure number n, counted from 0, has the value FIRST_STRUCTURE + n.
    """

    OUTSIDE = 0
    BRAIN = 1
    VENTRICLE_BOUNDARY = 2
    FIRST_STRUCTURE = 3
