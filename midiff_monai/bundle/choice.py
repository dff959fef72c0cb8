"""Which bundles a run uses: the shipped ones, or a user's own in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midiff_monai.bundle.resources import bundle_root, read_metadata
from midiff_monai.errors import BundleError

TRANSLATION, SEGMENTATION = "t1_lmi_translation", "t1_brain_segmentation"
"""Names of the shipped bundles."""

PARCELLATION = "cortical_parcellation"
"""Name of the shipped bundle that divides a segmentation into parcels."""

INTRACRANIAL = "intracranial_mask"
"""Name of the shipped bundle that finds the space inside the skull."""


@dataclass(frozen=True)
class BundleChoice:
    """The bundles of a run.

    Attributes:
        translation: folder of the translation.
        segmentation: folder of the segmenter.
        target: the modality that the translation makes.
        segments: the modality that the segmenter segments.
        finds_brain: the translation makes T1w of brains. In a whole head the brain is translated once more, alone.
        labels_brain: the segmenter labels brains. Nothing outside the skull is labelled then.
        image_size: pixels of the slices that the translation takes, columns and rows. None if it takes volumes.
    """

    translation: Path
    segmentation: Path
    target: str
    segments: str
    finds_brain: bool
    labels_brain: bool
    image_size: tuple[int, int] | None = None

    def check_agreement(self) -> None:
        """Check that the segmenter segments what the translation makes.

        Raises:
            BundleError: it does not.
        """
        if self.target != self.segments:
            fault = f"makes {self.target}, but {self.segmentation.name} segments {self.segments}"
            hint = f"Only translate, or name a segmenter of {self.target} with a second --bundle"
            raise BundleError(self.translation, fault, hint)

    def check_volumes(self) -> None:
        """Check that the translation takes volumes.

        Raises:
            BundleError: it takes slices.
        """
        if self.image_size:
            fault = "translates slices, which are neither segmented nor processed in batches"
            raise BundleError(self.translation, fault, "Use `midiff translate`")

    def check_use(self, translates: bool, segments: bool) -> None:
        """Check that every bundle of the user is used in a run that translates, segments or both.

        Raises:
            BundleError: one is not.
        """
        if not translates and self.translation != bundle_root(TRANSLATION):
            fault = f"makes {self.target}, and has no effect without translation"
            raise BundleError(self.translation, fault, "Leave it out, or --no-translate")
        if not segments and not self.finds_brain and self.segmentation != bundle_root(SEGMENTATION):
            fault = f"is a segmenter, and has no effect in a translation to {self.target}"
            raise BundleError(self.segmentation, fault, "Leave it out, or use `midiff segment`")


def choose_bundles(names: Sequence[str]) -> BundleChoice:
    """Choose the bundles of a run.

    The metadata of a bundle say what it does: a translation has a `target`, a segmenter has what it `segments`.

    Args:
        names: folders or names of the bundles that take the place of the shipped ones, at most one of each kind.

    Raises:
        BundleError: a bundle does not exist or does neither, two of them do the same, or one takes the place of none.
    """
    roots: dict[str, Path] = {}
    for name in names:
        root = bundle_root(name)
        kind = _kind(root)
        if kind in roots:
            raise BundleError(root, f"does the same as {roots[kind]}", "Name one of them with --bundle")
        roots[kind] = root
    translation = roots.get("target", bundle_root(TRANSLATION))
    segmentation = roots.get("segments", bundle_root(SEGMENTATION))
    facts, labels = read_metadata(translation), read_metadata(segmentation)
    size = tuple(facts["image_size"]) if "image_size" in facts else None
    finds_brain = (facts["target"], facts.get("anatomy"), size) == ("T1w", "brain", None)
    labels_brain = labels.get("anatomy") == "brain"
    return BundleChoice(translation, segmentation, facts["target"], labels["segments"], finds_brain, labels_brain, size)


def _kind(root: Path) -> str:
    facts: dict[str, Any] = read_metadata(root)
    for kind in ("target", "segments"):
        if isinstance(facts.get(kind), str):
            return kind
    if "runs" in facts:
        hint = f"Name a bundle such as {TRANSLATION} or {SEGMENTATION}"
        raise BundleError(root, "runs other bundles, and takes the place of none", hint)
    if "parcellates" in facts:
        raise BundleError(root, "divides a segmentation, and takes the place of none", "Use --parcellation")
    if "masks" in facts:
        raise BundleError(root, "finds the space inside the skull, and takes the place of none", "Leave it out")
    hint = "Add `target` to configs/metadata.json of a translation, or `segments` to that of a segmenter"
    raise BundleError(root, "does not say what it makes", hint)
