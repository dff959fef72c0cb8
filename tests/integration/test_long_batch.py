"""A long batch with faulty volumes and the real segmenter: results as in single runs, bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from benchmarks import long_batch
from benchmarks.measure import status

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.inputs import find_jobs
from midiff_monai.pipeline.batch import run_batch
from midiff_monai.pipeline.batch_report import Outcome
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.pipeline.run import segment

VOLUMES, WARM_UP = 40, 20
MOST_GROWTH_MIB = 64
"""Half of what a batch would grow by if it kept the probabilities of its volumes."""


def test_a_long_batch_gives_the_results_of_single_runs_and_keeps_no_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = [make_phantom("T1", seed=seed).image.slicer[::2, ::2, 30:34] for seed in range(3)]  # type: ignore[arg-type]
    monkeypatch.setattr(long_batch, "good", lambda number, spacing: thin[number % 3])
    monkeypatch.setattr(long_batch, "EVERY", 4)
    resident: list[float] = []

    def watch(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        for outcome in outcomes:
            resident.append(status("VmRSS") / 1024)
            yield outcome

    study, out = tmp_path / "study", tmp_path / "out"
    study.mkdir()
    long_batch.write_study(VOLUMES, long_batch.SMALL, study)
    outcomes = run_batch(find_jobs([study], out), Task(Mode.SEGMENT_DIRECTLY), out, progress=watch)
    alone = segment([outcome.input for outcome in outcomes[:3]], tmp_path / "alone", translated=False)
    for number, outcome in enumerate(outcomes):
        assert outcome.status == ("failed" if long_batch.is_faulty(number) else "done"), outcome
        if outcome.status == "done":
            made = nib.Nifti1Image.from_filename(out / f"{number:04d}_dseg.nii.gz")
            np.testing.assert_array_equal(np.asarray(made.dataobj), alone[number % 3].segmentation)
    assert len(list(out.glob("*_error.json"))) == VOLUMES // 4
    assert resident[-1] - resident[WARM_UP] < MOST_GROWTH_MIB
