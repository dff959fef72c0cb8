"""The scans of a run by person: jobs of several scans that are translated together. This module needs no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from midiff_monai.io.inputs import SAME_NAME, Job, Search, find_scans, without_duplicates
from midiff_monai.io.outputs import DEFAULT_TARGET, OutputPaths
from midiff_monai.io.paths import volume_stem, without_contrast

ONLY_SCAN = "No other scan of this person was found to translate together with this one."
"""The warning of a job of several scans that has only one."""


@dataclass(frozen=True, kw_only=True)
class JointJob(Job):
    """Several scans of one person, one volume of a run. The results lie on the grid of the first, and have its name.

    Attributes:
        scans: all scans, the first one among them.
    """

    scans: tuple[Job, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of all scans."""
        return tuple(file for scan in self.scans for file in scan.files)

    def absolute(self) -> JointJob:
        """Return the job with absolute paths, also of its scans."""
        return join([scan.absolute() for scan in self.scans], super().absolute().paths)


def join(scans: Sequence[Job], paths: OutputPaths | None = None) -> JointJob:
    """The job of several scans of one person. Its results have the name of the first, or those of `paths`."""
    first = scans[0]
    return JointJob(first.source, paths or first.paths, first.series, scans=tuple(scans))


def find_people(
    items: Sequence[str | Path] | str | Path,
    output: str | Path,
    modality: str | None = None,
    target: str = DEFAULT_TARGET,
) -> list[Job]:
    """Find the scans of a run, and join those of each person and session. The arguments are those of `find_jobs`.

    These are the scans of one person:

    - rows of a table that agree in the columns `subject` and, if there is one, `session`;
    - DICOM series of one study;
    - other files of one folder, if their names differ in the contrast at the end alone, as `sub-01_PDw.nii.gz` and
      `sub-01_T2w.nii.gz` do.

    Returns:
        A job for each person, of one scan or several, in the order of the first scans. Excluded scans follow.

    Raises:
        InputError: as `find_jobs`.
    """
    scans = find_scans(items, Search(Path(output), modality, target))
    people: dict[tuple[str, ...], list[Job]] = defaultdict(list)
    for scan in (scan for scan in scans if not scan.exclusion_reason):
        if scan not in (known := people[_person(scan)]):
            known.append(scan)
    excluded = [scan for scan in scans if scan.exclusion_reason]
    return without_duplicates([*map(join, people.values()), *excluded], hint=SAME_NAME)


def _person(scan: Job) -> tuple[str, ...]:
    """What identifies person and session of a scan."""
    if scan.person:
        return ("table", scan.person)
    if scan.series:
        return ("study", scan.series.study or str(scan.source))
    return ("name", str(scan.source.parent.resolve()), without_contrast(volume_stem(scan.source)))
