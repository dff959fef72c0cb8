"""Figures of the template phantom, for which the models run. They show no patient."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from methods import direct, midiff
from monai.data import MetaTensor
from numpy.typing import NDArray

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import SEGMENTATION, TRANSLATION
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.guidance.guide import centre_slice
from midiff_monai.labels import STRUCTURES

CONTRASTS = ("PD", "T2", "FLAIR")
HEIGHT = 0.46
"""Height of the shown slice, as a fraction of the volume: through the lateral ventricles."""

COLOURS = ListedColormap([structure.hex_colour for structure in STRUCTURES])


@dataclass
class Recording:
    """Inputs and outputs of the network in every step, each of shape (slices, 1, H, W).

    Attributes:
        levels: timestep of each step.
        noisy: noisy image x_t. The clean image is in [-1, 1].
        guide: LMI of the source with x_t, in [0, 1].
        clean: predicted clean image, in [-1, 1].
        source: centre slices of the source, in [0, 1].
    """

    levels: list[int] = field(default_factory=list)
    noisy: list[torch.Tensor] = field(default_factory=list)
    guide: list[torch.Tensor] = field(default_factory=list)
    clean: list[torch.Tensor] = field(default_factory=list)
    source: torch.Tensor | None = None


def record(bundle: Bundle, slices: torch.Tensor) -> Recording:
    """Translate slices (B, 2·context + 1, H, W) in [0, 1] and record every step."""
    translation, network = bundle.setting("inferer"), bundle.setting("network")
    scheduler, taken = translation.inferer.scheduler, Recording(source=centre_slice(slices))

    def listen(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        taken.noisy.append(inputs[0][:, :1])
        taken.guide.append(inputs[0][:, -3:-2])  # the two conditional means follow

    def step(output: torch.Tensor, timestep: int, sample: torch.Tensor) -> Any:
        stepped = type(scheduler).step(scheduler, output, timestep, sample)
        taken.levels.append(int(timestep))
        taken.clean.append(stepped[1])
        return stepped

    hook = network.register_forward_pre_hook(listen)
    scheduler.step = step
    with torch.inference_mode():
        translation.sample_slices(slices, torch.arange(len(slices)), network)
    hook.remove()
    del scheduler.step
    return taken


def draw_denoising(contrast: str, steps: int = 5) -> Figure:
    """Draw the source, and for each step x_t, the guide, the predicted clean image and its segmentation."""
    single: dict[str, Any] = {"inferer::mirror": False}
    translation, segmentation = open_bundle(TRANSLATION, steps=steps, **single), open_bundle(SEGMENTATION)
    conformed = translation.conform(_volume(make_phantom(contrast).image))
    slices, centre = _slab(conformed, translation.setting("context"), segmentation.setting("context"))
    taken = record(translation, slices)
    assert taken.source is not None
    figure = Figure(figsize=(2 * (steps + 1), 8), layout="constrained")
    panels = figure.subplots(4, steps + 1)
    _show(panels[0, 0], taken.source[centre, 0], f"{contrast} phantom")
    for panel in panels[1:, 0]:
        panel.set_axis_off()
    for column, level in enumerate(taken.levels):
        line = panels[:, column + 1]
        inside = taken.source > 0
        clean = ((taken.clean[column] + 1) / 2).clamp(0, 1) * inside
        _show(line[0], (taken.noisy[column][centre, 0] + 1) / 2, f"x at t = {level}")
        _show(line[1], taken.guide[column][centre, 0], "LMI with the source")
        _show(line[2], clean[centre, 0], "predicted clean image")
        _show_labels(line[3], _segment(segmentation, clean, conformed.affine)[..., centre], "segmentation")
    return figure


def draw_panel() -> Figure:
    """Draw one row per contrast: the volume, its synthetic T1w, the phantom's T1w, and both segmentations."""
    figure = Figure(figsize=(10, 2.4 * len(CONTRASTS)), layout="constrained")
    panels = figure.subplots(len(CONTRASTS), 5)
    with tempfile.TemporaryDirectory() as folder:
        t1 = direct(_saved("T1", Path(folder)), Path(folder) / "T1")
        for line, contrast in zip(panels, CONTRASTS, strict=True):
            result = midiff(_saved(contrast, Path(folder)), Path(folder) / contrast)
            assert result.synthetic is not None and result.segmentation is not None and t1.segmentation is not None
            pictures = np.asarray(result.source.dataobj), result.synthetic, np.asarray(t1.source.dataobj)
            for panel, volume, title in zip(line, pictures, (contrast, "synthetic T1w", "T1w"), strict=False):
                _show(panel, _cut(volume), title)
            for panel, labels, title in zip(
                line[3:], (result.segmentation, t1.segmentation), ("of the synthetic T1w", "of the T1w"), strict=True
            ):
                classes = np.searchsorted([structure.id for structure in STRUCTURES], labels)
                _show_labels(panel, _cut(classes), title)
    return figure


def _volume(image: nib.Nifti1Image) -> MetaTensor:
    voxels = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)[None])
    return MetaTensor(voxels, affine=torch.from_numpy(image.affine))


def _slab(conformed: MetaTensor, context: int, around: int) -> tuple[torch.Tensor, int]:
    """Cut the slice at `HEIGHT` and `around` slices on either side, each with its neighbours; returns its index too."""
    volume = conformed.as_subclass(torch.Tensor)[0]
    # the networks halve the sides four times
    volume = torch.nn.functional.pad(volume, (0, 0, 0, -volume.shape[1] % 16, 0, -volume.shape[0] % 16))
    centre = int(HEIGHT * volume.shape[2])
    slices = [
        volume[..., position - context : position + context + 1].permute(2, 0, 1)
        for position in range(centre - around, centre + around + 1)
    ]
    return torch.stack(slices), around


def _segment(bundle: Bundle, clean: torch.Tensor, affine: torch.Tensor) -> NDArray[np.intp]:
    """Segment a predicted clean image (slices, 1, H, W) in [0, 1]: class indices (H, W, slices)."""
    volume = MetaTensor(clean[:, 0].permute(1, 2, 0)[None], affine=affine)
    return bundle.infer(bundle.conform(volume)).argmax(dim=0).numpy()


def _saved(contrast: str, folder: Path) -> Path:
    path = folder / f"phantom_{contrast}.nii.gz"
    nib.save(make_phantom(contrast).image, path)
    return path


def _cut(volume: NDArray) -> NDArray:
    return volume[:, :, int(HEIGHT * volume.shape[2])]


def _show(panel: Axes, picture: NDArray | torch.Tensor, title: str) -> None:
    """Draw an image (X, Y) with anterior up and intensities from 0 to the 99.5th percentile."""
    voxels = np.asarray(picture)
    panel.imshow(voxels.T, cmap="gray", vmin=0, vmax=np.percentile(voxels, 99.5), origin="lower")
    panel.set_title(title, size=9)
    panel.set_axis_off()


def _show_labels(panel: Axes, classes: NDArray, title: str) -> None:
    panel.imshow(classes.T, cmap=COLOURS, vmin=0, vmax=len(STRUCTURES) - 1, origin="lower", interpolation="nearest")
    panel.set_title(title, size=9)
    panel.set_axis_off()
