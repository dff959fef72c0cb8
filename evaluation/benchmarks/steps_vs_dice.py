"""Measure how the segmentation depends on the number of denoising steps and samples, and on the solver.

    python -m benchmarks.steps_vs_dice --pairs ../../shared/data/multicontrast

PROTOCOL.md describes the measures. The reference is MONAI's DDIM with many steps. `--solvers ddim ddpm` adds MONAI's
solvers with few steps.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from benchmarks.measure import publish
from run import score, subjects
from tqdm import tqdm

from midiff_monai.bundle.bundle import open_bundle
from midiff_monai.bundle.choice import SEGMENTATION, TRANSLATION
from midiff_monai.io.inputs import Job
from midiff_monai.io.outputs import output_paths
from midiff_monai.pipeline.models import Models
from midiff_monai.pipeline.options import Mode, Task
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import process

SOLVERS = {
    "trailing": "midiff_monai.networks.schedulers.TrailingDDIMScheduler",
    "dpmsolver": "midiff_monai.networks.schedulers.DPMSolverScheduler",
    "ddim": "monai.networks.schedulers.DDIMScheduler",
    "ddpm": "monai.networks.schedulers.DDPMScheduler",
}


def run(volume: Path, models: Models) -> Result:
    """Segment a volume without keeping files."""
    with tempfile.TemporaryDirectory() as folder:
        mode = Mode.SEGMENT if models.translation else Mode.SEGMENT_DIRECTLY
        return process(Job(volume, output_paths(volume, folder)), Task(mode), models)


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one row per solver, number of steps, number of samples, subject and contrast."""
    cases = [case for case in subjects(arguments.pairs) if case[1] in arguments.contrasts]
    segmentation = open_bundle(SEGMENTATION)
    truths = {t1: run(t1, Models(segmentation)) for t1 in {case[3] for case in cases}}
    choices = [(solver, n, k) for solver in arguments.solvers for n in arguments.steps for k in arguments.samples]
    choices += [("ddim", arguments.reference, 1)] if arguments.reference else []
    for solver, steps, samples in tqdm(choices):
        chosen = {"scheduler#_target_": SOLVERS[solver], "steps": steps, "samples": samples}
        models = Models(segmentation, open_bundle(TRANSLATION, **chosen))
        for subject, contrast, volume, t1 in cases:
            result = run(volume, models)
            row = {"solver": solver, "steps": steps, "samples": samples, "subject": subject, "contrast": contrast}
            yield row | score(result, truths[t1]) | {"seconds": result.report.timings["translate"]}


def means(table: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Average over the subjects."""
    return pd.DataFrame(table).groupby(["contrast", "solver", "steps", "samples"]).mean(numeric_only=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="folder of SUBJECT_T1.nii.gz and SUBJECT_PD.nii.gz …")
    parser.add_argument("--contrasts", nargs="+", default=["PD", "T2", "FLAIR"])
    parser.add_argument("--solvers", nargs="+", default=["trailing", "dpmsolver"], choices=SOLVERS)
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 10, 20])
    parser.add_argument("--samples", nargs="+", type=int, default=[1])
    parser.add_argument("--reference", type=int, default=250, help="DDIM steps of the reference, 0 for none")
    table = list(rows(parser.parse_args()))
    publish("steps_vs_dice", table)
    print(means(table).round(3).to_string())
