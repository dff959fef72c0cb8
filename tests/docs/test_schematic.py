"""The schematic of the method."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import schematic


def made_up_pictures() -> schematic.Pictures:
    generator = np.random.default_rng(0)

    def picture() -> np.ndarray:
        return np.pad(generator.uniform(0.1, 1, (12, 16)), 3)

    steps = [
        schematic.Step(999, picture(), picture(), None, picture()),
        schematic.Step(499, picture(), picture(), picture(), picture()),
    ]
    labels = np.pad(np.full((12, 16), 3), 3)
    return schematic.Pictures(picture(), [picture() for _ in range(9)], steps, picture(), labels)


def test_equal_pictures_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.svg", "other.svg"):
        with matplotlib.rc_context(schematic.STYLE):
            schematic.save(schematic.draw(made_up_pictures().cropped()), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()
    assert b"date" not in (tmp_path / "one.svg").read_bytes().lower()


def test_pictures_are_cut_to_the_brain() -> None:
    cropped = made_up_pictures().cropped()
    assert cropped.source.shape == cropped.labels.shape == cropped.steps[1].estimate.shape == (14, 18)
