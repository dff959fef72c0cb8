"""`midiff view`: the page of some results, in the browser."""

from __future__ import annotations

import logging
import webbrowser
from collections.abc import Callable, Iterable
from pathlib import Path

from midiff_monai.qc.page import write_study_page
from midiff_monai.qc.subject import Subject

_logger = logging.getLogger(__name__)


def view_results(
    folder: Path,
    in_browser: bool = True,
    progress: Callable[[Iterable[Subject]], Iterable[Subject]] = iter,  # type: ignore[assignment]
) -> Path:
    """Write the page of the results in a folder, and open it in the browser.

    Args:
        folder: the output folder of any command; its subfolders are included.
        in_browser: open the page.
        progress: wraps the iteration over the results, for example `tqdm`.

    Returns:
        The path of the page.

    Raises:
        InputError: the folder does not exist, or holds no results.
    """
    page = write_study_page(folder, progress, may_be_empty=False)
    if in_browser and not webbrowser.open(page.resolve().as_uri()):
        _logger.info("No browser was found: open the page in one")
    return page
