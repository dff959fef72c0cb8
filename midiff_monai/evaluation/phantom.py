"""The template phantom: a simulated clinical brain scan of a chosen contrast, with its true tissues.

The anatomy is the MNI ICBM152 2009a symmetric template (Fonov et al., NeuroImage 54:313, 2011), which the nilearn
package contains. The contrast follows from the signal equation of the pulse sequence and the relaxation times of
BrainWeb at 1.5 T (Kwan, Evans and Pike, IEEE TMI 18:1085, 1999). The phantom needs no download and no neural network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from types import MappingProxyType
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

BACKGROUND, CSF, GREY, WHITE = range(4)

MNI_CODE, ALIGNED_CODE = 4, 2  # NIFTI_XFORM_MNI_152, NIFTI_XFORM_ALIGNED_ANAT


T1_LEVELS = (0.30, 0.58, 0.67, 0.875)
"""Intensities of the template's T1 in [0, 1]: pure CSF, lower and upper end of grey matter, pure white matter."""


class Tissue(NamedTuple):
    """Magnetic properties of a tissue: relaxation times in milliseconds, proton density relative to water."""

    t1: float
    t2: float
    proton_density: float


class PulseSequence(NamedTuple):
    """Timing in milliseconds of a spin echo, or of an inversion recovery if `inversion` is given."""

    repetition: float
    echo: float
    inversion: float | None = None

    def signal(self, tissue: Tissue) -> float:
        """Return the transverse magnetisation at the echo, relative to that of water in equilibrium."""
        longitudinal = 1 - exp(-self.repetition / tissue.t1)
        if self.inversion is not None:
            longitudinal = 1 - 2 * exp(-self.inversion / tissue.t1) + exp(-self.repetition / tissue.t1)
        return tissue.proton_density * longitudinal * exp(-self.echo / tissue.t2)


TISSUES: Mapping[int, Tissue] = MappingProxyType(
    {CSF: Tissue(2569, 329, 1.0), GREY: Tissue(833, 83, 0.86), WHITE: Tissue(500, 70, 0.77)}
)
"""Label → properties at 1.5 T (BrainWeb; Kwan, Evans and Pike, 1999)."""

CONTRASTS: Mapping[str, PulseSequence] = MappingProxyType(
    {
        "PD": PulseSequence(repetition=3000, echo=20),
        "T1": PulseSequence(repetition=2000, echo=5, inversion=900),  # the weighting of an MPRAGE, not of a spin echo
        "T2": PulseSequence(repetition=3000, echo=90),
        "FLAIR": PulseSequence(repetition=9000, echo=100, inversion=1700),  # CSF nulls at 1704 ms
    }
)
"""Name → timing of a typical clinical protocol."""


@dataclass(frozen=True)
class Phantom:
    """A skull-stripped brain and its true tissues on the same LAS grid in MNI space, in millimetres.

    Attributes:
        image: float32, zero outside the brain, about 1000 in the brightest tissue.
        tissues: uint8, the tissue with the largest fraction of each voxel: 0 background, 1 CSF, 2 grey matter, 3 white
            matter.
    """

    image: nib.Nifti1Image
    tissues: nib.Nifti1Image


def make_phantom(
    contrast: str = "PD",
    *,
    spacing: Sequence[float] = (1.0, 1.0, 3.0),
    noise: float = 0.02,
    bias: float = 0.2,
    seed: int = 0,
) -> Phantom:
    """Simulate one acquisition of the template brain.

    Args:
        contrast: a key of `CONTRASTS`.
        spacing: voxel size (left-right, posterior-anterior, inferior-superior) in mm, at least 1 mm as the template.
        noise: standard deviation of the receiver noise in each of the two channels, as a fraction of the signal of the
            brightest tissue. The noise of the magnitude image is Rician.
        bias: amplitude of the smooth bias field, whose values are within 1 ± bias.
        seed: seed of the noise and the bias field. Equal arguments give equal voxels.

    Raises:
        KeyError: the contrast is not in `CONTRASTS`.
    """
    fractions, template_affine = _template_fractions()
    fractions = average_over_voxels(fractions, spacing)[:, ::-1]  # LAS
    tissues = fractions.argmax(axis=0).astype(np.uint8)
    image = acquire(fractions, CONTRASTS[contrast], noise=noise, bias=bias, seed=seed)
    image[tissues == BACKGROUND] = 0
    affine = _las_affine(template_affine, tissues.shape, spacing)
    return Phantom(_nifti(image, affine), _nifti(tissues, affine))


def _template_fractions() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the fractions (4, X, Y, Z) of background, CSF, grey and white matter at 1 mm in RAS, and the affine.

    The tissue maps of the template classify most of the brain stem and the cerebellum as grey matter. The fractions are
    thus derived from its T1: each voxel is a mixture of the two tissues nearest to its intensity.
    """
    # imported here, because the import of nilearn takes two seconds
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    t1 = template.get_fdata(dtype=np.float32)
    brain = t1 > 0  # the template is skull-stripped
    t1 = _undo_averaging(t1, brain)
    csf = np.interp(t1, T1_LEVELS[:2], [1, 0]).astype(np.float32)
    white = np.interp(t1, T1_LEVELS[2:], [0, 1]).astype(np.float32)
    shares = np.stack([csf, 1 - csf - white, white]) ** 1.5  # sharper than the average of many brains
    shares *= brain / shares.sum(axis=0)
    return np.concatenate([~brain[None], shares]), template.affine


def _undo_averaging(t1: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sharpen the average of 152 brains with an unsharp mask, because averaging has closed the sulci partly."""
    blurred = gaussian_filter(t1 * brain, 1.5) / np.maximum(gaussian_filter(brain.astype(np.float32), 1.5), 1e-3)
    return t1 + 1.5 * (t1 - blurred)


def average_over_voxels(maps: NDArray[np.float32], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Average maps (C, X, Y, Z) at 1 mm over voxels of `spacing` mm, exactly, from the first corner of the grid."""
    for axis, size in enumerate(spacing, start=1):
        if size == 1:
            continue
        lines = np.moveaxis(maps, axis, 0)
        averaged = _overlaps(len(lines), size) @ lines.reshape(len(lines), -1)
        maps = np.moveaxis(averaged.reshape(-1, *lines.shape[1:]), 0, axis)
    return maps


def _overlaps(length: int, size: float) -> csr_array:
    """Return the overlap of each voxel of `size` with each of `length` unit voxels, as fractions of the former."""
    starts = np.arange(int(length / size))[:, None] * size
    units = np.arange(length)
    overlap = np.minimum(starts + size, units + 1) - np.maximum(starts, units)
    return csr_array((np.clip(overlap, 0, None) / size).astype(np.float32))


def acquire(
    fractions: NDArray[np.float32],
    sequence: PulseSequence,
    *,
    noise: float,
    bias: float,
    seed: int,
    tissues: Mapping[int, Tissue] = TISSUES,
) -> NDArray[np.float32]:
    """Simulate the magnitude image (X, Y, Z) of tissue fractions. The brightest brain tissue is near 1000.

    Args:
        fractions: tissue fractions (T, X, Y, Z). The first one is the background, which has no signal.
        sequence: pulse sequence, such as one of `CONTRASTS`.
        noise: as for `make_phantom`.
        bias: as for `make_phantom`.
        seed: as for `make_phantom`.
        tissues: index of a fraction → properties of its tissue.
    """
    generator = np.random.default_rng(seed)
    signals = {label: sequence.signal(tissue) for label, tissue in tissues.items()}
    scale = 1000 / max(signals[label] for label in TISSUES)
    clean = sum(scale * signal * fractions[label] for label, signal in signals.items())
    field = 1 + bias * _smooth_field(fractions.shape[1:], generator)
    real, imaginary = generator.normal(scale=1000 * noise, size=(2, *field.shape))
    return np.hypot(clean * field + real, imaginary).astype(np.float32)


def _smooth_field(shape: Sequence[int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return a random sum of low-frequency cosines along each axis, scaled to a largest magnitude of one."""
    orders = np.arange(3)
    bases = [np.cos(np.pi * orders * (np.arange(length)[:, None] + 0.5) / length) for length in shape]
    weights = generator.normal(size=(orders.size,) * 3)
    weights[0, 0, 0] = 0  # a constant would only rescale the image
    field = np.einsum("abc,xa,yb,zc->xyz", weights, *bases, optimize=True)
    return field / np.abs(field).max()


def _las_affine(
    template_affine: NDArray[np.float64], shape: Sequence[int], spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Return the LAS affine of a grid that starts at the same corner as the template."""
    first_centre = template_affine[:3, 3] + (np.asarray(spacing) - 1) / 2
    affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    affine[:3, 3] = first_centre
    affine[0, 3] += (shape[0] - 1) * spacing[0]
    return affine


def _nifti(voxels: NDArray[np.float32] | NDArray[np.uint8], affine: NDArray[np.float64]) -> nib.Nifti1Image:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, MNI_CODE)
    image.set_qform(affine, ALIGNED_CODE)
    image.header.set_xyzt_units("mm")
    return image
