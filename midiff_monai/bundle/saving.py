"""Writes the results of a bundle with the file names and headers that the command uses."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from midiff_monai.errors import InputError
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths, in_range, output_paths
from midiff_monai.io.paths import atomic_write
from midiff_monai.io.slices import read_image, stored_range, write_image
from midiff_monai.transforms.meta import as_plain_tensor


class SaveWithSourceHeaderd(MapTransform):
    """Write each channel of an image as a volume with the sform, qform and units of the source file, or as a slice.

    MONAI's `SaveImaged` writes a new header without units and without the codes of sform and qform.

    Args:
        keys: MetaTensors (C, X, Y, Z) on the grid of the source file, which their metadata name.
        output_dir: folder for the volumes. It is created if it does not exist.
        roles: role of each channel, a field of `OutputPaths`. It determines the file name.
        target: target modality of a translation, a part of the file name.
        value_range: the intensities that 0 and 1 become, for a target with an absolute scale such as HU.

    Raises:
        InputError: two inputs have the same output files, such as X.nii and X.nii.gz.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        roles: Sequence[str],
        target: str = DEFAULT_TARGET,
        value_range: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__(keys)
        self.value_range = tuple(value_range)
        self.output_dir, self.roles, self.target = Path(output_dir), tuple(roles), target
        self._of: dict[OutputPaths, Path] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            file = Path(data[key].meta["filename_or_obj"])
            source, paths = read_image(file), output_paths(file, self.output_dir, self.target)
            if (first := self._of.setdefault(paths, file)) != file:
                raise InputError(file, f"would write the same files as {first}", "Rename one")
            self.output_dir.mkdir(parents=True, exist_ok=True)
            for role, channel in zip(self.roles, as_plain_tensor(data[key]).cpu().numpy(), strict=False):
                values = in_range(channel, role, stored_range(source, self.value_range))
                with atomic_write(getattr(paths, role)) as temporary:
                    write_image(values, source, temporary, values.dtype)
        return dict(data)
