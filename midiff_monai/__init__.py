"""Zero-shot cross-modality segmentation of medical volumes by diffusion guided with local mutual information."""

from __future__ import annotations

from typing import Any

__all__ = ["segment", "translate"]


def __getattr__(name: str) -> Any:
    # torch and MONAI take seconds to import: `midiff --help` must not wait for them
    if name in __all__:
        from midiff_monai import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
