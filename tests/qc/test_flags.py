"""Each flag, on volumes and tables for which the answer is known."""

from __future__ import annotations

import re
import statistics
from math import isnan, nan, pi
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.labels import GROUPS, STRUCTURES
from midiff_monai.qc import flags
from midiff_monai.qc.flags import (
    MAX_CONTACT_CM2,
    MIN_EDGE_CORRELATION,
    NO_COMPARISON,
    Flag,
    quality_flags,
    robust_z,
)
from midiff_monai.qc.measures import Measures, edge_contact, edge_correlation, group_volumes

WHOLE = {structure.id: 10.0 for structure in STRUCTURES[1:]}
CENTIMETRE = np.diag([10.0, 10.0, 10.0, 1.0])


def kinds(measures: Measures, **z: float) -> list[str]:
    return [flag.kind for flag in quality_flags(measures, NO_COMPARISON | z)]


@pytest.fixture(scope="module")
def pair() -> tuple[NDArray, NDArray, NDArray[np.bool_], NDArray]:
    """PD and T1w of one brain, with different noise and bias fields."""
    proton_density, t1 = (make_phantom(name, spacing=(2, 2, 3), seed=seed) for seed, name in enumerate(("PD", "T1")))
    image = np.asarray(proton_density.image.dataobj)
    return image, np.asarray(t1.image.dataobj), image > 0, proton_density.image.affine


class TestRobustZ:
    @pytest.mark.parametrize("values", [[1.0, 2, 4, 8, 100], [5.0, 3, 3.5, 9, 4, 4.5, -7]])
    def test_agrees_with_the_definition(self, values: list[float]) -> None:
        middle = statistics.median(values)
        mad = statistics.median(abs(value - middle) for value in values)
        expected = [(value - middle) / (1.4826 * mad) for value in values]
        assert robust_z(pd.DataFrame({"a": values}))["a"].tolist() == pytest.approx(expected)

    def test_equals_the_z_score_of_a_normal_distribution(self) -> None:
        values = np.random.default_rng(0).normal(3, 7, size=100_000)
        z = robust_z(pd.DataFrame({"a": values}))["a"]
        np.testing.assert_allclose(z, (values - 3) / 7, atol=0.1)

    @pytest.mark.parametrize("values", [[1.0, 2, 3, 90], [1.0, 2, 3, 90, nan], [7.0, 7, 7, 7, 90]])
    def test_is_undefined_for_few_or_equal_values(self, values: list[float]) -> None:
        assert robust_z(pd.DataFrame({"a": values}))["a"].isna().all()

    def test_a_missing_value_does_not_affect_the_others(self) -> None:
        full = robust_z(pd.DataFrame({"a": [1.0, 2, 4, 8, 100]}))["a"].tolist()
        z = robust_z(pd.DataFrame({"a": [1.0, 2, nan, 4, 8, 100]}))["a"].tolist()
        assert [*z[:2], *z[3:]] == full and isnan(z[2])


class TestEdge:
    @staticmethod
    def box(*region: slice, label: int = 3) -> NDArray[np.int16]:
        segmentation = np.zeros((10, 12, 14), np.int16)
        segmentation[region] = label
        return segmentation

    @pytest.mark.parametrize("axcodes", ["RAS", "LPS", "PIR", "SLA"])
    def test_area_and_name_of_the_face_do_not_depend_on_orientation(self, axcodes: str) -> None:
        segmentation = self.box(slice(3, 7), slice(2, 5), slice(6, 14))  # 4 x 3 cm² on the upper face
        to_stored = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
        affine = CENTIMETRE @ inv_ornt_aff(to_stored, segmentation.shape)
        contact = edge_contact(nib.apply_orientation(segmentation, to_stored), None, affine)
        assert {face: area for face, area in contact.items() if area} == {"superior": pytest.approx(12)}

    def test_the_brain_stem_may_reach_the_inferior_face(self) -> None:
        below = (slice(3, 7), slice(2, 5), slice(0, 5))
        assert edge_contact(self.box(*below, label=16), None, CENTIMETRE)["inferior"] == 0
        assert edge_contact(self.box(*below, label=8), None, CENTIMETRE)["inferior"] == pytest.approx(12)

    def test_without_segmentation_the_neck_may_reach_the_inferior_face_and_air_is_ignored(self) -> None:
        head = 500.0 * self.box(slice(0, 7), slice(2, 5), slice(0, 5), label=1) + 5
        contact = edge_contact(None, head, CENTIMETRE)
        assert {face: area for face, area in contact.items() if area} == {"left": pytest.approx(15)}

    @pytest.mark.parametrize(("depth_mm", "flagged"), [(0, False), (5, True)])
    def test_a_tight_crop_is_not_flagged_and_a_cut_brain_is(self, depth_mm: int, flagged: bool) -> None:
        x, y, z = np.ogrid[-79:80:2, -79:80:2, -75.5:75]
        ball = ((x**2 + y**2 + z**2) <= 75.5**2).astype(np.int16)[:, :, depth_mm:]
        contact = edge_contact(ball, None, np.diag([2.0, 2.0, 1.0, 1.0]))
        cap = pi * (75.5**2 - (75.5 - depth_mm) ** 2) / 100
        assert contact["inferior"] == pytest.approx(cap, rel=0.1, abs=2)
        assert (contact["inferior"] > MAX_CONTACT_CM2) == flagged
        assert kinds(Measures(WHOLE, contact)) == ["edge"] * flagged


class TestEdgeCorrelation:
    def test_is_one_for_any_linear_change_of_contrast(self, pair: tuple) -> None:
        image, _, mask, affine = pair
        assert edge_correlation(image, 900 - 2 * image, mask, affine) == pytest.approx(1, abs=1e-5)

    def test_is_high_for_the_same_brain_in_another_contrast(self, pair: tuple) -> None:
        assert edge_correlation(*pair) > 1.5 * MIN_EDGE_CORRELATION

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_is_low_for_a_shifted_brain_and_for_noise(self, pair: tuple, axis: int) -> None:
        image, t1, mask, affine = pair
        inner = mask & np.roll(mask, 6, axis) & np.roll(mask, -6, axis)
        assert edge_correlation(image, np.roll(t1, 6, axis), inner, affine) < MIN_EDGE_CORRELATION
        noise = np.random.default_rng(0).random(image.shape)
        assert edge_correlation(image, noise, inner, affine) < MIN_EDGE_CORRELATION

    def test_bone_around_the_brain_does_not_dominate(self, pair: tuple) -> None:
        """In CT the skull is far brighter than the brain, and blurs into the outermost voxels of the brain."""
        image, t1, mask, affine = pair
        inner = binary_erosion(mask, iterations=2)
        skull = gaussian_filter(np.where(inner, 0.0, 50 * image.max()), 0.5)
        without = edge_correlation(image, t1, inner, affine)
        assert edge_correlation(image + skull, t1, inner, affine) > 0.7 * without

    def test_a_gradient_is_per_millimetre(self) -> None:
        """A slope of one unit per millimetre counts the same through thick slices as within a slice."""
        x, y, z = np.meshgrid(np.arange(8.0), np.arange(8.0), 9 * np.arange(4.0), indexing="ij")
        everywhere = np.ones(x.shape, bool)
        found = edge_correlation(x**2 + y, x**2 + z, everywhere, np.diag([1, 1, 9, 1]))
        assert found == pytest.approx(1, abs=1e-9)

    def test_is_undefined_for_a_constant_volume(self, pair: tuple) -> None:
        image, _, mask, affine = pair
        assert isnan(edge_correlation(image, np.ones_like(image), mask, affine))


class TestFlags:
    def test_a_complete_and_usual_subject_has_no_flags(self) -> None:
        assert kinds(Measures(WHOLE, {"left": 1.0}, edge_correlation=0.5, synthetic_std=0.03), cortex=1.0) == []

    def test_without_a_segmentation_no_structure_is_missing(self) -> None:
        assert kinds(Measures({}, {})) == []

    def test_missing_structures_are_named(self) -> None:
        (flag,) = quality_flags(Measures(WHOLE | {4: 0.0, 43: 0.0}, {}), NO_COMPARISON)
        names = "Left-Lateral-Ventricle, Right-Lateral-Ventricle"
        assert flag == Flag("absent", 2, f"Structures not found: {names}. Look whether the scan shows them.")
        (flag,) = quality_flags(Measures(dict.fromkeys(WHOLE, 0.0) | {2: 1.0}, {}))
        assert flag.text.startswith("Structures not found: Left-Cerebral-Cortex, ") and " and 21 more. " in flag.text

    def test_an_empty_segmentation_has_no_flag_of_missing_structures(self) -> None:
        assert kinds(Measures(dict.fromkeys(WHOLE, 0.0), {})) == []

    @pytest.mark.parametrize(("z", "flagged"), [(3.4, False), (3.6, True), (-3.6, True)])
    def test_unusually_small_and_large_volumes_are_flagged(self, z: float, flagged: bool) -> None:
        assert kinds(Measures(WHOLE, {}), cerebellum=z) == ["volume"] * flagged

    @pytest.mark.parametrize(
        ("measures", "z", "expected"),
        [
            (Measures(WHOLE, {}, edge_correlation=0.1), {}, ["edge_correlation"]),
            (Measures(WHOLE, {}, edge_correlation=0.5), {"edge_correlation": -4.0}, ["edge_correlation"]),
            (Measures(WHOLE, {}, edge_correlation=0.9), {"edge_correlation": 4.0}, []),
            (Measures(WHOLE, {}, synthetic_std=0.2), {}, ["synthetic_std"]),
            (Measures(WHOLE, {}, synthetic_std=0.05), {"synthetic_std": 4.0}, ["synthetic_std"]),
            (Measures(WHOLE, {}, synthetic_std=0.01), {"synthetic_std": -4.0}, []),
        ],
    )
    def test_only_low_edge_correlation_and_high_deviation_are_flagged(
        self, measures: Measures, z: dict[str, float], expected: list[str]
    ) -> None:
        assert kinds(measures, **z) == expected

    def test_groups_add_up(self) -> None:
        volumes = group_volumes(WHOLE)
        assert volumes["brain"] == 10 * len(WHOLE)
        assert {name: volumes[name] for name in GROUPS} == {name: 10 * len(ids) for name, ids in GROUPS.items()}

    @pytest.mark.parametrize(
        ("measures", "z", "value", "words"),
        [
            (Measures(WHOLE, {"left": 6.0, "superior": 12.0}), {}, 12.0, ["left (6 cm²)", "superior (12 cm²)"]),
            (Measures(WHOLE, {}), {"cerebellum": 4.0}, 40.0, ["large volume of cerebellum: 40.0 ml (z = +4.0)"]),
            (Measures(WHOLE, {}), {"cerebellum": -4.0}, 40.0, ["small volume of cerebellum: 40.0 ml (z = -4.0)"]),
            (Measures(WHOLE | {4: 0.0}, {}), {}, 1, ["Left-Lateral-Ventricle"]),
            (Measures(WHOLE, {}, edge_correlation=0.1), {}, 0.1, ["correlation 0.10."]),
            (Measures(WHOLE, {}, synthetic_std=0.2), {"synthetic_std": 5.0}, 0.2, ["deviation 0.200 (z = +5.0)"]),
        ],
    )
    def test_a_flag_has_its_value_and_says_where_to_look(
        self, measures: Measures, z: dict[str, float], value: float, words: list[str]
    ) -> None:
        (flag,) = quality_flags(measures, NO_COMPARISON | z)
        assert flag.value == value
        assert "Look " in flag.text and all(word in flag.text for word in words)

    def test_the_study_page_has_a_label_for_each_kind(self) -> None:
        code, page = (Path(flags.__file__).parent / name for name in ("flags.py", "_page/page.js"))
        (labels,) = re.findall(r"flagLabels = {(.*?)}", page.read_text(encoding="utf-8"), re.DOTALL)
        kinds = set(re.findall(r'Flag\("(\w+)"', code.read_text(encoding="utf-8")))
        assert kinds == set(re.findall(r"(\w+):", labels))
