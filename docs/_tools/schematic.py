"""The schematic of the method: every picture in it comes from a run on the template phantom.

python docs/_tools/schematic.py docs/method.svg
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as MplPath
from numpy.typing import NDArray

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.labels import STRUCTURES
from midiff_monai.pipeline.run import segment

CONTRAST = "PD"
HEIGHT = 0.46
"""Where the axial slice lies, as a share of the volume's height: through the lateral ventricles."""

SIZE = (10.0, 4.55)
INK, FAINT, ACCENT, TINT = "#22303c", "#7b8794", "#b2452f", "#eef2f6"
T1_WINDOW: dict[str, Any] = {"vmin": 0.0, "vmax": 0.8}

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "text.color": INK,
    "svg.hashsalt": "midiff",
    "svg.fonttype": "path",
    "mathtext.fontset": "dejavusans",
}


@dataclass
class Step:
    """What the network receives and returns in one denoising step: slices (X, Y) as they are shown.

    Attributes:
        timestep: t, from 999 (noise) to 0.
        noisy: the noisy T1w.
        guide: LMI of the source with the noisy T1w.
        mean: conditional mean of the previous estimate, given the source; None in the first step.
        estimate: the predicted T1w.
    """

    timestep: int
    noisy: NDArray
    guide: NDArray
    mean: NDArray | None
    estimate: NDArray


@dataclass
class Pictures:
    """The slices of the schematic, each (X, Y), front up and the patient's left on the right.

    Attributes:
        source: the phantom.
        self_maps: one LMI map of the source with itself for every shift.
        steps: the denoising steps, in order.
        synthetic: the synthetic T1w.
        labels: FreeSurfer ids.
    """

    source: NDArray
    self_maps: list[NDArray]
    steps: list[Step]
    synthetic: NDArray
    labels: NDArray

    def cropped(self) -> Pictures:
        """The same pictures, cut to the box of the brain."""
        native, coarse = _box_of(self.source > 0), _box_of(self.self_maps[4] > 0)
        steps = [
            Step(
                step.timestep,
                step.noisy[coarse],
                step.guide[coarse],
                None if step.mean is None else step.mean[coarse],
                step.estimate[coarse],
            )
            for step in self.steps
        ]
        self_maps = [picture[coarse] for picture in self.self_maps]
        return Pictures(self.source[native], self_maps, steps, self.synthetic[native], self.labels[native])


def _box_of(mask: NDArray) -> tuple[slice, slice]:
    """The smallest box (X, Y) that holds a mask, a pixel wider."""
    ends = [np.flatnonzero(mask.any(axis=other)) for other in (1, 0)]
    first, second = (slice(max(0, found[0] - 1), found[-1] + 2) for found in ends)
    return first, second


def run_on_phantom() -> Pictures:
    """Translate and segment the phantom, and record every step for one slice."""
    image = make_phantom(CONTRAST).image
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"phantom_{CONTRAST}.nii.gz"
        nib.save(image, path)
        result = segment([path], folder)[0]
    assert result.synthetic is not None and result.segmentation is not None
    native = [_native_slice(volume) for volume in (np.asarray(image.dataobj), result.synthetic, result.segmentation)]
    self_maps, steps = _record_steps(image)
    return Pictures(native[0], self_maps, steps, native[1], native[2])


def _native_slice(volume: NDArray) -> NDArray:
    """The axial slice of a volume whose first axis runs to the patient's left."""
    return volume[:, :, int(HEIGHT * volume.shape[2])]


def _record_steps(image: nib.Nifti1Image) -> tuple[list[NDArray], list[Step]]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "evaluation"))
    from phantom_figures import TRANSLATION, _slab, _volume, open_bundle, record

    single_view: dict[str, Any] = {"inferer::mirror": False}
    bundle = open_bundle(TRANSLATION, **single_view)
    conformed = bundle.conform(_volume(image))
    slices, centre = _slab(conformed, bundle.setting("context"), 2)
    inputs: list[torch.Tensor] = []
    hook = bundle.setting("network").register_forward_pre_hook(lambda _, given: inputs.append(given[0][centre]))
    recording = record(bundle, slices)
    hook.remove()
    assert recording.source is not None
    inside = recording.source[centre, 0] > 0

    def shown(picture: torch.Tensor) -> NDArray:
        return np.flip((picture * inside).float().numpy(), axis=0)  # from RAS to the patient's left on the right

    context, alphas = bundle.setting("context"), bundle.setting("scheduler").alphas_cumprod
    self_maps = [shown(channel) for channel in inputs[0][2 * context + 2 : -3]]
    steps = [
        Step(
            level,
            shown((noisy[centre, 0] / alphas[level].sqrt() + 1) / 2),  # the network receives both times √ᾱ
            shown(guide[centre, 0] / alphas[level].sqrt()),
            None if index == 0 else shown((given[-2] + 1) / 2),
            shown((clean[centre, 0] + 1) / 2),
        )
        for index, (level, noisy, guide, given, clean) in enumerate(
            zip(recording.levels, recording.noisy, recording.guide, inputs, recording.clean, strict=True)
        )
    ]
    return self_maps, steps


def draw(pictures: Pictures) -> Figure:
    """Draw source → LMI → guided denoising → synthetic T1w → segmentation, from left to right."""
    figure = Figure(figsize=SIZE)
    _draw_source(figure, pictures)
    _draw_denoising(figure, pictures.steps)
    _draw_results(figure, pictures)
    return figure


def _draw_source(figure: Figure, pictures: Pictures) -> None:
    _title(figure, 0.9, 4.26, f"Source ({CONTRAST})")
    _image(figure, pictures.source, (0.2, 2.48, 1.4, 1.66), **_window(pictures.source))
    _arrow(figure, (0.9, 2.46), (0.9, 2.24))
    _title(figure, 0.9, 2.04, "LMI with itself")
    for index, picture in enumerate(pictures.self_maps):
        column, row = index % 3, index // 3
        place = (0.16 + 0.5 * column, 1.34 - 0.62 * row, 0.48, 0.6)
        _image(figure, picture, place, cmap="magma", vmin=0, vmax=1)
    _arrow(figure, (1.68, 3.3), (2.12, 3.3))
    _arrow(figure, (1.68, 1.01), (2.12, 1.01))


def _draw_denoising(figure: Figure, steps: list[Step]) -> None:
    _box(figure, (2.13, 0.08, 5.8, 4.36))
    _title(figure, 5.03, 4.26, "Guided denoising of a T1w prior")
    for x, title in (
        (2.83, "noisy T1w $x_t$"),
        (3.98, "LMI(source, $x_t$)"),
        (5.13, r"E[$\hat{x}_0$ | source]"),
        (7.27, r"estimate $\hat{x}_0$"),
    ):
        _text(figure, x, 3.9, title, size=9)
    for number, (step, bottom) in enumerate(zip(steps, (2.36, 0.42), strict=True), start=1):
        _draw_step(figure, step, bottom)
        _text(figure, 2.83, bottom - 0.18, f"step {number}, $t$ = {step.timestep}", size=8.5)
    _arrow(figure, (7.27, 2.34), (7.27, 2.1), (5.13, 2.1), (5.13, 1.9), color=ACCENT)
    _text(figure, 6.2, 2.15, "self-conditioning", size=8.5, color=ACCENT)


def _draw_step(figure: Figure, step: Step, bottom: float) -> None:
    size = (1.08, 1.46)
    middle = bottom + size[1] / 2
    low, high = -0.5, 1.5
    _image(figure, np.where(step.noisy == 0, low, step.noisy), (2.29, bottom, *size), vmin=low, vmax=high)
    brightest = float(np.percentile(step.guide, 99.5))
    _image(figure, step.guide, (3.44, bottom, *size), cmap="magma", vmin=0, vmax=brightest)
    if step.mean is None:
        _text(figure, 5.13, middle, "none in", size=8.5, color=FAINT)
        _text(figure, 5.13, middle - 0.16, "the first step", size=8.5, color=FAINT)
    else:
        _image(figure, step.mean, (4.59, bottom, *size), **T1_WINDOW)
    _arrow(figure, (5.7, middle), (5.93, middle))
    _box(figure, (5.93, middle - 0.25, 0.62, 0.5), face=INK)
    _title(figure, 6.24, middle - 0.05, "U-Net", color="white", size=9.5)
    _arrow(figure, (6.55, middle), (6.75, middle))
    _image(figure, step.estimate, (6.73, bottom, *size), **T1_WINDOW)


def _draw_results(figure: Figure, pictures: Pictures) -> None:
    _arrow(figure, (7.82, 1.15), (8.13, 1.15), (8.13, 3.3), (8.38, 3.3))
    _title(figure, 9.1, 4.26, "Synthetic T1w")
    _image(figure, pictures.synthetic, (8.4, 2.48, 1.4, 1.66), **T1_WINDOW)
    _arrow(figure, (9.1, 2.46), (9.1, 2.24))
    _title(figure, 9.1, 2.04, "Segmentation")
    axes = _image(figure, pictures.source, (8.4, 0.2, 1.4, 1.66), **_window(pictures.source))
    axes.imshow(_coloured(pictures.labels), origin="lower", interpolation="nearest", aspect="equal")


def _window(picture: NDArray) -> dict[str, Any]:
    """Limits that show the tissues of a source: the lowest and the highest intensity of the brain, outliers apart."""
    low, high = np.percentile(picture[picture > 0], (1, 99.5))
    return {"vmin": float(low), "vmax": float(high)}


def _coloured(labels: NDArray) -> NDArray:
    """RGBA (Y, X, 4) of labels (X, Y): the structures' colours, the background transparent."""
    colours = np.zeros((max(structure.id for structure in STRUCTURES) + 1, 4))
    for structure in STRUCTURES[1:]:
        colours[structure.id] = (*to_rgb(structure.hex_colour), 0.75)
    return colours[labels.T]


def _image(figure: Figure, picture: NDArray, place: tuple[float, ...], cmap: str = "gray", **limits: Any) -> Axes:
    """Show a slice at (left, bottom, width, height) in inches."""
    left, bottom, width, height = place
    axes = figure.add_axes((left / SIZE[0], bottom / SIZE[1], width / SIZE[0], height / SIZE[1]))
    axes.imshow(picture.T, cmap=cmap, origin="lower", aspect="equal", interpolation="nearest", **limits)
    axes.set_axis_off()
    return axes


def _title(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    _text(figure, x, y, text, weight="bold", **style)


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """Write text, centred, on a baseline; x and y in inches."""
    figure.text(x / SIZE[0], y / SIZE[1], text, ha="center", va="baseline", **style)


def _box(figure: Figure, place: tuple[float, ...], face: str = TINT) -> None:
    left, bottom, width, height = place
    box = FancyBboxPatch(
        (left, bottom),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=face,
        edgecolor="none",
        transform=figure.dpi_scale_trans,
        zorder=-1,
    )
    figure.add_artist(box)


def _arrow(figure: Figure, *corners: tuple[float, float], color: str = INK) -> None:
    """Draw an arrow along straight lines from the first corner to the last."""
    arrow = FancyArrowPatch(
        path=MplPath(corners),
        arrowstyle="-|>",
        mutation_scale=12,
        linewidth=1.4,
        facecolor=color,
        edgecolor=color,
        joinstyle="miter",
        transform=figure.dpi_scale_trans,
    )
    figure.add_artist(arrow)


def save(figure: Figure, path: Path) -> None:
    """Write a figure; equal figures give equal bytes of SVG."""
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def main() -> None:
    """Draw the schematic into the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the picture, .svg or .png")
    arguments = parser.parse_args()
    pictures = run_on_phantom()
    with matplotlib.rc_context(STYLE):
        save(draw(pictures.cropped()), arguments.out)


if __name__ == "__main__":
    main()
