"""The method: local mutual information, conditional means, and the guide made of them. It needs torch alone."""

from midiff_monai.guidance.affine_head import PixelwiseAffineHead
from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.guide import LMIGuide, PreparedSource
from midiff_monai.guidance.mutual_information import LocalMutualInformation, LocalStatistics, standardize_locally

__all__ = [
    "ConditionalMean",
    "LMIGuide",
    "LocalMutualInformation",
    "LocalStatistics",
    "PixelwiseAffineHead",
    "PreparedSource",
    "standardize_locally",
]
