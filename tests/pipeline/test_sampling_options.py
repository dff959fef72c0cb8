"""The options of the sampler, from the settings to the inferer, and their refusal in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from small_published import add_weights, copy_small
from small_targets import write_volume

from midiff_monai.bundle.resources import available_samplers
from midiff_monai.cli.main import main
from midiff_monai.errors import MidiffError
from midiff_monai.networks.schedulers import AncestralScheduler, DPMSolverScheduler, SpacedDDIMScheduler
from midiff_monai.pipeline.checks import check_settings
from midiff_monai.pipeline.models import load_models, used_settings
from midiff_monai.pipeline.options import Mode, Settings, Task


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copy_small(tmp_path_factory.mktemp("bundles") / "guided")
    add_weights(root)
    return root


@pytest.fixture(scope="module")
def unguided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copy_small(tmp_path_factory.mktemp("bundles") / "unguided", guided=False)
    add_weights(root)
    return root


def opened(bundle: Path, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The inferer of a translation, and the settings that its manifest would have."""
    task = Task(Mode.TRANSLATE, Settings(bundle=bundle, **settings))
    check_settings(task)
    models = load_models(task)
    assert models.translation is not None
    return models.translation.setting("inferer"), used_settings(task.settings, models)


KINDS: dict[str, Any] = {"ddpm": AncestralScheduler, "ddim": SpacedDDIMScheduler, "dpm-solver++": DPMSolverScheduler}


def test_each_sampler_has_a_class() -> None:
    assert available_samplers() == sorted(KINDS)


@pytest.mark.parametrize(
    "name, settings, steps", [("ddpm", {}, 8), ("ddim", {"steps": 4}, 4), ("dpm-solver++", {"steps": 2}, 2)]
)
def test_a_sampler_replaces_the_class_and_keeps_the_noise_schedule(
    name: str, settings: dict[str, Any], steps: int, guided: Path
) -> None:
    inferer, used = opened(guided, sampler=name, **settings)
    scheduler, trained = inferer.inferer.scheduler, opened(guided)[0].inferer.scheduler
    assert type(scheduler) is KINDS[name] and not scheduler.clip_sample
    np.testing.assert_array_equal(scheduler.betas, trained.betas)
    assert used["sampler"] == name and used["steps"] == steps


def test_options_reach_the_sampler_and_the_manifest(guided: Path) -> None:
    given = {"eta": 0.5, "skip": "quadratic", "start": "inverted", "noise_level": 4}
    inferer, used = opened(guided, sampler="ddim", **given)
    scheduler = inferer.inferer.scheduler
    assert (scheduler.eta, scheduler.spacing, inferer.start, inferer.noise_level) == (0.5, "quadratic", "inverted", 4)
    assert {name: used[name] for name in given} == given
    assert opened(guided)[1]["noise_level"] is None, "nothing is noised"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sampler": "euler"}, "--sampler: is euler. Choose one of ddim, ddpm, dpm-solver++"),
    ({"skip": "cubic"}, "--skip: is cubic. Choose one of uniform, quadratic"),
    ({"start": "nothing"}, "--start: is nothing. Choose one of noise, source, inverted"),
    ({"sampler": "ddim", "eta": 1.5}, "--eta: is 1.5. Give a number from 0 to 1"),
    ({"start": "source", "noise_level": 1000}, "--noise-level: is 1000. Give a whole number from 1 to 999"),
    ({"noise_level": 4}, "--noise-level: has no effect where sampling starts from noise"),
    ({"eta": 0.5}, "has no setting `eta`"),
    ({"sampler": "dpm-solver++", "skip": "quadratic"}, "has no setting `skip`"),
    ({"sampler": "ddpm", "steps": 4}, "cannot sample so: ancestral sampling takes all 8 steps of the training, not 4"),
    (
        {"sampler": "ddim", "steps": 2, "start": "source", "noise_level": 2},
        "no timestep of the schedule is at or below",
    ),
]


@pytest.mark.parametrize("settings, message", REFUSED)
def test_what_cannot_be_sampled_is_refused(settings: dict[str, Any], message: str, guided: Path) -> None:
    with pytest.raises(MidiffError) as caught:
        opened(guided, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unguided_network_is_not_sampled_from_noise(unguided: Path) -> None:
    assert opened(unguided)[1]["start"] == "source"
    with pytest.raises(MidiffError, match="an unguided network learns of the source only if it starts from it"):
        opened(unguided, start="noise")


def test_an_older_bundle_of_ones_own_refuses_what_it_does_not_know(guided: Path, tmp_path: Path) -> None:
    older = copy_small(tmp_path / "older")
    add_weights(older)
    path = older / "configs" / "inference.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines if "start" not in line.split(":")[0]), encoding="utf-8")
    assert opened(older)[1]["start"] is None
    with pytest.raises(MidiffError, match="has no setting `start`"):
        opened(older, start="source")


def test_a_scheduler_with_arguments_of_its_own_does_not_change_its_class(tmp_path: Path) -> None:
    own = copy_small(tmp_path / "own")
    add_weights(own)
    path = own / "configs" / "inference.yaml"
    text = path.read_text(encoding="utf-8").replace("networks.AncestralScheduler", "networks.TrailingDDIMScheduler")
    path.write_text(text.replace("clip_sample: false", "clip_sample: false\n  steps_offset: 0"), encoding="utf-8")
    assert opened(own)[1]["steps"] == 8
    with pytest.raises(MidiffError, match="cannot sample so: .*unexpected keyword argument 'steps_offset'"):
        opened(own, sampler="ddpm")


@pytest.mark.parametrize("setting", [{"sampler": "ddim"}, {"eta": 0.0}, {"start": "source"}, {"noise_level": 9}])
def test_options_of_the_sampler_are_refused_without_a_translation(setting: dict[str, Any]) -> None:
    option = next(iter(setting)).replace("_", "-")
    with pytest.raises(MidiffError, match=f"--{option}: has no effect without translation"):
        check_settings(Task(Mode.SEGMENT_DIRECTLY, Settings(**setting)))


def test_the_command_takes_the_options(guided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = write_volume(tmp_path / "x_PDw.nii.gz", shape=(20, 20, 8))
    options = ["--sampler", "ddim", "--steps", "4", "--eta", "1", "--skip", "quadratic", "--start", "source"]
    command = ["translate", "--bundle", str(guided), *options, "--noise-level", "5", str(scan), "-o"]
    assert main([*command, str(tmp_path / "a")]) == main([*command, str(tmp_path / "b")]) == 0
    first, second = (
        np.asarray(nib.Nifti1Image.from_filename(tmp_path / name / "x_PDw_synthT1w.nii.gz").dataobj) for name in "ab"
    )
    np.testing.assert_array_equal(first, second)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "c"), "--sampler", "ddpm"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
