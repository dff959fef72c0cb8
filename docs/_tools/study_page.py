"""The picture of a study page: nine phantoms, one of them too small and one damaged, as a browser shows them.

python docs/_tools/study_page.py docs/study_page.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from midiff_monai.evaluation.phantom import make_phantom

SIZES = (0.98, 0.96, 0.93, 0.99, 0.95, 0.84, 0.97, 0.94)
"""Length of each subject's head relative to the template, which is large. The sixth is unusually small."""

UNUSUAL, T2_FROM = 6, 7
WIDTH = 1360


def write_scans(folder: Path) -> None:
    """Write the scans of nine subjects: PD, the last two whole ones T2w, and a PD that is truncated."""
    for subject, size in enumerate(SIZES, start=1):
        contrast = "T2" if subject >= T2_FROM else "PD"
        image = make_phantom(contrast, seed=subject).image
        affine = np.diag([size, size, size, 1]) @ image.affine
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), folder / f"sub-{subject:02d}_{contrast}w.nii.gz")
    whole = (folder / "sub-01_PDw.nii.gz").read_bytes()
    (folder / "sub-09_PDw.nii.gz").write_bytes(whole[: len(whole) // 2])


def screenshots(page: Path, subject: str) -> list[Image.Image]:
    """Pictures of the table of a study page, and of the part on one subject, in the system's Chromium."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 400})
        tab.goto(page.resolve().as_uri())
        pictures = [Image.open(BytesIO(tab.screenshot(full_page=True)))]
        tab.get_by_text(subject, exact=True).click()
        tab.wait_for_timeout(1000)
        whole = Image.open(BytesIO(tab.screenshot(full_page=True)))
        below = tab.get_by_role("heading", name="Processing").bounding_box()
        pictures.append(whole.crop((0, 0, WIDTH, int(below["y"]) if below else whole.height)))
        browser.close()
    return pictures


def stacked(pictures: list[Image.Image], gap: int = 8) -> Image.Image:
    """One picture above the other, with a grey line between."""
    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (WIDTH, height), "#777777")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height + gap
    return whole


def main() -> None:
    """Process the study and draw its page into the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file of the picture, .png")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scans, results = Path(folder) / "scans", Path(folder) / "phantom_study"
        scans.mkdir()
        write_scans(scans)
        command = [sys.executable, "-m", "midiff_monai", "batch", "scans", "-o", results.name]
        subprocess.run(command, cwd=folder, check=False)  # the truncated scan makes it fail
        pictures = screenshots(results / "index.html", f"sub-{UNUSUAL:02d}_PDw")
        stacked(pictures).save(arguments.out, optimize=True)


if __name__ == "__main__":
    main()
