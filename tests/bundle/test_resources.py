from __future__ import annotations

from pathlib import Path

import pytest

from midiff_monai.bundle import resources
from midiff_monai.errors import BundleError


@pytest.fixture(params=["checkout", "wheel"])
def tree(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two bundles, an incomplete bundle and an overlay, in a checkout or a wheel."""
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


def test_lists_complete_bundles(tree: Path) -> None:
    assert resources.available_bundles() == ["segmentation", "translation"]
    assert resources.available_overlays() == ["flair"]


def test_finds_bundles_in_a_checkout_and_in_a_wheel(tree: Path) -> None:
    assert resources.bundle_root("translation") == tree / "bundles" / "translation"
    assert resources.overlay_path("flair") == tree / "transforms" / "flair.yaml"


@pytest.mark.parametrize("name", ["unfinished", "typo", "../bundles/translation", ""])
def test_an_unknown_bundle_lists_the_available_ones(tree: Path, name: str) -> None:
    with pytest.raises(BundleError, match="segmentation, translation"):
        resources.bundle_root(name)


def test_an_unknown_overlay_lists_the_available_ones(tree: Path) -> None:
    with pytest.raises(BundleError, match=r"pet\.yaml: does not exist\. Available are: flair"):
        resources.overlay_path("pet")


def test_the_wheel_takes_precedence_over_a_folder_beside_it(tree: Path, tmp_path: Path) -> None:
    """site-packages may contain the `bundles` folder of another project."""
    ours = tmp_path / "midiff_monai" / "_resources" / "bundles" / "ours" / "configs"
    ours.mkdir(parents=True)
    (ours / "metadata.json").write_text("{}")
    assert "ours" in resources.available_bundles()


def test_this_checkout_has_its_bundles_beside_the_package() -> None:
    repository = Path(__file__).resolve().parents[2]
    on_disk = sorted(path.parents[1].name for path in repository.glob("bundles/*/configs/metadata.json"))
    assert resources.available_bundles() == on_disk


@pytest.mark.parametrize(
    "name, modality, absolute",
    [
        (None, "MR", False),
        ("MR", "MR", False),
        ("CT", "CT", True),
        ("CT_brain", "CT", True),
        ("CT_body", "CT", True),
        ("PET", "PT", True),
        ("US", "US", True),
    ],
)
def test_presets_say_how_a_scan_is_read(name: str | None, modality: str, absolute: bool) -> None:
    assert resources.read_preset(name) == resources.Preset(modality, absolute)


def test_an_overlay_need_not_say_how_a_scan_is_read(tree: Path) -> None:
    assert resources.read_preset("flair") == resources.Preset("", absolute=False)
