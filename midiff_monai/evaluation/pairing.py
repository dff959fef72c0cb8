"""Pairs of real and synthetic volumes, by the names of their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_synthetic, find_volumes
from midiff_monai.io.paths import CONTRAST, volume_stem

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
    if match := CONTRAST.fullmatch(stem):
        stem = stem[: match.start(1)].rstrip("_.-")
    return stem or volume.absolute().parent.name


def find_pairs(
    real: str | Path, synthetic: str | Path, pairing: str = "by name"
) -> tuple[list[Path], list[Path], dict[Path, Path]]:
    """Find the volumes of a comparison.

    Args:
        real: folder, pattern or table of real volumes, see `inputs.find_volumes`.
        synthetic: the same of synthetic volumes, see `inputs.find_synthetic`.
        pairing: one of `PAIRINGS`.

    Returns:
        Real volumes, synthetic volumes, and synthetic volume → its real one.

    Raises:
        InputError: a side has no volume, a volume has no pair though pairs are required, two real volumes are of one
            subject, or there are neither pairs nor two volumes on either side.
    """
    sides = find_volumes(real), find_synthetic(synthetic)
    partners = pair_by_name(*sides) if pairing != "none" else {}
    without = [volume for volume in sides[1] if volume not in partners]
    if pairing == "required" and without:
        fault = f"has no real volume of its name ({subject_of(without[0])}) in {real}"
        raise InputError(without[0], fault, "Rename one of them, or leave --paired out")
    if not partners and min(map(len, sides)) < 2:
        folder = real if len(sides[0]) < 2 else synthetic
        raise InputError(folder, "holds a single volume, and there is no pair", f"Add volumes: {NEEDED}")
    return *sides, partners


def pair_by_name(real: Sequence[Path], synthetic: Sequence[Path]) -> dict[Path, Path]:
    """Find the real volume of each synthetic one. Several synthetic volumes may have the same one.

    Returns:
        Synthetic volume → real volume. Those without a real volume of their subject are left out.

    Raises:
        InputError: two real volumes are of one subject.
    """
    by_subject: dict[str, Path] = {}
    for volume in real:
        first = by_subject.setdefault(subject_of(volume), volume)
        if first != volume:
            fault = f"is of the same subject as {first}, by the names of the files"
            raise InputError(volume, fault, "Name one modality with a pattern such as 'FOLDER/*_T1w.nii.gz'")
    found = {volume: by_subject.get(subject_of(volume)) for volume in synthetic}
    return {volume: partner for volume, partner in found.items() if partner}
