"""The page in a browser, opened from disk: contents, behaviour, and requests that it must not make."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_study import WEIGHTS, data_of, subjects_of, write_result

from midiff_monai.qc.page import write_study_page

HOSTILE = "sub-06_<img src=x onerror=document.title='owned'>&amp;' \"é_PDw"
HOSTILE_TEXT = "</script><script>document.title='owned'</script><!-- <b>bold</b>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SOFTWARE_WEBGL = ["--no-first-run", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of seven scans: five usual ones, one unusual with a hostile name, and one that failed."""
    folder = tmp_path_factory.mktemp("study")
    for number in range(1, 6):
        write_result(folder, f"sub-{number:02d}_PDw", 1 + 0.02 * (number - 1), layers=number == 1)
    write_result(folder, HOSTILE.replace("/", ""), 1.4, warnings=[HOSTILE_TEXT])
    (folder / "batch_report.csv").write_text(
        "input,status,seconds,warnings,error,report\n"
        "in/torn.nii.gz,failed,0.1,,in/torn.nii.gz: is truncated.,torn_report.json\n"
    )
    write_study_page(folder)
    return folder


def test_a_subject_that_cannot_be_shown_does_not_affect_others(tmp_path: Path) -> None:
    for name in ("good", "odd", "bare", "broken"):
        write_result(tmp_path, name)
    (tmp_path / "odd_volumes.csv").write_text("nonsense\n1\n")
    for role in (".nii.gz", "_synthT1w.nii.gz", "_dseg.nii.gz"):
        (tmp_path / f"bare{role}").unlink()
    nib.save(nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "broken_dseg.nii.gz")
    subjects = subjects_of(write_study_page(tmp_path))
    assert "cannot be shown" in subjects["broken"]["warnings"][-1] and not subjects["broken"]["pictures"]
    assert "cannot be read" in subjects["odd"]["warnings"][-1] and subjects["odd"]["pictures"]
    assert subjects["good"]["pictures"] and not subjects["bare"]["pictures"]


def test_the_page_lists_every_subject(study: Path) -> None:
    subjects = subjects_of(study / "index.html")
    assert len(subjects) == 7
    unusual, failed, usual = subjects[HOSTILE], subjects["torn.nii.gz"], subjects["sub-03_PDw"]
    assert (failed["status"], failed["viewer"], failed["pictures"]) == ("failed", None, {})
    assert "volume" in {flag["kind"] for flag in unusual["flags"]} and unusual["z"]["white matter"] > 3.5
    # the ellipsoid brains of this study are 114 mm long
    assert {flag["kind"] for flag in usual["flags"]} == {"absent", "size"}
    assert usual["scores"]["edge_correlation"] > 0.9 and abs(usual["z"]["white matter"]) < 1
    assert len({subject["key"] for subject in subjects.values()}) == 7


def test_text_from_files_cannot_end_the_data_or_refer_to_the_network(study: Path) -> None:
    page = (study / "index.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<b>bold" not in page and not re.search(r"https?:|//[a-z]+\.", page)


def test_an_empty_folder_gives_a_page(tmp_path: Path) -> None:
    assert data_of(write_study_page(tmp_path))["subjects"] == []


def test_writing_again_gives_the_same_page(study: Path) -> None:
    before = {path.name: path.read_bytes() for path in [study / "index.html", *study.glob("_viewer/*")]}
    write_study_page(study)
    assert before == {path.name: path.read_bytes() for path in [study / "index.html", *study.glob("_viewer/*")]}


def wait_for_text(page: Any, selector: str, text: str) -> None:
    """Wait until an element shows a text: the page changes after its address."""
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector).innerText.includes(text)", arg=[selector, text]
    )


def open_subject(page: Any, name: str) -> None:
    """Click a row of the table, and wait for the subject's view."""
    page.locator("#subjects tbody tr", has_text=name).click()
    wait_for_text(page, "#subject h1", name)


class TestInBrowser:
    @pytest.fixture(scope="class")
    @classmethod
    def browser(cls) -> Iterator[Any]:
        playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, to drive a browser")
        if CHROMIUM is None:
            pytest.skip("needs Chromium: apt-get install chromium")
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS + SOFTWARE_WEBGL)
            yield browser
            browser.close()

    @pytest.fixture
    def page(self, browser: Any, study: Path) -> Iterator[Any]:
        """The study page, opened from disk; checks at the end that no error and no network request occurred."""
        page = browser.new_page(viewport={"width": 700, "height": 500})
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((study / "index.html").as_uri())
        yield page
        page.close()
        assert not errors
        assert all(url.startswith((study.as_uri(), "data:", "blob:")) for url in requests)

    @staticmethod
    def names(page: Any) -> list[str]:
        return page.locator("#subjects tbody tr td:first-child").all_inner_texts()

    def test_sorts_by_a_column_in_both_orders_with_missing_values_last(self, page: Any) -> None:
        header = page.locator("#subjects th button", has_text="white matter")
        usual = [f"sub-{number:02d}_PDw" for number in range(1, 6)]
        header.click()
        assert self.names(page) == [*usual, HOSTILE, "torn.nii.gz"]
        header.click()
        assert self.names(page) == [HOSTILE, *usual[::-1], "torn.nii.gz"]

    def test_filters_by_words_status_and_flags(self, page: Any) -> None:
        page.fill("#search", "sub- 03")
        assert self.names(page) == ["sub-03_PDw"]
        page.fill("#search", "TRUNCATED")
        assert self.names(page) == ["torn.nii.gz"]
        page.fill("#search", "")
        page.select_option("#status", "failed")
        assert self.names(page) == ["torn.nii.gz"]
        page.check("#flagged")
        assert self.names(page) == []

    def test_names_and_warnings_are_text(self, page: Any, study: Path) -> None:
        page.locator("#subjects tbody tr", has_text="onerror").click()
        wait_for_text(page, "#subject h1", HOSTILE)
        assert HOSTILE_TEXT in page.locator("#flags li").all_inner_texts()
        assert page.title() == f"Quality control: {study.name}"
        assert page.locator("b").count() == 0

    def test_a_subject_shows_its_processing_and_leads_to_the_next(self, page: Any) -> None:
        open_subject(page, "sub-01")
        wait_for_text(page, "#details", WEIGHTS)
        page.click("#next")
        wait_for_text(page, "#subject h1", "sub-02_PDw")
        page.keyboard.press("k")
        wait_for_text(page, "#subject h1", "sub-01_PDw")
        page.click("#back")
        page.wait_for_selector("#subjects", state="visible")

    @staticmethod
    def colourfulness(page: Any, selector: str) -> float:
        """Return the mean range of red, green and blue on the screen, 0 to 255."""
        pixels = np.asarray(Image.open(BytesIO(page.locator(selector).first.screenshot())).convert("RGB"), dtype=float)
        return float(np.ptp(pixels, axis=2).mean())

    def test_structures_fade_in_and_out_over_the_pictures(self, page: Any) -> None:
        open_subject(page, "sub-01")
        assert page.locator("#mosaics figure").count() == 2
        page.wait_for_function(
            "[...document.querySelectorAll('#mosaics img')].every((image) => image.naturalWidth > 99)"
        )
        faded = []
        for opacity in ("0", "0.5", "1"):
            page.fill("#opacity", opacity)
            faded.append(self.colourfulness(page, ".layers"))
        assert faded[0] < 0.5 and faded[1] > 5 and faded[2] > 1.5 * faded[1]

    @staticmethod
    def open_viewer(page: Any, name: str) -> None:
        if not page.evaluate("document.createElement('canvas').getContext('webgl2') !== null"):
            pytest.skip("needs a browser with WebGL 2")
        open_subject(page, name)
        page.click("#open")
        page.wait_for_selector("#viewer[data-ready]", timeout=120_000)

    @staticmethod
    def offered(page: Any) -> list[str]:
        return page.locator("#layer option").evaluate_all("(options) => options.map((option) => option.value)")

    def test_the_viewer_draws_from_disk(self, page: Any) -> None:
        self.open_viewer(page, "sub-01")
        page.fill("#layer-opacity", "0")
        without = self.colourfulness(page, "#stage")
        page.fill("#layer-opacity", "1")
        assert self.colourfulness(page, "#stage") > without + 5

    def test_the_viewer_offers_the_layers_that_a_subject_has(self, page: Any) -> None:
        """The text names what lies at the centre, in the ventricle; the pictures differ."""
        self.open_viewer(page, "sub-01")
        at_centre = {"segmentation": "Lateral-Ventricle", "parcels": "Background", "intracranial": "Intracranial"}
        at_centre |= {"probability": "0.6", "entropy": "0.16", "synthetic_error": "0.12"}
        assert self.offered(page) == list(at_centre)
        pictures = []
        for role, text in at_centre.items():
            page.select_option("#layer", role)
            wait_for_text(page, "#location", text)
            assert float(page.input_value("#layer-opacity")) > 0.2
            pictures.append(page.locator("#stage").screenshot())
        assert len(set(pictures)) == len(at_centre)
        page.click("#back")
        self.open_viewer(page, "sub-02")
        assert self.offered(page) == ["segmentation"]

    def test_without_the_viewer_folder_the_page_works_and_the_viewer_names_the_folder(
        self, browser: Any, study: Path, tmp_path: Path
    ) -> None:
        shutil.copy(study / "index.html", tmp_path)
        page = browser.new_page()
        page.goto((tmp_path / "index.html").as_uri())
        open_subject(page, "sub-01")
        assert (
            page.locator("#mosaics img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 99
        )
        page.click("#open")
        page.wait_for_selector("#trouble:not(:empty)")
        wait_for_text(page, "#trouble", "_viewer")
        page.close()
