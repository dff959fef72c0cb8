"""Translate a volume and run another T1w tool on the synthetic T1w.

    python examples/t1_for_another_tool.py scan_PDw.nii.gz -o work -- mri_synthstrip -i {t1} -o work/stripped.nii.gz

The command after `--` is executed. `{t1}` is replaced by the path of the synthetic T1w.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

from midiff_monai import translate


def main() -> int:
    """Translate, run the tool, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volume", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("tool", nargs="+")
    arguments = parser.parse_args()
    result = translate([arguments.volume], arguments.output, overwrite=True)[0]
    return subprocess.run([part.format(t1=result.paths.synthetic) for part in arguments.tool], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
