"""Links that lead through the repository, as GitHub follows them, turned into links within the site."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def rewrite_links(
    markdown: str, source: str, page: str, pages: Mapping[str, str], publish: Callable[[str], str | None]
) -> str:
    """Point the relative links of a file at their places in the site.

    Args:
        markdown: text of the file.
        source: path of the file in the repository.
        page: path of its page in the site's sources, such as `results/protocol.md`.
        pages: path in the repository → path of the page.
        publish: takes the path in the repository of a file that is no page, puts it into the site and returns its
            path there; returns None where there is no such file.

    Returns:
        The text. A link without a target stays as it is, for the build to report.
    """

    def replace(found: re.Match[str]) -> str:
        target = os.path.normpath(PurePosixPath(source).parent / found[1])
        place = pages.get(target) or publish(target)
        return found[0] if place is None else os.path.relpath(place, PurePosixPath(page).parent) + (found[2] or "")

    return LINK.sub(replace, markdown)
