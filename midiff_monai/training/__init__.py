"""Transforms, handlers and losses for training that MONAI lacks. Inference does not need them."""

from midiff_monai.training.atrophy import CSFDilationFieldd
from midiff_monai.training.augmentation import RandDeformCropd, RandSkullStripd
from midiff_monai.training.brain_errors import RandBrainErrord, RandFalseBraind
from midiff_monai.training.contrast import ContrastRandomizer, RandomizeContrastd
from midiff_monai.training.handlers import ExtendableOneCycleLR, GradientClipHandler, ReseedHandler
from midiff_monai.training.hemispheres import HemisphereOfMUSEd, OneHotRegionsd, ParcelLoss, start_from_prior
from midiff_monai.training.image_classes import ImageClassContrastRandomizer, ImageClassesd
from midiff_monai.training.intracranial import (
    IntracranialFractiond,
    RandContrastd,
    RandCutHeadd,
    RandSimulateHeadd,
    RandThickSlicesd,
)
from midiff_monai.training.label_contrast import RandLabelContrastd
from midiff_monai.training.label_transforms import (
    BrainMaskd,
    BrainSignedDistanced,
    ClassIndexFromMUSEd,
    IgnoreBoundaryd,
    LabelBoundaryd,
    LabelStructuresd,
    NormalizeTissuesd,
)
from midiff_monai.training.losses import SobolevLoss
from midiff_monai.training.prepare_batch import LMIPrepareBatch
from midiff_monai.training.regions import Region
from midiff_monai.training.simulated_scan import RandSimulateScand
from midiff_monai.training.simulated_t1 import RandSimulateT1wd
from midiff_monai.training.tissue_t1w import TissueT1wd
from midiff_monai.training.two_scale import TwoScaleLoss, TwoScaleNetwork, TwoScalePrepareBatch

__all__ = [
    "BrainMaskd",
    "BrainSignedDistanced",
    "CSFDilationFieldd",
    "ClassIndexFromMUSEd",
    "ContrastRandomizer",
    "ExtendableOneCycleLR",
    "GradientClipHandler",
    "HemisphereOfMUSEd",
    "IgnoreBoundaryd",
    "ImageClassContrastRandomizer",
    "ImageClassesd",
    "IntracranialFractiond",
    "LMIPrepareBatch",
    "LabelBoundaryd",
    "LabelStructuresd",
    "NormalizeTissuesd",
    "OneHotRegionsd",
    "ParcelLoss",
    "RandBrainErrord",
    "RandContrastd",
    "RandCutHeadd",
    "RandDeformCropd",
    "RandFalseBraind",
    "RandLabelContrastd",
    "RandSimulateHeadd",
    "RandSimulateScand",
    "RandSimulateT1wd",
    "RandSkullStripd",
    "RandThickSlicesd",
    "RandomizeContrastd",
    "Region",
    "ReseedHandler",
    "SobolevLoss",
    "TissueT1wd",
    "TwoScaleLoss",
    "TwoScaleNetwork",
    "TwoScalePrepareBatch",
    "start_from_prior",
]
