"""The template phantom: a clinical-looking brain of a chosen contrast and its tissues, from no file and no network.

Anatomy comes from the MNI ICBM152 2009a symmetric template (Fonov et al., NeuroImage 54:313, 2011), which nilearn ships
inside its package. Contrast comes from the signal equation of the pulse sequence and the relaxation times that BrainWeb
uses for 1.5 T (Kwan, Evans and Pike, IEEE TMI 18:1085, 1999).
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
"""Grey levels of the template's T1, largest 1, of pure CSF, of grey matter (from, to) and of pure white matter."""


class Tissue(NamedTuple):
    """Magnetic properties of a tissue: times in milliseconds, proton density relative to water."""

    t1: float
    t2: float
    proton_density: float


class PulseSequence(NamedTuple):
    """Timing of a spin echo, or of an inversion recovery where `inversion` is given; milliseconds."""

    repetition: float
    echo: float
    inversion: float | None = None

    def signal(self, tissue: Tissue) -> float:
        """Return the transverse magnetisation at the echo, relative to that of water at rest."""
        longitudinal = 1 - exp(-self.repetition / tissue.t1)
        if self.inversion is not None:
            longitudinal = 1 - 2 * exp(-self.inversion / tissue.t1) + exp(-self.repetition / tissue.t1)
        return tissue.proton_density * longitudinal * exp(-self.echo / tissue.t2)


TISSUES: Mapping[int, Tissue] = MappingProxyType(
    {CSF: Tissue(2569, 329, 1.0), GREY: Tissue(833, 83, 0.86), WHITE: Tissue(500, 70, 0.77)}
)
"""Label → properties at 1.5 T (Kwan, Evans and Pike 1999, the table of BrainWeb)."""

CONTRASTS: Mapping[str, PulseSequence] = MappingProxyType(
    {
        "PD": PulseSequence(repetition=3000, echo=20),
        "T1": PulseSequence(repetition=2000, echo=5, inversion=900),  # the weighting of an MPRAGE, not of a spin echo
        "T2": PulseSequence(repetition=3000, echo=90),
        "FLAIR": PulseSequence(repetition=9000, echo=100, inversion=1700),  # CSF nulls at 1704 ms
    }
)
"""Name → timing of a usual clinical protocol."""


@dataclass(frozen=True)
class Phantom:
    """A skull-stripped brain and its true tissues, on one LAS grid in MNI space, millimetres.

    Attributes:
        image: float32, zero outside the brain, the brightest tissue near 1000.
        tissues: uint8, 0 background, 1 CSF, 2 grey matter, 3 white matter: the largest share of each voxel.
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
        spacing: voxel size (left-right, posterior-anterior, inferior-superior) in mm, at least the template's 1 mm.
        noise: standard deviation of the receiver noise in each of its two channels, as a fraction of the brightest
            tissue's signal; the magnitude is then Rician.
        bias: amplitude of the smooth receive field, which stays within 1 ± bias.
        seed: of the noise and the field; equal arguments give equal voxels.

    Raises:
        KeyError: the contrast is not in `CONTRASTS`.
    """
    fractions, template_affine = _template_fractions()
    fractions = average_over_voxels(fractions, spacing)[:, ::-1]  # stored from right to left: LAS
    tissues = fractions.argmax(axis=0).astype(np.uint8)
    image = acquire(fractions, CONTRASTS[contrast], noise=noise, bias=bias, seed=seed)
    image[tissues == BACKGROUND] = 0
    affine = _las_affine(template_affine, tissues.shape, spacing)
    return Phantom(_nifti(image, affine), _nifti(tissues, affine))


def _template_fractions() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the shares (4, X, Y, Z) of background, CSF, grey and white at 1 mm, in RAS, and the affine.

    The tissue maps that come with the template call most of the brain stem and the cerebellum grey. The shares are
    read from its T1 instead: each voxel mixes the two tissues that its grey level is between.
    """
    # nilearn takes two seconds to import, which no other caller of this module should pay.
    from nilearn.datasets import load_mni152_template

    template = load_mni152_template(resolution=1)
    t1 = template.get_fdata(dtype=np.float32)
    brain = t1 > 0  # the template is skull-stripped
    t1 = _undo_averaging(t1, brain)
    csf = np.interp(t1, T1_LEVELS[:2], [1, 0]).astype(np.float32)
    white = np.interp(t1, T1_LEVELS[2:], [0, 1]).astype(np.float32)
    shares = np.stack([csf, 1 - csf - white, white]) ** 1.5  # fewer voxels in between, as in a single brain
    shares *= brain / shares.sum(axis=0)
    return np.concatenate([~brain[None], shares]), template.affine


def _undo_averaging(t1: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Unsharp-mask the average of 152 brains, whose sulci lie elsewhere in each and have half closed."""
    blurred = gaussian_filter(t1 * brain, 1.5) / np.maximum(gaussian_filter(brain.astype(np.float32), 1.5), 1e-3)
    return t1 + 1.5 * (t1 - blurred)


def average_over_voxels(maps: NDArray[np.float32], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Average maps (C, X, Y, Z) given at 1 mm over voxels of `spacing` mm, exactly, from the first corner on."""
    for axis, size in enumerate(spacing, start=1):
        lines = np.moveaxis(maps, axis, 0)
        averaged = _overlaps(len(lines), size) @ lines.reshape(len(lines), -1)
        maps = np.moveaxis(averaged.reshape(-1, *lines.shape[1:]), 0, axis)
    return maps


def _overlaps(length: int, size: float) -> csr_array:
    """Return the share of each of `length` unit voxels in each voxel of `size` that fits wholly into them."""
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
    """Simulate the magnitude image (X, Y, Z) of the shares of tissues, the brightest of the brain's near 1000.

    Args:
        fractions: shares (T, X, Y, Z) of each voxel, first that of the background, which gives no signal.
        sequence: such as those of `CONTRASTS`.
        noise, bias, seed: as `make_phantom` takes them.
        tissues: index of a share → its properties.
    """
    generator = np.random.default_rng(seed)
    signals = {label: sequence.signal(tissue) for label, tissue in tissues.items()}
    scale = 1000 / max(signals[label] for label in TISSUES)
    clean = sum(scale * signal * fractions[label] for label, signal in signals.items())
    field = 1 + bias * _smooth_field(fractions.shape[1:], generator)
    real, imaginary = generator.normal(scale=1000 * noise, size=(2, *field.shape))
    return np.hypot(clean * field + real, imaginary).astype(np.float32)


def _smooth_field(shape: Sequence[int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return a random sum of the slowest cosines along each axis, scaled to a largest magnitude of one."""
    orders = np.arange(3)
    bases = [np.cos(np.pi * orders * (np.arange(length)[:, None] + 0.5) / length) for length in shape]
    weights = generator.normal(size=(orders.size,) * 3)
    weights[0, 0, 0] = 0  # a constant would only rescale the image
    field = np.einsum("abc,xa,yb,zc->xyz", weights, *bases, optimize=True)
    return field / np.abs(field).max()


def _las_affine(
    template_affine: NDArray[np.float64], shape: Sequence[int], spacing: Sequence[float]
) -> NDArray[np.float64]:
    """Return the affine whose voxel corners start at the template's and whose first axis runs to the left."""
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
