"""Pictures for visual quality control: slices of input, synthetic T1w and segmentation in three anatomical planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

WIDTH_INCHES, DOTS_PER_INCH = 16.0, 85
LEFT_INCHES, TOP_INCHES, BOTTOM_INCHES, GAP_INCHES = 0.35, 0.75, 0.3, 0.06
MARGIN_MM = 9.0
WINDOW_PERCENTILES = (2.0, 99.5)
FILL_OPACITY = 0.45
BLACK = "#000000"
LARGE: dict[str, Any] = {"color": "#f2f2f2", "size": 13}
SMALL: dict[str, Any] = {"color": "#a8a8a8", "size": 10}
CONVENTION = "Radiological convention: the patient's left (L) is on the right of the picture."


class Plane(NamedTuple):
    """An anatomical plane of a RAS volume.

    Attributes:
        name: name of the plane.
        normal: the axis perpendicular to the plane. The two other axes are the picture's columns and rows, in order.
        letters: anatomical sides on the left and on the right of the picture.
        quantiles: positions of the cuts: the fraction of segmented voxels below each.
    """

    name: str
    normal: int
    letters: tuple[str, str]
    quantiles: tuple[float, ...]


PLANES = (
    Plane("axial", 2, ("R", "L"), (0.40, 0.66)),
    Plane("coronal", 1, ("R", "L"), (0.38, 0.62)),
    Plane("sagittal", 0, ("A", "P"), (0.33, 0.52)),
)


class Cut(NamedTuple):
    """A slice of a RAS volume: a plane, and the index of the voxel along its normal."""

    plane: Plane
    voxel: int

    def picture(self, volume: NDArray) -> NDArray:
        """Return the slice (rows from bottom to top, columns), in radiological convention; sagittal faces left."""
        return np.take(volume, self.voxel, axis=self.plane.normal).swapaxes(0, 1)[:, ::-1]

    def position(self, grid: nib.Nifti1Image) -> float:
        """Return the slice's RAS coordinate along its normal, in mm, at the centre of the grid."""
        centre = (np.array(grid.shape) - 1) / 2
        centre[self.plane.normal] = self.voxel
        return float(apply_affine(grid.affine, centre)[self.plane.normal])

    def extent(self, grid: nib.Nifti1Image) -> tuple[float, float]:
        """Return width and height of the picture in mm."""
        width, height = np.delete(np.multiply(grid.shape, voxel_sizes(grid.affine)), self.plane.normal)
        return float(width), float(height)


def qc_mosaic(
    source: NDArray,
    synthetic: NDArray | None,
    segmentation: NDArray | None,
    affine: NDArray[np.float64],
    path: Path | BinaryIO,
    title: str,
    colours: Mapping[int, str],
    target: str = "T1w",
) -> None:
    """Write a PNG with a row each for input, synthetic volume and structures, and two slices in each anatomical plane.

    There is no row for what is None.

    Args:
        source: the input (X, Y, Z), any finite intensities.
        synthetic: the synthetic volume on the same grid, or None.
        segmentation: structure ids on the same grid, 0 for background, or None. The picture is cropped to them, if any.
        affine: voxel to RAS mm, any orientation. The picture shows the nearest anatomical planes.
        path: the PNG to write, or a file in memory.
        title: text above the pictures.
        colours: "#rrggbb" of every id in `segmentation` other than 0.
        target: modality of the synthetic volume.

    Raises:
        KeyError: an id has no colour.
    """
    volumes = {"input": source}
    if synthetic is not None:
        volumes[f"synthetic {target.removesuffix('w')}"] = synthetic
    given = np.zeros(source.shape, np.int16) if segmentation is None else segmentation
    structures, intensity_images = prepare(volumes, given, affine)
    labels = np.asarray(structures.dataobj)
    cuts = _choose_cuts(labels)
    rows = {name: [cut.picture(np.asarray(image.dataobj)) for cut in cuts] for name, image in intensity_images.items()}
    if segmentation is not None:
        label_pictures = (cut.picture(labels) for cut in cuts)
        rows["structures"] = [_overlay(*pair, colours) for pair in zip(rows["input"], label_pictures, strict=True)]
    _draw(rows, cuts, structures, title).savefig(path, format="png", dpi=DOTS_PER_INCH, facecolor=BLACK)


def montage(
    volumes: Mapping[str, NDArray], segmentation: NDArray, affine: NDArray[np.float64], palette: Mapping[int, str]
) -> tuple[dict[str, Image.Image], Image.Image]:
    """Arrange the slices of `qc_mosaic` in two rows of axial, coronal and sagittal, with pixels of 1 mm.

    Args:
        volumes: (X, Y, Z) each, any finite intensities, on one grid.
        segmentation: structure ids below 256 on the same grid, 0 for background. The slices are cropped to the
            structures, if any.
        affine: voxel to RAS mm.
        palette: "#rrggbb" by id.

    Returns:
        A grey picture for each volume, with the letters of the anatomical sides; and a palette image of the
        structures in the same places. A pixel's index is the structure's id, and index 0 is transparent.
    """
    structures, intensity_images = prepare(volumes, segmentation, affine)
    labels = np.asarray(structures.dataobj)
    cuts = _choose_cuts(labels)
    cells = _cells(cuts, structures)
    sheets = {}
    for name, image in intensity_images.items():
        levels = (255 * np.asarray(image.dataobj)).astype(np.uint8)
        sheets[name] = _sheet(levels, cuts, cells, Image.Resampling.BILINEAR)
        _label_sides(sheets[name], cuts, cells)
    overlay = _sheet(labels.astype(np.uint8), cuts, cells, Image.Resampling.NEAREST)
    overlay.putpalette([level for label in range(256) for level in ImageColor.getrgb(palette.get(label, BLACK))])
    overlay.info["transparency"] = 0
    return sheets, overlay


def prepare(
    volumes: Mapping[str, NDArray], segmentation: NDArray, affine: NDArray[np.float64]
) -> tuple[nib.Nifti1Image, dict[str, nib.Nifti1Image]]:
    """Reorient volumes (X, Y, Z) to RAS and crop them to the segmented brain with a margin of 9 mm.

    Returns:
        The structures (int32), and the volumes (float32) with intensities scaled to [0, 1] by `window`.
    """
    structures = canonical(segmentation, affine, np.int32)
    box = bounding_box(structures)
    structures = structures.slicer[box]
    brain = np.asarray(structures.dataobj) > 0
    intensity_images = {}
    for name, volume in volumes.items():
        image = canonical(volume, affine, np.float32).slicer[box]
        scaled = window(np.asarray(image.dataobj), brain).astype(np.float32)
        intensity_images[name] = nib.Nifti1Image(scaled, image.affine)
    return structures, intensity_images


Cell = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def _cells(cuts: list[Cut], grid: nib.Nifti1Image) -> list[Cell]:
    """Give each plane a column, with its first cut in the upper row and its second cut in the lower row."""
    sizes = [tuple(max(1, round(side)) for side in cut.extent(grid)) for cut in cuts]
    row_height = max(height for _, height in sizes)
    cells, left = [], 0
    for position, (width, height) in enumerate(sizes):
        column_ends, row = position % 2 == 1, position % 2
        top = row * row_height + (row_height - height) // 2
        cells.append((left, top, left + width, top + height))
        left += width if column_ends else 0
    return cells


def _sheet(volume: NDArray[np.uint8], cuts: list[Cut], cells: list[Cell], resampling: Image.Resampling) -> Image.Image:
    rights, bottoms = zip(*(cell[2:] for cell in cells), strict=True)
    sheet = Image.new("L", (max(rights), max(bottoms)))
    for cut, (left, top, right, bottom) in zip(cuts, cells, strict=True):
        picture = np.ascontiguousarray(cut.picture(volume)[::-1])  # the first row of an image is at the top
        sheet.paste(Image.fromarray(picture).resize((right - left, bottom - top), resampling), (left, top))
    return sheet


def _label_sides(sheet: Image.Image, cuts: list[Cut], cells: list[Cell]) -> None:
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for cut, (left, top, right, bottom) in zip(cuts, cells, strict=True):
        for letter, x, anchor in zip(cut.plane.letters, (left + 3, right - 3), ("lm", "rm"), strict=True):
            draw.text((x, (top + bottom) / 2), letter, fill=255, font=font, anchor=anchor)


def canonical(volume: NDArray, affine: NDArray[np.float64], dtype: DTypeLike) -> nib.Nifti1Image:
    """Return the volume as `dtype`, with its axes permuted and flipped to the nearest RAS orientation."""
    return nib.as_closest_canonical(nib.Nifti1Image(volume.astype(dtype), affine))


def bounding_box(structures: nib.Nifti1Image) -> tuple[slice, ...]:
    """Return the box of all structures with a margin, or the whole volume if there are no structures."""
    segmented = np.asarray(structures.dataobj) > 0
    if not segmented.any():
        return (slice(None),) * 3
    margins = np.ceil(MARGIN_MM / voxel_sizes(structures.affine)).astype(int)
    box = []
    for axis, margin in enumerate(margins):
        occupied = np.flatnonzero(_profile(segmented, axis))
        box.append(slice(max(occupied[0] - margin, 0), occupied[-1] + margin + 1))
    return tuple(box)


def _profile(mask: NDArray[np.bool_], axis: int) -> NDArray[np.intp]:
    """Return the number of mask voxels in each slice perpendicular to `axis`."""
    return np.count_nonzero(mask, axis=tuple({0, 1, 2} - {axis}))


def _choose_cuts(labels: NDArray[np.int32]) -> list[Cut]:
    shown = labels > 0 if labels.any() else np.ones_like(labels, dtype=bool)
    cuts = []
    for plane in PLANES:
        below = np.cumsum(_profile(shown, plane.normal)) / shown.sum()
        cuts += [Cut(plane, int(np.searchsorted(below, quantile))) for quantile in plane.quantiles]
    return cuts


def window(volume: NDArray, segmented: NDArray[np.bool_]) -> NDArray:
    """Scale intensities linearly so that percentiles 2 and 99.5 become 0 and 1, and clip to [0, 1].

    The percentiles are those of the segmented brain, if any: scalp, air and padding must not change the window.
    """
    values = volume[segmented] if segmented.any() else volume
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    return np.clip((volume - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)


def _overlay(grey: NDArray, labels: NDArray[np.int32], colours: Mapping[int, str]) -> NDArray:
    """Return RGB (rows, columns, 3): a grey picture (rows, columns) in [0, 1] overlaid with the structures' colours."""
    ids, positions = np.unique(labels, return_inverse=True)
    palette = np.array([to_rgb(colours[label]) if label else (0, 0, 0) for label in ids.tolist()])
    opacity = FILL_OPACITY * (labels > 0)[..., None]
    return (1 - opacity) * grey[..., None] + opacity * palette[positions.reshape(labels.shape)]


def _draw(rows: Mapping[str, list[NDArray]], cuts: list[Cut], grid: nib.Nifti1Image, title: str) -> Figure:
    """Arrange one row of pictures for each name and one column for each cut through `grid`, all at one scale."""
    extents = [cut.extent(grid) for cut in cuts]
    tallest = max(height for _, height in extents)
    figure, panels = _panels(len(rows), [width for width, _ in extents], tallest)
    for row, (name, pictures) in zip(panels, rows.items(), strict=True):
        row[0].annotate(name, (-0.03, 0.5), xycoords="axes fraction", rotation=90, ha="right", va="center", **LARGE)
        for panel, cut, picture, extent in zip(row, cuts, pictures, extents, strict=True):
            _show(panel, picture, extent, tallest, cut.plane.letters)
    for panel, cut in zip(panels[0], cuts, strict=True):
        panel.set_title(f"{cut.plane.name} {cut.position(grid):+.0f} mm", **SMALL)
    figure.suptitle(title, parse_math=False, **LARGE, y=1 - 0.2 / figure.get_figheight(), va="center")
    figure.text(0.5, 0.15 / figure.get_figheight(), CONVENTION, **SMALL, ha="center", va="center")
    return figure


def _panels(rows: int, widths: Sequence[float], tallest: float) -> tuple[Figure, list[list[Axes]]]:
    """Return a black figure and its panels. Panels are as wide as their pictures in mm, and as high as the tallest."""
    inches = (WIDTH_INCHES - LEFT_INCHES - GAP_INCHES * len(widths)) / sum(widths)
    height = TOP_INCHES + rows * (tallest * inches + GAP_INCHES) + BOTTOM_INCHES
    figure = Figure(figsize=(WIDTH_INCHES, height), facecolor=BLACK)
    panels = figure.subplots(
        rows,
        len(widths),
        squeeze=False,
        gridspec_kw={
            "width_ratios": widths,
            "left": LEFT_INCHES / WIDTH_INCHES,
            "right": 1 - GAP_INCHES / WIDTH_INCHES,
            "top": 1 - TOP_INCHES / height,
            "bottom": BOTTOM_INCHES / height,
            "wspace": GAP_INCHES / (sum(widths) / len(widths) * inches),
            "hspace": GAP_INCHES / (tallest * inches),
        },
    )
    return figure, panels.tolist()


def _show(panel: Axes, picture: NDArray, extent: tuple[float, float], tallest: float, letters: tuple[str, str]) -> None:
    """Draw a picture of `extent` mm at the centre of a panel of `tallest` mm in height."""
    width, height = extent
    panel.imshow(picture, cmap="gray", vmin=0, vmax=1, origin="lower", extent=(0, width, 0, height))
    panel.set_ylim((height - tallest) / 2, (height + tallest) / 2)
    panel.set_axis_off()
    for letter, x, side in zip(letters, (0.01, 0.99), ("left", "right"), strict=True):
        panel.text(x, 0.5, letter, weight="bold", transform=panel.transAxes, ha=side, va="center", **LARGE)
