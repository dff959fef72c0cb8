"""What `--workers` and `--device` make of a machine with four cores."""

from __future__ import annotations

import pytest
import torch

from midiff_monai.cli.commands import _executor, _workers
from midiff_monai.cli.parser import build_parser
from midiff_monai.pipeline import workers
from midiff_monai.pipeline.batch import run_sequentially
from midiff_monai.pipeline.dask_executor import DaskExecutor
from midiff_monai.pipeline.workers import Workers


@pytest.mark.parametrize(
    ("options", "gpu", "expected"),
    [
        ([], False, DaskExecutor(4, threads=1)),
        (["--threads", "2"], False, DaskExecutor(2, threads=2)),
        (["--workers", "0"], False, run_sequentially),
        ([], True, run_sequentially),
        (["--device", "cuda:1"], True, run_sequentially),
        (["--device", "cpu"], True, DaskExecutor(4, threads=1)),
        (["--workers", "2"], True, DaskExecutor(2, threads=2)),
        (["--scheduler", "tcp://host:8786"], False, DaskExecutor(scheduler="tcp://host:8786")),
    ],
)
def test_the_volumes_of_a_batch_are_given_to(
    options: list[str], gpu: bool, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(workers, "usable_processors", lambda variables, root: 4)
    monkeypatch.setattr(workers, "thread_limit", lambda variables: None)
    monkeypatch.setattr(workers, "_most_workers", lambda volumes, most, root: most)
    arguments = build_parser().parse_args(["batch", "scans", "-o", "out", *options])
    assert _executor(arguments, _workers(arguments, volumes=9)) == expected


def test_a_single_process_has_all_threads() -> None:
    arguments = build_parser().parse_args(["batch", "scans", "-o", "out", "--workers", "0", "--threads", "7"])
    assert _workers(arguments, volumes=9) == Workers(0, 7)
