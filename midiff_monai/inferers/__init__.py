"""From slices to volumes: guided diffusion, translation, segmentation."""

from midiff_monai.inferers.brain_mask import extract_brain
from midiff_monai.inferers.certainty import Certainty, ConfidenceCalibration
from midiff_monai.inferers.detail import DetailRefiner, RefineProbabilitiesToLabelsd
from midiff_monai.inferers.expected_error import ExpectedError
from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.intracranial import IntracranialSpace
from midiff_monai.inferers.parcellation import AssignParcelsd, HemisphereInferer, HemispheresOfLabelsd, parcellate
from midiff_monai.inferers.segmentation import BrainSegmentation
from midiff_monai.inferers.slicewise import SliceRunner, SlicewiseInferer, VolumeInferer
from midiff_monai.inferers.translation import SlicewiseTranslation

__all__ = [
    "AssignParcelsd",
    "BrainSegmentation",
    "Certainty",
    "ConfidenceCalibration",
    "DetailRefiner",
    "ExpectedError",
    "HemisphereInferer",
    "HemispheresOfLabelsd",
    "IntracranialSpace",
    "LMIGuidedInferer",
    "RefineProbabilitiesToLabelsd",
    "SliceRunner",
    "SlicewiseInferer",
    "SlicewiseTranslation",
    "VolumeInferer",
    "extract_brain",
    "parcellate",
]
