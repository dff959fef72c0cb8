"""The published method: local mutual information (LMI), the guide made from it, and the guided denoiser.

Wang et al., "Mutual Information Guided Diffusion for Zero-shot Cross-modality Medical Image Translation",
IEEE TMI 2024, doi 10.1109/TMI.2024.3382043. This package imports torch alone. Numba is optional; it accelerates LMI.
"""

from midiff_monai.guidance.affine_head import PixelwiseAffineHead
from midiff_monai.guidance.conditional_mean import ConditionalMean
from midiff_monai.guidance.entropy import LocalStatistics
from midiff_monai.guidance.guide import LMIGuide, PreparedSource, centre_slice
from midiff_monai.guidance.guided_denoiser import GuidedDenoiser
from midiff_monai.guidance.joint_denoiser import JointDenoiser, weighted_mean
from midiff_monai.guidance.mutual_information import LocalMutualInformation, standardize_locally

__all__ = [
    "ConditionalMean",
    "GuidedDenoiser",
    "JointDenoiser",
    "LMIGuide",
    "LocalMutualInformation",
    "LocalStatistics",
    "PixelwiseAffineHead",
    "PreparedSource",
    "centre_slice",
    "standardize_locally",
    "weighted_mean",
]
