"""The page for users of the published repository, made from the table of its options, `migration.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_suffix(".yaml")

PROGRAMS = ("main.py", "Sampling.py")
"""The programs of the published repository that have options."""

INTRODUCTION = """# From the published repository

[`mgh-ccni/midiffusion`](https://github.com/mgh-ccni/midiffusion) is the code that was published with the paper. This
page says, for each of its options, what midiff has in its place. [Differences from the
paper](../explanation/differences.md) says how the method differs.

| published | midiff |
|---|---|
| folders of slices as images | folders of volumes: NIfTI and others |
| `main.py`, `train_commands.sh` | `midiff init` for another target than T1w, then `midiff train` |
| `Sampling.py`, `run_sampling.sh` | `midiff translate`, `midiff batch` |
| logged FID | [`midiff compare`](../how-to/compare.md) |
| `configs/*.yml` | `configs/train.yaml` and `configs/inference.yaml` of a [bundle](../how-to/bundles.md) |
| the method itself | the bundle [`lmi_published`](../../bundles/lmi_published/docs/README.md); train it first |

What `midiff translate` has, `midiff segment`, `midiff batch` and `midiff bids` have too. Ids of a configuration belong
to the bundle `t1_lmi_translation` and to the bundles that `midiff init` makes. A test checks that each option has its
row and that each counterpart exists.
"""

CREDITS = """## Credits

The published repository builds on four others, which midiff thereby builds on too:

| repository | what it is |
|---|---|
| [`ermongroup/ddim`](https://github.com/ermongroup/ddim) | diffusion implicit models, DDIM (Song et al., ICLR 2021) |
| [`ermongroup/SDEdit`](https://github.com/ermongroup/SDEdit) | editing from a noised image (Meng et al., ICLR 2022) |
| [`ermongroup/ncsnv2`](https://github.com/ermongroup/ncsnv2) | score-based models (Song and Ermon, NeurIPS 2020) |
| [`pesser/pytorch_diffusion`](https://github.com/pesser/pytorch_diffusion) | DDPM in PyTorch (Ho et al., 2020) |

midiff contains none of their code. Its networks, schedulers and inferers are those of [MONAI](https://monai.io), which
come from MONAI Generative.
"""


def read_table() -> dict[str, list[dict[str, Any]]]:
    """Return the rows of "options" and "keys"."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def migration() -> str:
    """Return the page as Markdown."""
    table = read_table()
    parts = [INTRODUCTION, "## Options", "| published option | midiff | |\n|---|---|---|"]
    parts[-1] += "".join(f"\n{_row(row)}" for row in table["options"])
    parts += ["## Keys of the configuration files", "| published key | midiff | |\n|---|---|---|"]
    parts[-1] += "".join(f"\n{_row(row)}" for row in table["keys"])
    return "\n\n".join([*parts, CREDITS])


def _row(row: dict[str, Any]) -> str:
    of = f" of `{row['of'][0]}`" if "of" in row else ""
    new = ", ".join(map(_counterpart, row.get("new", ()))) or "none"
    return f"| `{row['old']}`{of} | {new} | {row.get('note', '')} |"


def _counterpart(text: str) -> str:
    """Markdown of a counterpart, see the head of the table."""
    place, _, name = text.partition(" ")
    if place.endswith(".yaml"):
        return f"`{name}` of `{place}`"
    return f"`midiff {text}`" if name else f"[`{text.rpartition('.')[2]}`][{text}]"
