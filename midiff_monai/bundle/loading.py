"""Reads the inputs of a bundle run in the way the command does, so that both treat a file alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from midiff_monai.errors import InputError
from midiff_monai.io.outputs import outputs_beside
from midiff_monai.io.slices import is_slice, read_image
from midiff_monai.io.volumes import check_intensity_range, load_image, reading_warnings
from midiff_monai.labels import LESIONS
from midiff_monai.transforms.meta import as_plain_tensor, file_of

_logger = logging.getLogger(__name__)


class LoadVolumed(MapTransform):
    """Load volumes or slices with `io.slices.read_image`: the same formats, checks and header rules as in the command.

    MONAI's `LoadImaged` takes the affine of a NIfTI header that contradicts itself as it is, and needs another package
    for NRRD and MetaImage.

    Paths under `keys` become MetaTensors (1, X, Y, Z), float32, with the metadata of `LoadImaged` that transforms and
    savers need: `affine`, `original_affine`, `spatial_shape` and `filename_or_obj`.

    The warnings about a file are logged when it is first read.

    Raises:
        InputError: a file is not a usable volume.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)
        self._seen: set[Path] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            path = Path(result[key])
            image = read_image(path)
            silent = is_slice(image) or path in self._seen  # slices are many, and have no header
            for warning in [] if silent else reading_warnings(image):
                _logger.warning("%s: %s", path, warning)
            self._seen.add(path)
            meta = {"original_affine": image.affine, "spatial_shape": np.asarray(image.shape)}
            meta |= {"filename_or_obj": str(path)}
            voxels = torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)[None])
            result[key] = MetaTensor(voxels, affine=torch.from_numpy(image.affine), meta=meta)
        return result


class LoadSegmentationd(LoadVolumed):
    """Load label maps of `midiff segment`. The lesions of the mask beside a map get the id of `labels.LESIONS`.

    Args:
        keys: paths of label maps, `X_dseg.nii.gz`. They become MetaTensors (1, X, Y, Z), float32.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the label maps of a sample."""
        result = super().__call__(data)
        for key in self.key_iterator(result):
            if (mask := outputs_beside(Path(data[key])).lesions).exists():
                lesions = np.asarray(load_image(mask).dataobj)  # as it is: a brain without lesions has an empty mask
                result[key][lesions[None] > 0] = LESIONS.id
        return result


class CheckIntensityRanged(MapTransform):
    """Check the intensities of volumes as the command does, see `io.volumes.check_intensity_range`.

    Args:
        keys: MetaTensors (1, X, Y, Z), as `LoadVolumed` gives them.
        modality: DICOM modality.

    Raises:
        InputError: the intensities are not those of the modality.
    """

    def __init__(self, keys: KeysCollection, modality: str) -> None:
        super().__init__(keys)
        self.modality = modality

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            image = nib.Nifti1Image(as_plain_tensor(data[key])[0].numpy(), None)
            check_intensity_range(image, file_of(data[key]), self.modality)
        return dict(data)


class InputVolumes:
    """The volumes of a bundle run: the readable ones are processed, the others are reported at the end.

    Args:
        datalist: one dictionary a volume, with its path under "image".
        folder: the folder they were looked for in.
        transforms: the transforms that read and check a volume; None only reads it.
    """

    def __init__(
        self,
        datalist: Sequence[Mapping[str, Any]],
        folder: str | Path,
        transforms: Sequence[Callable[[Any], Any]] | None = None,
    ) -> None:
        self.datalist, self.folder = list(datalist), Path(folder)
        self._transforms = transforms or [lambda entry: read_image(entry["image"])]
        self._errors: list[InputError] = []

    @cached_property
    def readable(self) -> list[Mapping[str, Any]]:
        """The entries of the data list whose file can be read. An error is logged for each of the others."""
        return [entry for entry in self.datalist if self._is_readable(entry)]

    def _is_readable(self, entry: Mapping[str, Any]) -> bool:
        try:
            for transform in self._transforms:
                entry = transform(entry)
        except InputError as error:
            _logger.error("%s", error)
            self._errors.append(error)
            return False
        return True

    def check(self) -> None:
        """Check that there is something to process, before the run.

        Raises:
            InputError: the folder does not exist, or no volume in it can be read.
        """
        if not self.folder.is_dir():
            raise InputError(self.folder, "does not exist", "Name the folder of the volumes with --dataset_dir")
        if not self.datalist:
            raise InputError(self.folder, "holds no volume", "Name the folder of the volumes with --dataset_dir")
        if not self.readable:
            raise self._errors[0]

    def report(self) -> None:
        """Report the volumes that could not be read, after the run.

        Raises:
            InputError: there are such volumes. All others have been processed.
        """
        if self._errors:
            names = ", ".join(error.path.name for error in self._errors)
            raise InputError(self.folder, f"holds volumes that cannot be read: {names}", "See the errors above")
