"""From slices to volumes: guided diffusion, translation, segmentation."""

from midiff_monai.inferers.guided_diffusion import LMIGuidedInferer
from midiff_monai.inferers.segmentation import BrainSegmentation
from midiff_monai.inferers.slicewise import SlicewiseInferer
from midiff_monai.inferers.translation import SlicewiseTranslation

__all__ = [
    "BrainSegmentation",
    "LMIGuidedInferer",
    "SlicewiseInferer",
    "SlicewiseTranslation",
]
