"""Segment scans of odd people and odd scanners, and list what midiff says of each.

    python evaluation/odd.py --data ../shared/data/odd --out evaluation/results --keep build/odd

Writes odd.csv, with a row for each scan: brain volume, quality score, flags and warnings, with --fast. Existing rows
are kept, unless the weights have changed. `--keep FOLDER` keeps the results, whose pictures tell whether an answer is
sound.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from table import Table, weights_columns
from tqdm import tqdm

from midiff_monai.errors import MidiffError
from midiff_monai.pipeline.result import Result
from midiff_monai.pipeline.run import segment


class OddScan(NamedTuple):
    """A scan that no training had the like of.

    Attributes:
        what: what is odd about it.
        translated: False for a T1w, which is segmented as it is.
        modality: preprocessing of the translation, such as CT.
    """

    what: str
    translated: bool = True
    modality: str | None = None


SCANS = {
    "glioma_T1": OddScan("glioma, slices of 5.5 mm", translated=False),
    "glioma_T1c": OddScan("glioma, with contrast agent, slices of 5.5 mm"),
    "glioma_T2": OddScan("glioma, slices of 5.5 mm"),
    "glioma_FLAIR": OddScan("glioma, slices of 5.5 mm"),
    "tumour_T1c": OddScan("tumour, with contrast agent"),
    "stroke_T2": OddScan("stroke, 1 mm"),
    "thick5.5mm_FLAIR": OddScan("slices of 5.5 mm"),
    "head1mm_FLAIR": OddScan("whole head, 1 mm"),
    "lowfield1_T1w": OddScan("0.055 T, four slices", translated=False),
    "lowfield1_T2w": OddScan("0.055 T, four slices"),
    "lowfield1_FLAIR": OddScan("0.055 T, four slices"),
    "lowfield2_T2w": OddScan("0.055 T, four slices"),
    "lowfield_coronal_T2w": OddScan("0.055 T, coronal slices"),
    "lowfield1_3T_T2w": OddScan("3 T, four slices"),
    "lowfield1_3T_FLAIR": OddScan("3 T, four slices"),
    "average_PD": OddScan("average of many brains"),
    "average_T1": OddScan("average of many brains", translated=False),
    "average_T2": OddScan("average of many brains"),
    "head_CT_8bit": OddScan("CT of 8 bits, not in Hounsfield units", modality="CT"),
    "head_neck_CT": OddScan("CT of head and neck, without the vertex, 3.2 mm", modality="CT"),
}
"""Name of the file → what it is."""


def row(volume: Path, name: str, scan: OddScan, folder: Path) -> dict[str, object]:
    """Segment a scan, and describe the result, or say why it was refused."""
    common: dict[str, object] = {"scan": name, "what": scan.what}
    settings = {"modality": scan.modality} if scan.modality else {}
    try:
        (result,) = segment([volume], folder, translated=scan.translated, fast=True, **settings)
    except MidiffError as error:
        return common | {"refused": str(error)}
    return common | _described(result) | weights_columns(result.report.weights)


def _described(result: Result) -> dict[str, object]:
    volumes = result.volumes()
    assert volumes is not None
    by_name = volumes.set_index("name")["volume_ml"]
    flags, warnings = result.report.flags, result.report.warnings
    others = [text for text in warnings if text not in {flag["text"] for flag in flags}]
    return {
        "brain_ml": by_name["brain"],
        "quality": result.report.quality["score"],
        "refused": "",
        "flags": " ".join(flag["kind"] for flag in flags),
        "warnings": " ".join(others),
    }


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the odd scans")
    parser.add_argument("--out", type=Path, required=True, help="folder for odd.csv")
    parser.add_argument("--keep", type=Path, help="folder that keeps the results (default: none)")
    arguments = parser.parse_args()
    table = Table(arguments.out / "odd.csv", ("scan",))
    with tempfile.TemporaryDirectory() as temporary:
        for name, scan in tqdm(SCANS.items()):
            volume = next(arguments.data.glob(f"{name}.nii*"), None)
            if volume is not None and not table.has({"scan": name}):
                table.add(row(volume, name, scan, arguments.keep or Path(temporary)))


if __name__ == "__main__":
    main()
