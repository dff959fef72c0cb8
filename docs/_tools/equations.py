"""Equations as GitHub takes them, in $`…`$ or ```math, turned into MathML, which browsers draw without a script."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

BLOCK = re.compile(r"^```math\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"\$`([^`]+)`\$")


class Equations:
    """The equations of one page: markers stand for them while Markdown is processed, which would change MathML."""

    def __init__(self) -> None:
        self.rendered: list[str] = []

    def take_out(self, markdown: str) -> str:
        """Return the Markdown with a marker in place of each equation."""
        markdown = BLOCK.sub(lambda found: self._keep(found[1], "block"), markdown)
        return INLINE.sub(lambda found: self._keep(found[1], "inline"), markdown)

    def put_back(self, html: str) -> str:
        """Return the page's HTML with each marker replaced by its equation."""
        for index, equation in enumerate(self.rendered):
            html = html.replace(_marker(index), equation)
        return html

    def _keep(self, latex: str, display: str) -> str:
        self.rendered.append(convert(latex, display=display))
        return _marker(len(self.rendered) - 1)


def _marker(index: int) -> str:
    return f"EQUATION{index:04d}END"
