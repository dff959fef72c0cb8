"""The official BIDS validator, if it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which("bids-validator")


def validated(folder: Path) -> list[str]:
    """Codes and locations of the validator's errors."""
    answer = subprocess.run([str(VALIDATOR), str(folder), "--json"], capture_output=True, text=True, check=False)
    issues = json.loads(answer.stdout)["issues"]["issues"]
    return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue["severity"] == "error"]
