"""What training configurations need beyond MONAI; inference needs none of it."""

from midiff_monai.training.atrophy import CSFDilationFieldd
from midiff_monai.training.augmentation import RandDeformCropd, RandSkullStripd
from midiff_monai.training.contrast import ContrastRandomizer, RandomizeContrastd
from midiff_monai.training.handlers import ExtendableOneCycleLR, GradientClipHandler, ReseedHandler
from midiff_monai.training.label_contrast import RandLabelContrastd
from midiff_monai.training.label_transforms import (
    BrainMaskd,
    BrainSignedDistanced,
    ClassIndexFromMUSEd,
    LabelBoundaryd,
    LabelStructuresd,
    NormalizeTissuesd,
)
from midiff_monai.training.losses import SobolevLoss
from midiff_monai.training.prepare_batch import LMIPrepareBatch, SlabPrepareBatch

__all__ = [
    "BrainSignedDistanced",
    "BrainMaskd",
    "ClassIndexFromMUSEd",
    "ExtendableOneCycleLR",
    "NormalizeTissuesd",
    "GradientClipHandler",
    "LMIPrepareBatch",
    "LabelBoundaryd",
    "LabelStructuresd",
    "ContrastRandomizer",
    "RandomizeContrastd",
    "RandLabelContrastd",
    "RandSkullStripd",
    "RandDeformCropd",
    "ReseedHandler",
    "SlabPrepareBatch",
    "SobolevLoss",
    "CSFDilationFieldd",
]
