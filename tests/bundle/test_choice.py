"""Which bundles a run uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from midiff_monai.bundle.choice import SEGMENTATION, TRANSLATION, choose_bundles
from midiff_monai.bundle.resources import bundle_root
from midiff_monai.errors import BundleError
from midiff_monai.pipeline.options import Mode, Settings, Task


def make(folder: Path, **metadata: Any) -> str:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return str(folder)


@pytest.fixture
def flair(tmp_path: Path) -> str:
    return make(tmp_path / "flair", target="FLAIR", anatomy="brain")


@pytest.fixture
def flair_segmenter(tmp_path: Path) -> str:
    return make(tmp_path / "segmenter", segments="FLAIR")


def test_the_shipped_bundles_are_used_by_default() -> None:
    chosen = Task().choose_bundles()
    assert (chosen.translation, chosen.segmentation) == (bundle_root(TRANSLATION), bundle_root(SEGMENTATION))
    assert chosen.target == chosen.segments == "T1w" and chosen.finds_brain


def test_metadata_say_which_shipped_bundle_is_replaced(flair: str, flair_segmenter: str) -> None:
    chosen = choose_bundles([flair_segmenter, flair])
    assert (chosen.translation, chosen.segmentation) == (Path(flair), Path(flair_segmenter))
    assert chosen.target == "FLAIR"


@pytest.mark.parametrize(
    "facts, found",
    [
        ({"target": "T1w", "anatomy": "brain"}, True),
        ({"target": "T1w", "anatomy": "any"}, False),
        ({"target": "FLAIR", "anatomy": "brain"}, False),
        ({"target": "T1w"}, False),
    ],
)
def test_the_brain_is_found_in_t1w_of_brains_alone(facts: dict[str, str], found: bool, tmp_path: Path) -> None:
    assert choose_bundles([make(tmp_path / "own", **facts)]).finds_brain == found


@pytest.mark.parametrize("relative", [False, True])
def test_a_bundle_is_found_from_any_working_directory(
    relative: bool, flair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = bundle_root("flair" if relative else flair)
    assert root.is_absolute() and root.samefile(flair)


def test_a_segmenter_of_another_modality_is_refused(flair: str, flair_segmenter: str) -> None:
    with pytest.raises(BundleError, match=r"flair: makes FLAIR, but t1_brain_segmentation segments T1w\."):
        Task(Mode.SEGMENT, Settings(bundle=flair)).choose_bundles()
    with pytest.raises(BundleError, match="makes T1w, but segmenter segments FLAIR"):
        Task(Mode.SEGMENT, Settings(bundle=flair_segmenter)).choose_bundles()
    assert Task(Mode.SEGMENT, Settings(bundle=[flair, flair_segmenter])).choose_bundles().segments == "FLAIR"
    assert Task(Mode.TRANSLATE, Settings(bundle=flair)).choose_bundles().target == "FLAIR"
    assert Task(Mode.SEGMENT_DIRECTLY, Settings(bundle=Path(flair_segmenter))).choose_bundles().segments == "FLAIR"


def test_a_bundle_without_effect_is_refused(flair: str, flair_segmenter: str) -> None:
    with pytest.raises(BundleError, match="no effect without translation"):
        Task(Mode.SEGMENT_DIRECTLY, Settings(bundle=flair)).choose_bundles()
    with pytest.raises(BundleError, match="no effect in a translation to FLAIR"):
        Task(Mode.TRANSLATE, Settings(bundle=[flair, flair_segmenter])).choose_bundles()


def test_two_bundles_of_one_kind_are_refused(flair: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does the same as"):
        choose_bundles([flair, make(tmp_path / "t2", target="T2w")])


@pytest.mark.parametrize("metadata", ["{}", "no json", "[1]"])
def test_a_bundle_that_does_not_say_what_it_makes_is_refused(metadata: str, tmp_path: Path) -> None:
    own = Path(make(tmp_path / "own"))
    (own / "configs" / "metadata.json").write_text(metadata)
    with pytest.raises(BundleError, match="does not say what it makes|cannot be read"):
        choose_bundles([str(own)])
