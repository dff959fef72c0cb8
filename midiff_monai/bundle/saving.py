"""Writes what a bundle made, under the names and with the headers that the command gives it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from midiff_monai.errors import InputError
from midiff_monai.io.outputs import OutputPaths, output_paths
from midiff_monai.io.paths import atomic_write
from midiff_monai.io.volumes import read_volume, write_like
from midiff_monai.transforms.meta import as_plain_tensor


class SaveWithSourceHeaderd(MapTransform):
    """Write each channel of an image as a volume, with the sform, qform and units of the file that the image is of.

    MONAI's `SaveImaged` makes a header of its own, which knows neither the units nor what space the affine leads to.

    Args:
        keys: MetaTensors (C, X, Y, Z) on the grid of the file that their meta data name.
        output_dir: folder to write to; made if need be.
        roles: what each channel is, as a field of `paths.OutputPaths`, which says what its file is called.

    Raises:
        InputError: another file, such as X.nii beside X.nii.gz, has been written under the same names.
    """

    def __init__(self, keys: KeysCollection, output_dir: str | Path, roles: Sequence[str]) -> None:
        super().__init__(keys)
        self.output_dir, self.roles = Path(output_dir), tuple(roles)
        self._of: dict[OutputPaths, Path] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            file = Path(data[key].meta["filename_or_obj"])
            source, paths = read_volume(file), output_paths(file, self.output_dir)
            if (first := self._of.setdefault(paths, file)) != file:
                raise InputError(file, f"would write the same files as {first}", "Rename one")
            self.output_dir.mkdir(parents=True, exist_ok=True)
            for role, channel in zip(self.roles, as_plain_tensor(data[key]).cpu().numpy(), strict=False):
                with atomic_write(getattr(paths, role)) as temporary:
                    write_like(channel, source, temporary, channel.dtype)
        return dict(data)
