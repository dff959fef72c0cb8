"""Good and spoiled scans with known labels, from which the quality score is learned and on which it is validated."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from yardstick_case import Case
from yardstick_scans import HELD_BACK, cases

from midiff_monai.evaluation.simulation import NECK
from midiff_monai.io.volumes import read_volume
from midiff_monai.labels import CSF, FREESURFER_IDS, TOTALS
from midiff_monai.training import ContrastRandomizer, RandSimulateScand, RandSimulateT1wd

GOOD = "good"


class Labelled(NamedTuple):
    """A scan and its truth.

    Attributes:
        image: float32 (X, Y, Z), 0 in the background.
        labels: FreeSurfer ids on the same grid, or `parcellations.NOT_SCORED`.
        affine: what the header says, right or wrong.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    affine: NDArray[np.float64]


class Planned(NamedTuple):
    """A scan that is not made yet.

    Attributes:
        name: of the scan.
        source: what it is made of, such as "label-maps".
        fault: name of its fault, or `GOOD`.
        translated: False for a T1w that is segmented as it is.
        make: makes the scan.
    """

    name: str
    source: str
    fault: str
    translated: bool
    make: Callable[[], Labelled]


def noise(scan: Labelled, random: np.random.Generator) -> Labelled:
    """Rician noise of 6 to 25 % of the brightest tissue."""
    deviation = random.uniform(0.06, 0.25) * np.percentile(scan.image[scan.image > 0], 99)
    real, imaginary = random.normal(scale=deviation, size=(2, *scan.image.shape))
    return scan._replace(image=_within(scan, np.hypot(scan.image + real, imaginary)))


def spikes(scan: Labelled, random: np.random.Generator) -> Labelled:
    """Stripes: one to four points of k-space are far too strong."""
    spectrum = np.fft.fftn(scan.image)
    for _ in range(random.integers(1, 5)):
        place = tuple(random.integers(-size // 6, size // 6) for size in spectrum.shape)
        spectrum[place] += random.uniform(0.2, 0.7) * abs(spectrum[0, 0, 0])
    return scan._replace(image=_within(scan, np.abs(np.fft.ifftn(spectrum))))


def motion(scan: Labelled, random: np.random.Generator) -> Labelled:
    """A part of the lines of k-space is that of the head in other positions."""
    axis = int(random.integers(3))
    spectrum, lines = np.fft.fftn(scan.image), scan.image.shape[axis]
    for _ in range(random.integers(2, 7)):
        turned = ndimage.rotate(scan.image, random.uniform(-8, 8), (0, 1), reshape=False, order=1)
        moved = np.fft.fftn(ndimage.shift(turned, random.uniform(-4, 4, 3), order=1))
        start = random.integers(lines)
        chosen = np.take(np.arange(lines), np.arange(start, start + lines // 10), mode="wrap")
        index = tuple(chosen if number == axis else slice(None) for number in range(3))
        spectrum[index] = moved[index]
    return scan._replace(image=_within(scan, np.abs(np.fft.ifftn(spectrum))))


def crop(scan: Labelled, random: np.random.Generator) -> Labelled:
    """From 25 to 65 % of the brain lie beyond a face of the volume."""
    axis, cut = int(random.integers(3)), random.uniform(0.25, 0.65)
    (low, high) = np.percentile(np.argwhere(scan.labels > 0)[:, axis], (0, 100))
    place = round(low + cut * (high - low))
    from_below = bool(random.integers(2))
    box = [slice(None)] * 3
    box[axis] = slice(place, None) if from_below else slice(0, scan.image.shape[axis] - place)
    image = nib.Nifti1Image(scan.image, scan.affine).slicer[tuple(box)]
    return Labelled(np.asarray(image.dataobj), scan.labels[tuple(box)], image.affine)


def field(scan: Labelled, random: np.random.Generator) -> Labelled:
    """A bias field of a factor of 8 to 60 across the volume."""
    slope = random.normal(size=3)
    grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in scan.image.shape), indexing="ij")
    ramp = sum(weight * axis for weight, axis in zip(slope / np.abs(slope).sum(), grid, strict=True))
    return scan._replace(image=(scan.image * np.exp(random.uniform(1, 2) * ramp)).astype(np.float32))


def thick(scan: Labelled, random: np.random.Generator) -> Labelled:
    """Slices of 10 to 16 mm, interpolated."""
    axis, width = int(random.integers(3)), int(random.integers(5, 9))
    averaged = ndimage.uniform_filter1d(scan.image, width, axis=axis)
    zoom = [1 / width if number == axis else 1.0 for number in range(3)]
    coarse = ndimage.zoom(averaged, zoom, order=0)
    back = [size / other for size, other in zip(scan.image.shape, coarse.shape, strict=True)]
    return scan._replace(image=_within(scan, ndimage.zoom(coarse, back, order=1)))


def turned(scan: Labelled, random: np.random.Generator) -> Labelled:
    """The header gives the volume upside down, back to front, or two axes exchanged."""
    wrong = (
        np.diag([1, -1, -1]),
        np.diag([-1, 1, -1]),
        np.eye(3)[[0, 2, 1]],
        np.eye(3)[[1, 0, 2]],
        np.eye(3)[[2, 1, 0]],
    )
    affine = np.eye(4)
    affine[:3, :3] = wrong[random.integers(len(wrong))]
    return scan._replace(affine=affine @ scan.affine)


def voxel_size(scan: Labelled, random: np.random.Generator) -> Labelled:
    """The header gives voxels that are too small or too large by a factor."""
    factor = random.choice([random.uniform(0.5, 0.75), random.uniform(1.35, 2.0)])
    return scan._replace(affine=np.diag([factor, factor, factor, 1]) @ scan.affine)


def organ(scan: Labelled, random: np.random.Generator) -> Labelled:
    """No brain: what lies below it, in voxels that make it as large as one."""
    brain = (scan.labels > 0) & (scan.labels != CSF)
    lowest = max(int(brain.any(axis=(0, 1)).argmax()) - 2, 12)
    factor = 140 / (2 * lowest)
    return Labelled(
        scan.image[:, :, :lowest], np.zeros_like(scan.labels[:, :, :lowest]), np.diag([1, 1, factor, 1]) @ scan.affine
    )


FAULTS = {fault.__name__: fault for fault in (noise, spikes, motion, crop, field, thick, turned, voxel_size, organ)}


def _within(scan: Labelled, image: NDArray) -> NDArray[np.float32]:
    """Keep a background of exactly 0, as skull stripping leaves it."""
    stripped = (scan.image == 0).mean() > 0.3
    return (image * (scan.image != 0) if stripped else image).astype(np.float32)


def spoiled(make: Callable[[], Labelled], fault: str, seed: int) -> Labelled:
    """Make a scan with a fault."""
    scan = make()
    return scan if fault == GOOD else FAULTS[fault](scan, np.random.default_rng(seed))


def simulated(label_map: Path, seed: int, t1: bool = False) -> Labelled:
    """Simulate a scan of random contrast, or a T1w, of every other voxel of a label map at 1 mm."""
    stored = nib.as_closest_canonical(nib.Nifti1Image.from_filename(label_map)).slicer[::2, ::2, ::2]
    everything = np.asarray(stored.dataobj).astype(np.int16)
    lowest = int(np.isin(everything, TOTALS["brain"]).any(axis=(0, 1)).argmax())
    box = (slice(None), slice(None), slice(max(lowest - NECK // 2, 0), None))
    simulate = RandSimulateT1wd("label", structure_std=0.04, largest_spacing=2.5) if t1 else _random_scan()
    simulate.set_random_state(seed)
    made = simulate({"label": torch.from_numpy(everything[box][None])})
    labels = np.array(FREESURFER_IDS, np.int16)[made["label"][0].numpy()]
    return Labelled(1000 * made["image"][0].numpy(), labels, stored.slicer[box].affine)


def _random_scan() -> RandSimulateScand:
    """The simulation of `bundles/t1_brain_segmentation/configs/simulated_scans.yaml`, with voxels twice as large."""
    return RandSimulateScand(
        "label",
        contrast_randomizer=ContrastRandomizer(tissue_order_probs=[0.5, 0.4, 0.02, 0.08, 0.0, 0.0]),
        structure_std=0.04,
        strip_prob=0.4,
        low_resolution_prob=0.6,
        largest_spacing=3.25,
        lesion_prob=0.6,
        largest_lesion_share=0.12,
        bias=0.4,
    )


def simulated_scans(data: Path, held_back: bool) -> Iterator[Planned]:
    """List good and spoiled scans of the label maps that are held back, or of all others; good and spoiled in turn."""
    faults = list(FAULTS)
    for round_ in range(3 if held_back else 2):
        for number, path in enumerate(sorted((data / "label-maps").glob("*.nii.gz"))):
            stem = path.name.removesuffix(".nii.gz")
            if (stem in HELD_BACK) != held_back:
                continue
            spoil = (number + round_) % (3 if held_back else 2) > 0
            fault = faults[(5 * round_ + number // (1 if held_back else 2)) % len(faults)] if spoil else GOOD
            t1 = number % 5 == 4 and not spoil
            seed = zlib.crc32(f"{stem} {round_}".encode())
            make = partial(spoiled, partial(simulated, path, seed, t1), fault, seed)
            name = f"{stem.replace('training_seg_', 'map')}-{round_}-{fault}"
            yield Planned(name, "held-back maps" if held_back else "label maps", fault, not t1, make)


REAL_FAULTS = {
    "heads-flair/Subj02/FLAIR": "turned",
    "heads-flair/Subj03/FLAIR": "noise",
    "heads-flair/Subj04/FLAIR": "motion",
    "heads-flair/Subj06/FLAIR": "crop",
    "heads-flair/Subj07/FLAIR": "spikes",
    "heads-flair/Subj08/FLAIR": "field",
}
"""Real scan → the fault that it gets in validation."""

REAL_GOOD = (
    *(f"heads-flair/Subj{number}/FLAIR" for number in ("01", "05", "09", "11")),
    *(f"heads-flair/Subj{number}/T1" for number in ("02", "10")),
    *("freesurfer-1mm/bert/T1", "freesurfer-1mm/seeg/T1", "thick-slices/thick5.5mm/FLAIR"),
)


def real_scans(data: Path) -> Iterator[Planned]:
    """List the real scans of the validation: those of the yardstick, good and spoiled."""
    found = {"/".join(case.key.values()): case for case in cases(data)}
    chosen = dict.fromkeys(REAL_GOOD, GOOD) | REAL_FAULTS
    for number, (key, fault) in enumerate(sorted(chosen.items())):
        if key in found:
            case = found[key]
            name = f"{case.subject}-{case.contrast}-{fault}"
            yield Planned(
                name, case.source, fault, case.contrast != "T1", partial(spoiled, partial(_real, case), fault, number)
            )


def _real(case: Case) -> Labelled:
    with tempfile.TemporaryDirectory() as folder:
        scan = case.read(Path(folder))
        image = read_volume(scan.volume)
        return Labelled(np.asarray(image.dataobj, np.float32), np.asarray(scan.truth.dataobj), image.affine)
