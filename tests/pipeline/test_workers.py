"""The division of made-up machines among the volumes of a batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from midiff_monai.errors import InputError
from midiff_monai.pipeline import workers
from midiff_monai.pipeline.workers import choose_workers

GB = 10**9


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight cores, much memory and Dask."""
    monkeypatch.setattr(workers, "usable_processors", lambda variables, root: 8)
    monkeypatch.setattr(workers, "has_dask", lambda: True)
    set_free_memory(monkeypatch, 64 * GB)


def set_free_memory(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("volumes", "processes", "threads", "limit", "chosen"),
    [
        (100, None, None, None, (8, 1)),
        (3, None, None, None, (3, 2)),  # fewer volumes than cores
        (1, None, None, None, (0, 8)),
        (100, None, 2, None, (4, 2)),
        (100, None, 8, None, (0, 8)),
        (100, None, None, "4", (4, 1)),  # the user leaves the other cores to others
        (100, None, None, "1", (0, 1)),
        (100, 0, None, None, (0, 8)),
        (100, 0, None, "4", (0, 4)),
        (100, 1, None, None, (1, 8)),
        (100, 4, None, None, (4, 2)),
        (100, 4, None, "1", (4, 1)),
        (100, 4, None, "8", (4, 2)),  # as many batch scripts set it, for one process
        (100, 16, None, None, (16, 1)),
        (100, 4, 8, None, (4, 8)),  # as the user says
        (0, None, None, None, (0, 8)),
    ],
)
def test_cores_are_divided_among_processes(
    volumes: int, processes: int | None, threads: int | None, limit: str | None, chosen: tuple[int, int]
) -> None:
    variables = {} if limit is None else {"OMP_NUM_THREADS": limit}
    assert choose_workers(volumes, processes, threads, variables) == chosen


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("free", "chosen"), [(12 * GB, (4, 2)), (5 * GB, (2, 4)), (4 * GB, (0, 8)), (GB, (0, 8))])
def test_processes_have_room_in_the_memory(free: int, chosen: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_memory(monkeypatch, free)
    assert choose_workers(100, variables={}) == chosen


@pytest.mark.usefixtures("eight_cores")
def test_processes_have_room_in_the_memory_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/memory.max").write_text(f"{8 * GB}\n")
    assert choose_workers(100, variables={}, root=tmp_path) == (3, 2)


@pytest.mark.usefixtures("eight_cores")
def test_without_dask_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "has_dask", lambda: False)
    assert choose_workers(100, variables={}) == (0, 8)


def test_a_negative_number_of_processes_is_refused() -> None:
    with pytest.raises(InputError, match="--workers: is -1"):
        choose_workers(1, -1)
