"""FID and KID compared with loops and closed forms, and their features compared with those of the network."""

from __future__ import annotations

from pathlib import Path

import distribution
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import run
import torch
from numpy.typing import NDArray
from table import installed_weights
from tiny_inception import write_tiny_inception

from midiff_monai.bundle.bundle import Bundle, open_bundle
from midiff_monai.bundle.choice import SEGMENTATION
from midiff_monai.evaluation.distribution import as_image, bottleneck_means, evaluated_slices
from midiff_monai.evaluation.metrics import frechet_distance, kernel_distance
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.io.manifest import RunReport
from midiff_monai.io.outputs import output_paths
from midiff_monai.pipeline.result import Result
from midiff_monai.provenance import sha256

CPU = torch.device("cpu")


def normal(seed: int, shape: tuple[int, int], mean: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, size=shape)


def with_moments(mean: NDArray, deviations: NDArray, rotation: NDArray, seed: int) -> NDArray[np.float64]:
    """Features of fifty images with this exact mean and these standard deviations along rotated axes."""
    white, _ = np.linalg.qr(normal(seed, (50, len(mean))) - normal(seed, (50, len(mean))).mean(axis=0))
    return np.sqrt(49) * white * deviations @ rotation + mean


class TestFrechetDistance:
    def test_gaussians_with_common_axes_have_a_closed_form(self) -> None:
        rotation, _ = np.linalg.qr(normal(0, (4, 4)))
        means, deviations = normal(1, (2, 4)), np.array([[1.0, 2, 3, 0.5], [2.0, 1, 3, 0.1]])
        first, second = (with_moments(means[k], deviations[k], rotation, seed=k) for k in (0, 1))
        expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
        assert frechet_distance(first, second) == pytest.approx(expected)

    @pytest.mark.parametrize("images, others", [(40, 30), (6, 9)])
    def test_root_of_the_covariances_is_the_nuclear_norm_of_the_images(self, images: int, others: int) -> None:
        first, second = normal(0, (images, 20)), 2 * normal(1, (others, 20), mean=0.3)
        a, b = (part - part.mean(axis=0) for part in (first, second))
        spread = a.var(axis=0, ddof=1).sum() + b.var(axis=0, ddof=1).sum()
        shared = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt((images - 1) * (others - 1))
        expected = np.square(first.mean(axis=0) - second.mean(axis=0)).sum() + spread - 2 * shared
        assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("images", [10, 100])
    def test_the_distance_of_a_set_to_itself_is_0(self, images: int) -> None:
        features = normal(0, (images, 30))
        assert frechet_distance(features, features[::-1]) == pytest.approx(0, abs=1e-6)

    def test_small_sets_of_the_same_distribution_have_a_large_distance(self) -> None:
        few, many = (frechet_distance(normal(0, (n, 30)), normal(1, (n, 30))) for n in (20, 2000))
        assert few > 10 * many > 0


class TestKernelDistance:
    def test_equals_a_loop_over_all_pairs(self) -> None:
        first, second = normal(0, (7, 5)), normal(1, (4, 5), mean=0.5)

        def mean_kernel(rows: NDArray, columns: NDArray, skip_diagonal: bool) -> float:
            values = []
            for i, x in enumerate(rows):
                for j, y in enumerate(columns):
                    if not (skip_diagonal and i == j):
                        values.append((sum(x[k] * y[k] for k in range(5)) / 5 + 1) ** 3)
            return sum(values) / len(values)

        expected = mean_kernel(first, first, True) + mean_kernel(second, second, True)
        expected -= 2 * mean_kernel(first, second, False)
        assert kernel_distance(first, second) == pytest.approx(expected)

    def test_the_mean_over_small_sets_of_the_same_distribution_is_0(self) -> None:
        values = [kernel_distance(normal(2 * k, (6, 4)), normal(2 * k + 1, (9, 4))) for k in range(2000)]
        assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
        assert min(values) < 0

    def test_the_distance_grows_with_the_difference(self) -> None:
        near, far = (kernel_distance(normal(0, (100, 8), mean), normal(1, (100, 8))) for mean in (0.5, 1.0))
        assert 0 < near < far


@pytest.fixture(scope="module")
def segmenter() -> Bundle:
    return open_bundle(SEGMENTATION)


@pytest.fixture(scope="module")
def phantoms() -> dict[str, nib.Nifti1Image]:
    """The template phantom as T1w, as T1w with other noise, and as PD."""
    kinds = {"T1": ("T1", 0), "other noise": ("T1", 1), "PD": ("PD", 0)}
    return {
        name: make_phantom(contrast, spacing=(2, 2, 4), seed=seed).image for name, (contrast, seed) in kinds.items()
    }


class TestFeatures:
    def test_features_are_means_of_the_deepest_layer_in_the_brain(self, segmenter: Bundle) -> None:
        slices = torch.rand(3, 5, 32, 48, generator=torch.Generator().manual_seed(0))
        slices[:, :, :, 40:] = 0
        seen: list[torch.Tensor] = []
        network = segmenter.setting("network_def")
        hook = network.body.network.bottleneck.register_forward_hook(lambda layer, given, output: seen.append(output))
        with torch.inference_mode():
            network(slices.permute(1, 2, 3, 0)[None])
        hook.remove()
        found = bottleneck_means(slices, segmenter)
        columns = (
            seen[0][0].movedim(-1, 0).double().mean(dim=2)
        )  # each column is 16 pixels wide, and half of the last one is background
        torch.testing.assert_close(found, columns @ torch.tensor([0.4, 0.4, 0.2]).double(), rtol=1e-4, atol=1e-5)

    def test_contrasts_differ_more_than_noise(self, segmenter: Bundle, phantoms: dict[str, nib.Nifti1Image]) -> None:
        images = {name: as_image(np.asarray(image.dataobj), image.affine) for name, image in phantoms.items()}
        distances = {}
        for name in ("other noise", "PD"):
            slices = evaluated_slices([images[name], images["T1"]], segmenter)
            sets = [bottleneck_means(part, segmenter).numpy() for part in slices]
            distances[name] = np.array([frechet_distance(*sets), kernel_distance(*sets)])
        assert (distances["PD"] > 10 * distances["other noise"]).all()

    def test_slices_have_enough_common_foreground(self, segmenter: Bundle) -> None:
        brain = np.zeros((40, 44, 12))
        brain[10:30, 10:34, 2:10] = np.random.default_rng(0).uniform(50, 100, (20, 24, 8))
        brain[18:22, 18:22, 10] = 80
        cut = brain.copy()
        cut[:, :, 2] = 0
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        made, real = evaluated_slices([as_image(cut, affine), as_image(brain, affine)], segmenter)
        assert made.shape == real.shape == (7, 5, 32, 32)
        assert made.max() == real.max() == 1
        torch.testing.assert_close(real[1:, 1], real[:-1, 2])  # the first channels are the lower neighbours
        assert not made[0, 1].any() and real[0, 1].any()


@pytest.fixture
def inception(tmp_path: Path) -> Path:
    return write_tiny_inception(tmp_path / "inception-tiny.pt")


def test_a_local_inception_gets_the_slice_as_grey_bytes(inception: Path) -> None:
    features = distribution.of_inception(inception, CPU)
    slices = torch.zeros(20, 5, 8, 8)
    slices[:, 2, :4] = torch.linspace(0, 1, 20)[:, None, None]
    slices[:, 1] = 1  # a neighbouring slice
    brightest = np.round(255 * np.linspace(0, 1, 20))
    np.testing.assert_allclose(features.extract(slices).numpy(), np.stack([brightest / 2, brightest], axis=1))
    assert features.name == f"inception-tiny {sha256(inception)[:12]}"


class TestProgram:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Names of the volumes that the fake method was called with. It returns the volume as the image."""
        names: list[str] = []

        def fake_direct(volume: Path, folder: Path) -> Result:
            names.append(volume.name)
            report = RunReport("segment", volume, {}, {SEGMENTATION: installed_weights()[SEGMENTATION]})
            return Result(nib.load(volume), report, paths=output_paths(volume, folder))  # type: ignore[arg-type]

        monkeypatch.setitem(run.METHODS, "direct", fake_direct)
        return names

    def test_there_is_one_row_per_contrast_and_feature_extractor(
        self,
        phantoms: dict[str, nib.Nifti1Image],
        inception: Path,
        calls: list[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pairs = tmp_path / "pairs"
        pairs.mkdir()
        for name, kind in {"A_T1": "T1", "A_PD": "PD", "A_FLAIR": "T1"}.items():
            nib.save(phantoms[kind], pairs / f"{name}.nii.gz")
        command = ["distribution.py", "--pairs", str(pairs), "--methods", "direct", "--out", str(tmp_path)]
        for arguments in (command, command, [*command, "--inception", str(inception)]):
            monkeypatch.setattr("sys.argv", arguments)
            distribution.main()
        assert calls == ["A_PD.nii.gz", "A_FLAIR.nii.gz"] * 2  # existing rows are not computed again
        rows = pd.read_csv(tmp_path / "distribution.csv")
        assert list(rows["features"].str.partition(" ")[0]) == [SEGMENTATION] * 2 + ["inception-tiny"] * 2
        assert (rows[["dataset", "method"]] == ["pairs", "direct"]).all(axis=None)
        assert set(rows["t1_brain_segmentation_sha256"]) == {installed_weights()[SEGMENTATION][:12]}
        assert rows["slices"].nunique() == 1 and rows["slices"][0] > 40
        same = rows["contrast"] == "FLAIR"  # this file holds the T1w
        np.testing.assert_allclose(rows["fid"][same], 0, atol=1e-6)
        assert (rows["kid"][same] < 0).all()
        assert (rows["fid"][~same] > 0.1).all() and rows["kid"][0] > 0

    @pytest.mark.parametrize("name, fault", [("magic", "is not one of"), ("hmrf", "makes no image")])
    def test_methods_without_an_image_are_refused(
        self, name: str, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("sys.argv", ["distribution.py", "--pairs", ".", "--methods", name, "--out", "."])
        with pytest.raises(SystemExit):
            distribution.main()
        assert fault in capsys.readouterr().err
