"""Pairs of real and synthetic volumes or slices, by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_synthetic, find_volumes
from midiff_monai.io.paths import is_slice_name, volume_stem, without_contrast

PAIRINGS = ("by name", "required", "none")
"""Pair what has a pair, refuse volumes without a pair, or pair nothing."""

NEEDED = "FID and KID need two volumes on either side"

SYNTHETIC = re.compile(r"(.*?)(?:_desc-synthetic[0-9A-Za-z]*_[0-9A-Za-z]+|_synth[0-9A-Za-z]*)")
"""The end of a name without suffix that says that the volume is synthetic."""


def subject_of(volume: Path) -> str:
    """Return what identifies the subject: the name of the file without suffix, without "_synth…" and its contrast.

    A name that is a contrast alone counts as the name of its folder.

    Example:
        >>> subject_of(Path("real/sub-01_T1w.nii.gz")), subject_of(Path("results/sub-01_PDw_synthT1w.nii.gz"))
        ('sub-01', 'sub-01')
        >>> subject_of(Path("sub-01/T1.nii"))
        'sub-01'
    """
    stem = volume_stem(volume)
    if match := SYNTHETIC.fullmatch(stem):
        stem = match[1]
    return without_contrast(stem) or volume.absolute().parent.name


def find_pairs(
    real: str | Path, synthetic: str | Path, pairing: str = "by name"
) -> tuple[list[Path], list[Path], dict[Path, Path]]:
    """Find the volumes of a comparison, or the slices where there are no volumes.

    Args:
        real: folder, pattern or table of real volumes, see `inputs.find_volumes`.
        synthetic: the same of synthetic volumes, see `inputs.find_synthetic`.
        pairing: one of `PAIRINGS`.

    Returns:
        Real volumes, synthetic volumes, and synthetic volume → its real one.

    Raises:
        InputError: a side has no volume, one has volumes and the other one slices, a volume has no pair though pairs
            are required, two real volumes are of one subject, or there are neither pairs nor two volumes on either
            side.
    """
    sides = find_volumes(real), find_synthetic(synthetic)
    if is_slice_name(sides[0][0]) != is_slice_name(sides[1][0]):
        kinds = ["slices" if is_slice_name(side[0]) else "volumes" for side in sides]
        raise InputError(synthetic, f"holds {kinds[1]}, and {real} holds {kinds[0]}", "Compare like with like")
    identities = [
        {path: identity_of(path, item) for path in side} for side, item in zip(sides, (real, synthetic), strict=True)
    ]
    partners = pair_by_name(*identities) if pairing != "none" else {}
    without = [volume for volume in sides[1] if volume not in partners]
    if pairing == "required" and without:
        fault = f"has no real volume of its name ({identities[1][without[0]]}) in {real}"
        raise InputError(without[0], fault, "Rename one of them, or leave --paired out")
    if not partners and min(map(len, sides)) < 2:
        folder = real if len(sides[0]) < 2 else synthetic
        raise InputError(folder, "holds a single volume, and there is no pair", f"Add volumes: {NEEDED}")
    return *sides, partners


def identity_of(path: Path, item: str | Path) -> str:
    """Return what a file has in common with its partner.

    This is the subject of a volume. Names of slices are often unique within the folder of their subject alone, so their
    folder within the input counts too.

    Args:
        path: the volume or slice.
        item: the input that it was found in. Files of a pattern or a table have no folder in common.
    """
    if is_slice_name(path) and Path(item).is_dir():
        return (path.relative_to(item).parent / subject_of(path)).as_posix()
    return subject_of(path)


def pair_by_name(real: Mapping[Path, str], synthetic: Mapping[Path, str]) -> dict[Path, Path]:
    """Find the real volume of each synthetic one. Several synthetic volumes may have the same one.

    Args:
        real: real volume → its `identity_of`.
        synthetic: the same of synthetic volumes.

    Returns:
        Synthetic volume → real volume. Those without a real volume of their subject are left out.

    Raises:
        InputError: two real volumes are of one subject.
    """
    by_subject: dict[str, Path] = {}
    for volume, identity in real.items():
        first = by_subject.setdefault(identity, volume)
        if first != volume:
            fault = f"is of the same subject as {first}, by the names of the files"
            raise InputError(volume, fault, "Name one modality with a pattern such as 'FOLDER/*_T1w.nii.gz'")
    found = {volume: by_subject.get(identity) for volume, identity in synthetic.items()}
    return {volume: partner for volume, partner in found.items() if partner}
