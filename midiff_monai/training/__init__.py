"""What training configurations need beyond MONAI; inference needs none of it."""

from midiff_monai.training.atrophy import WideningFieldd
from midiff_monai.training.augmentation import RandStripd, RandWarpSlabd
from midiff_monai.training.contrast import PseudoSource, PseudoSourced
from midiff_monai.training.handlers import ExtendableOneCycleLR, GradientClipHandler, ReseedHandler
from midiff_monai.training.label_contrast import RandLabelContrastd
from midiff_monai.training.label_transforms import (
    BrainDepthd,
    BrainMaskd,
    ClassIndexFromMUSEd,
    FlattenTissued,
    MarkBorderd,
    MarkStructuresd,
)
from midiff_monai.training.losses import SobolevLoss
from midiff_monai.training.prepare_batch import LMIPrepareBatch, SlabPrepareBatch

__all__ = [
    "BrainDepthd",
    "BrainMaskd",
    "ClassIndexFromMUSEd",
    "ExtendableOneCycleLR",
    "FlattenTissued",
    "GradientClipHandler",
    "LMIPrepareBatch",
    "MarkBorderd",
    "MarkStructuresd",
    "PseudoSource",
    "PseudoSourced",
    "RandLabelContrastd",
    "RandStripd",
    "RandWarpSlabd",
    "ReseedHandler",
    "SlabPrepareBatch",
    "SobolevLoss",
    "WideningFieldd",
]
