"""The table of the published options is complete, and names options, ids and classes that exist."""

from __future__ import annotations

import argparse
import importlib
import re
from typing import Any

import pytest
import yaml
from migration import PROGRAMS, migration, read_table

from midiff_monai.bundle.resources import bundle_root
from midiff_monai.cli.parser import build_parser

IN_BOTH = """--train_path_a --train_path_b --val_path_a --val_path_b --logTransformA --logTransformB --config --seed
--exp --doc --comment --verbose --test --sample --fid --interpolation --resume_training --image_folder --ni
--use_pretrained --use_unet --use_sdedit --sample_type --skip_type --timesteps --eta --sample_step --t --sequence"""

PUBLISHED = {
    "main.py": {*IN_BOTH.split(), "--mean", "--var", "--gpu_id"},
    "Sampling.py": {*IN_BOTH.split(), "--mean_src", "--var_src", "--mean_tar", "--var_tar", "--evaluation"},
}
"""Program → its options, as in the published repository."""

KEYS = {
    "data": """dataset image_size channels logit_transform uniform_dequantization gaussian_dequantization random_flip
        rescaled num_workers""",
    "model": """type in_channels out_ch ch ch_mult num_res_blocks attn_resolutions dropout var_type ema_rate ema
        resamp_with_conv geo_patch_sz MIsigma MInormalization""",
    "diffusion": "beta_schedule beta_start beta_end num_diffusion_timesteps",
    "training": "batch_size n_epochs n_iters snapshot_freq validation_freq",
    "sampling": "batch_size last_only ckpt_id",
    "optim": "weight_decay optimizer lr beta1 amsgrad eps grad_clip",
}
"""Section of the published configuration files → its keys."""

ROWS = read_table()
COUNTERPARTS = sorted({new for part in ROWS.values() for row in part for new in row.get("new", ())})


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def names_of(command: argparse.ArgumentParser) -> set[str]:
    """Options, and the names of positional arguments as the usage shows them."""
    positional = {str(action.metavar or action.dest) for action in command._actions if not action.option_strings}
    return positional | {name for action in command._actions for name in action.option_strings}


def exists(counterpart: str) -> bool:
    place, _, name = counterpart.partition(" ")
    if place.endswith(".yaml"):
        part: Any = yaml.safe_load((bundle_root("t1_lmi_translation") / "configs" / place).read_text("utf-8"))
        for key in re.split("::", name):
            if not isinstance(part, dict) or key not in part:
                return False
            part = part[key]
        return True
    if not name:
        module, _, attribute = place.rpartition(".")
        return hasattr(importlib.import_module(module), attribute)
    return place in commands() and name in names_of(commands()[place])


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_published_option_has_one_row(program: str) -> None:
    rows = [row["old"] for row in ROWS["options"] if program in row.get("of", PROGRAMS)]
    assert sorted(rows) == sorted(PUBLISHED[program])


def test_each_key_of_the_published_configurations_has_one_row() -> None:
    published = [f"{section}.{key}" for section, keys in KEYS.items() for key in keys.split()]
    assert sorted(row["old"] for row in ROWS["keys"]) == sorted(published)


@pytest.mark.parametrize("counterpart", COUNTERPARTS)
def test_counterparts_exist(counterpart: str) -> None:
    assert exists(counterpart)


@pytest.mark.parametrize("wrong", ["translate --sed", "transalte INPUT", "train.yaml guide::lmi::patch", "compare X"])
def test_wrong_counterparts_are_found(wrong: str) -> None:
    assert not exists(wrong)


def test_a_row_without_a_counterpart_says_why() -> None:
    assert all(row.get("new") or row.get("note") for part in ROWS.values() for row in part)


def test_the_page_shows_all_rows_and_the_credits() -> None:
    page = migration()
    assert page.count("\n| `-") == len(ROWS["options"]) and all(f"`{row['old']}`" in page for row in ROWS["keys"])
    for repository in ("ermongroup/ddim", "ermongroup/SDEdit", "ermongroup/ncsnv2", "pesser/pytorch_diffusion"):
        assert f"https://github.com/{repository}" in page
