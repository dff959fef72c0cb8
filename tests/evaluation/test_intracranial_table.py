"""The table of the intracranial volume: which heads it has, and what it says of one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import intracranial
import numpy as np
import pytest


def test_the_real_heads_are_those_that_no_training_uses(shared_data: Path) -> None:
    heads = list(intracranial.real_heads(shared_data))
    assert {head.source for head in heads} == {"heads-flair", "ixi-t1"}
    assert len(heads) == 2 * 11 + intracranial.VALIDATION
    for person in {head.subject for head in heads if head.source == "heads-flair"}:
        volumes = [head.true_ml for head in heads if head.subject == person]
        assert len(volumes) == 2 and volumes[0] == volumes[1] and 1100 < volumes[0] < 1700


@pytest.mark.parametrize(
    ("contrast", "translated", "modality"), [("T1", False, None), ("FLAIR", True, None), ("CT", True, "CT")]
)
def test_a_row_compares_the_volume_and_the_mask_with_the_truth(
    contrast: str, translated: bool, modality: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    true = np.zeros((4, 4, 4), dtype=bool)
    true[:2] = True
    found = np.zeros((4, 4, 4), dtype=np.uint8)
    found[1:3] = 1
    seen: dict[str, Any] = {}

    def segment(volumes: list[Path], folder: str, **settings: Any) -> list[SimpleNamespace]:
        seen.update(settings)
        report = SimpleNamespace(weights={"intracranial_mask": "0" * 64})
        return [SimpleNamespace(intracranial_ml=1100.0, intracranial=found, report=report)]

    monkeypatch.setattr(intracranial, "segment", segment)
    head = intracranial.Head("somewhere", "someone", contrast, tmp_path / "a.nii.gz", true, 1000.0)
    row = intracranial.row_of(head)
    assert row["error_percent"] == pytest.approx(10) and row["dice"] == 0.5
    assert seen["translated"] == translated and seen.get("modality") == modality
