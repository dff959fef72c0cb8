"""The phantom compared with a Bloch simulation, the tissue maps of the template, and exact averages."""

from __future__ import annotations

import socket

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.datasets import load_mni152_gm_template, load_mni152_wm_template
from nilearn.image import resample_to_img
from numpy.typing import NDArray

from midiff_monai.evaluation.metrics import dice
from midiff_monai.evaluation.phantom import CONTRASTS, CSF, GREY, TISSUES, WHITE, Phantom, _overlaps, make_phantom


def voxels(image: nib.Nifti1Image) -> NDArray:
    return np.asarray(image.dataobj)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom("PD", seed=1)


@pytest.fixture(scope="module")
def clean() -> Phantom:
    return make_phantom("PD", noise=0, bias=0)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("label", TISSUES)
def test_signal_is_the_steady_state_of_the_bloch_equations(contrast: str, label: int) -> None:
    sequence, tissue, step = CONTRASTS[contrast], TISSUES[label], 0.1
    magnetisation = 1.0
    for _ in range(4):  # repetitions until the steady state
        magnetisation = 0.0  # the 90° pulse
        for tick in range(round(sequence.repetition / step)):
            if sequence.inversion and tick == round((sequence.repetition - sequence.inversion) / step):
                magnetisation = -magnetisation
            magnetisation += step * (1 - magnetisation) / tissue.t1
    transverse = tissue.proton_density * magnetisation * 0.5 ** (sequence.echo / (tissue.t2 * np.log(2)))
    assert sequence.signal(tissue) == pytest.approx(transverse, abs=1e-4)


@pytest.mark.parametrize(
    ("contrast", "bright_to_dark"),
    [
        ("PD", (GREY, WHITE)),
        ("T1", (WHITE, GREY, CSF)),
        ("T2", (CSF, GREY, WHITE)),
        ("FLAIR", (GREY, WHITE, CSF)),
    ],
)
def test_contrast_orders_tissues_as_a_radiologist_expects(contrast: str, bright_to_dark: tuple[int, ...]) -> None:
    phantom = make_phantom(contrast)
    image, tissues = voxels(phantom.image), voxels(phantom.tissues)
    medians = [np.median(image[tissues == label]) for label in bright_to_dark]
    assert medians == sorted(medians, reverse=True)


def test_tissues_agree_with_the_tissue_maps_of_the_template(phantom: Phantom) -> None:
    """The comparison is above the cerebellum, where the maps are reliable."""
    for template, label in ((load_mni152_gm_template(), GREY), (load_mni152_wm_template(), WHITE)):
        expected = voxels(resample_to_img(template, phantom.tissues, force_resample=True, copy_header=True)) > 0.5
        assert dice(voxels(phantom.tissues)[..., 25:] == label, expected[..., 25:], [True]) > 0.8


def test_grid_is_clinical_and_header_is_complete(phantom: Phantom) -> None:
    for image, dtype in ((phantom.image, np.float32), (phantom.tissues, np.uint8)):
        assert image.get_data_dtype() == dtype
        assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), (1, 1, 3))
        assert image.header.get_xyzt_units()[0] == "mm"
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 2)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_image_is_zero_outside_the_brain_only(phantom: Phantom) -> None:
    assert np.array_equal(voxels(phantom.image) > 0, voxels(phantom.tissues) > 0)
    assert set(np.unique(voxels(phantom.tissues))) == {0, CSF, GREY, WHITE}


def test_seed_determines_noise_and_bias_field_but_not_anatomy(phantom: Phantom) -> None:
    again, other = make_phantom("PD", seed=1), make_phantom("PD", seed=2)
    assert np.array_equal(voxels(phantom.image), voxels(again.image))
    assert not np.allclose(voxels(phantom.image), voxels(other.image))
    assert np.array_equal(voxels(phantom.tissues), voxels(other.tissues))


def test_noise_has_the_stated_strength(clean: Phantom) -> None:
    noisy = make_phantom("PD", noise=0.03, bias=0)
    brain = voxels(clean.image) > 800  # far above the noise, the Rician distribution is Gaussian
    assert np.std((voxels(noisy.image) - voxels(clean.image))[brain]) == pytest.approx(30, rel=0.02)


def test_bias_field_is_smooth_and_within_its_amplitude(clean: Phantom) -> None:
    biased = voxels(make_phantom("PD", noise=0, bias=0.4).image)
    brain = voxels(clean.image) > 0
    field = np.divide(biased, voxels(clean.image), where=brain, out=np.full(brain.shape, np.nan, np.float32))
    assert 0.6 <= np.nanmin(field) and np.nanmax(field) <= 1.4
    assert np.nanmax(field) - np.nanmin(field) > 0.2
    assert max(np.nanmax(np.abs(np.diff(field, axis=axis))) for axis in range(3)) < 0.03


def test_coarser_voxels_keep_the_total_signal(clean: Phantom) -> None:
    coarse = make_phantom("PD", spacing=(2, 2, 4), noise=0, bias=0)
    amounts = [float(voxels(phantom.image).sum()) * volume for phantom, volume in ((clean, 3), (coarse, 16))]
    assert amounts[0] == pytest.approx(amounts[1], rel=0.02)


@given(length=st.integers(5, 40), tenths=st.integers(10, 50))
def test_overlaps_average_like_a_tenfold_finer_grid(length: int, tenths: int) -> None:
    profile = np.random.default_rng(length).normal(size=length)
    count = length * 10 // tenths
    expected = np.repeat(profile, 10)[: count * tenths].reshape(count, tenths).mean(axis=1)
    np.testing.assert_allclose(_overlaps(length, tenths / 10) @ profile, expected, atol=1e-5)


def test_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the phantom opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    assert voxels(make_phantom("T2", spacing=(4, 4, 4)).tissues).any()


def test_unknown_contrast_is_refused() -> None:
    with pytest.raises(KeyError, match="T3"):
        make_phantom("T3")
