"""Images in memory: the functions that a notebook calls. No file is written."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, DTypeLike

from midiff_monai.io.headers import times
from midiff_monai.io.images import name_of, volume_in_memory
from midiff_monai.io.volumes import image_like
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.computation import Computation, compute
from midiff_monai.pipeline.fallback import on_cpu_if_memory_runs_out
from midiff_monai.pipeline.models import Models, kept_models, load_models
from midiff_monai.pipeline.options import Mode, Settings, Task
from midiff_monai.pipeline.reading import prepare_source
from midiff_monai.pipeline.run import make_report
from midiff_monai.qc.flags import Flag

LOOK_FIRST = "Research only, not a medical device. Look at the picture before you use a number."


@dataclass(frozen=True, repr=False, eq=False)
class ImageResult:
    """The results of one image, all on its grid. A notebook shows them with the picture for quality control.

    Attributes:
        computation: the same as arrays.
        name: the name of the image's file, or "image".
    """

    computation: Computation
    name: str

    @property
    def source(self) -> nib.Nifti1Image:
        """The image that was processed: float32, with a background of 0."""
        return self.computation.source

    @cached_property
    def synthetic(self) -> nib.Nifti1Image | None:
        """The synthetic volume, float32. In a synthetic T1w, white matter is at about 0.7. None without translation."""
        return self._image(self.computation.synthetic, np.float32)

    @cached_property
    def synthetic_std(self) -> nib.Nifti1Image | None:
        """The standard deviation over several samples, float32, or None."""
        return self._image(self.computation.synthetic_std, np.float32)

    @cached_property
    def synthetic_error(self) -> nib.Nifti1Image | None:
        """The expected absolute error of the synthetic volume, float32, or None."""
        return self._image(self.computation.synthetic_error, np.float32)

    @cached_property
    def segmentation(self) -> nib.Nifti1Image | None:
        """The label map in FreeSurfer ids, int16, or None."""
        return self._image(self.computation.segmentation, np.int16)

    @cached_property
    def probability(self) -> nib.Nifti1Image | None:
        """The probability of the label of each voxel, float32, or None."""
        return self._image(self.computation.probability, np.float32)

    @cached_property
    def entropy(self) -> nib.Nifti1Image | None:
        """The entropy of the probabilities of all labels, in [0, 1], float32, or None."""
        return self._image(self.computation.entropy, np.float32)

    @cached_property
    def lesions(self) -> nib.Nifti1Image | None:
        """The mask of the white matter lesions, uint8, or None if the image cannot show them: see the manifest."""
        return self._image(self.computation.lesions, np.uint8)

    @cached_property
    def intracranial(self) -> nib.Nifti1Image | None:
        """The mask of what the inner skull of a whole head encloses, uint8, or None."""
        return self._image(self.computation.intracranial, np.uint8)

    @cached_property
    def parcels(self) -> nib.Nifti1Image | None:
        """The label map of the regions of cortex and white matter in MUSE ids, uint8, or None."""
        return self._image(self.computation.parcels, np.uint8)

    @cached_property
    def parcel_volumes(self) -> pd.DataFrame | None:
        """The columns of `parcels.parcel_volumes`, a row for each parcel; None without parcels."""
        return self.computation.parcel_volumes()

    @cached_property
    def volumes(self) -> pd.DataFrame | None:
        """The columns of `labels.with_totals`, a row for each structure and total; None without a segmentation."""
        return self.computation.volumes()

    @property
    def warnings(self) -> list[str]:
        """Sentences for the reader of the result, including those of the flags."""
        return self.computation.report.warnings

    @property
    def flags(self) -> list[Flag]:
        """Automatic reasons to look at the result."""
        return [Flag(**flag) for flag in self.computation.report.flags]

    @property
    def manifest(self) -> dict[str, Any]:
        """How the result was made, as JSON types: settings, hashes of the weights, versions, seconds of each step."""
        return self.computation.report.to_dict()

    @cached_property
    def picture(self) -> bytes:
        """The picture for quality control as PNG: input, synthetic volume and structures in three planes."""
        file = io.BytesIO()
        self.computation.draw(file, self.name)
        return file.getvalue()

    def _image(self, voxels: np.ndarray | None, dtype: DTypeLike) -> nib.Nifti1Image | None:
        return None if voxels is None else image_like(voxels, self.source, dtype)

    def __repr__(self) -> str:
        made = [] if self.computation.synthetic is None else [f"synthetic {self.computation.target}"]
        if self.computation.segmentation is not None:
            found = np.count_nonzero(np.unique(self.computation.segmentation))
            made.append(f"segmentation of {found} structures")
        count = len(self.warnings)
        warnings = f"{count} warning{'' if count == 1 else 's'}"
        return f"<{self.name}, {times(self.source.shape)}: {', '.join(made)}; {warnings}>"

    def _repr_html_(self) -> str:
        """The warnings, the picture and the table of volumes, for a notebook."""
        items = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        encoded = base64.b64encode(self.picture).decode("ascii")
        picture = f'<img alt="quality control" style="max-width: 100%" src="data:image/png;base64,{encoded}">'
        parts = [f"<p>{escape(repr(self)[1:-1])}. {LOOK_FIRST}</p>", f"<ul>{items}</ul>" if items else "", picture]
        if self.volumes is not None:
            table = self.volumes.to_html(index=False, float_format="{:.2f}".format)
            parts.append(f"<details><summary>Volumes in ml</summary>{table}</details>")
        return f"<div>{''.join(parts)}</div>"


def translate_image(
    image: SpatialImage | ArrayLike, affine: ArrayLike | None = None, *, keep_models: bool = False, **settings: Any
) -> ImageResult:
    """Make a synthetic T1w of an image in memory, or an image of the target modality of another bundle.

    Args:
        image: a nibabel image of any modality, or an array (X, Y, Z). It is not changed.
        affine: (4, 4), from voxel indices of an array to RAS millimetres.
        keep_models: keep the models in memory for the next call with the same settings. Other settings replace them.
        settings: fields of `Settings`.

    Raises:
        InputError: the image or a setting cannot be used.
        BundleError: a bundle is not intact.
    """
    return _process(image, affine, Mode.TRANSLATE, keep_models, Settings(**settings))


def segment_image(
    image: SpatialImage | ArrayLike,
    affine: ArrayLike | None = None,
    *,
    translated: bool = True,
    keep_models: bool = False,
    **settings: Any,
) -> ImageResult:
    """Segment an image in memory on its own grid, by way of a synthetic T1w.

    Args:
        image: as for `translate_image`.
        affine: as for `translate_image`.
        translated: False segments the image as it is. It has to be a T1w.
        keep_models: as for `translate_image`.
        settings: fields of `Settings`.

    Raises:
        MidiffError: as `translate_image`.
    """
    mode = Mode.SEGMENT if translated else Mode.SEGMENT_DIRECTLY
    return _process(image, affine, mode, keep_models, Settings(**settings))


def _process(
    image: SpatialImage | ArrayLike, affine: ArrayLike | None, mode: Mode, keep_models: bool, settings: Settings
) -> ImageResult:
    task = Task(mode, replace(settings, bundle=tuple(settings.bundles) or None))
    check_settings(task)
    task.choose_bundles().check_volumes()
    name = name_of(image)
    source = prepare_source(volume_in_memory(image, affine), name, task.settings)
    models = kept_models(task) if keep_models else load_models(task)
    return on_cpu_if_memory_runs_out(lambda task, models: _computed(source, name, task, models), task, models)


def _computed(source: nib.Nifti1Image, name: str, task: Task, models: Models) -> ImageResult:
    computation = Computation(source, make_report(None, task, models), target=models.target)
    compute(computation, task, models)
    return ImageResult(computation, name)
