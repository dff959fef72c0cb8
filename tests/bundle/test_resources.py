from __future__ import annotations

from pathlib import Path

import pytest

from midiff_monai.bundle import resources
from midiff_monai.errors import BundleError


@pytest.fixture(params=["checkout", "wheel"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with two bundles, half a bundle and an overlay; returns where they lie."""
    package = tmp_path / "midiff_monai"
    root = tmp_path if request.param == "checkout" else package / "_resources"
    for name in ("translation", "segmentation"):
        (root / "bundles" / name / "configs").mkdir(parents=True)
        (root / "bundles" / name / "configs" / "metadata.json").write_text("{}")
    (root / "bundles" / "unfinished" / "configs").mkdir(parents=True)
    (root / "transforms").mkdir()
    (root / "transforms" / "flair.yaml").touch()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return root


def test_lists_what_is_complete(tree: Path) -> None:
    assert resources.available_bundles() == ["segmentation", "translation"]
    assert resources.available_overlays() == ["flair"]


def test_finds_either_place(tree: Path) -> None:
    assert resources.bundle_root("translation") == tree / "bundles" / "translation"
    assert resources.overlay_path("flair") == tree / "transforms" / "flair.yaml"


@pytest.mark.parametrize("name", ["unfinished", "typo", "../bundles/translation", ""])
def test_unknown_bundle_lists_those_that_exist(tree: Path, name: str) -> None:
    with pytest.raises(BundleError, match="segmentation, translation"):
        resources.bundle_root(name)


def test_unknown_overlay_lists_those_that_exist(tree: Path) -> None:
    with pytest.raises(BundleError, match=r"pet\.yaml: does not exist\. Available are: flair"):
        resources.overlay_path("pet")


def test_wheel_comes_before_a_namesake_beside_it(tree: Path, tmp_path: Path) -> None:
    """site-packages may hold another project's `bundles` folder; it must not hide ours."""
    ours = tmp_path / "midiff_monai" / "_resources" / "bundles" / "ours" / "configs"
    ours.mkdir(parents=True)
    (ours / "metadata.json").write_text("{}")
    assert "ours" in resources.available_bundles()


def test_this_checkout_has_its_bundles_beside_the_package() -> None:
    repository = Path(__file__).resolve().parents[2]
    on_disk = sorted(path.parents[1].name for path in repository.glob("bundles/*/configs/metadata.json"))
    assert resources.available_bundles() == on_disk
