"""Runs the inference of a bundle as `monai.bundle run` does."""

from __future__ import annotations

from pathlib import Path

from monai.bundle import ConfigWorkflow

from midiff_monai.bundle.resources import bundle_root


def only_output(name: str, folder: Path) -> Path:
    """Run a bundle on `in` of a folder, and return the one file that it writes into `out`."""
    root = bundle_root(name)
    flow = ConfigWorkflow(
        config_file=str(root / "configs" / "inference.yaml"),
        meta_file=str(root / "configs" / "metadata.json"),
        workflow_type="inference",
        device="cpu",
        amp=False,
        bundle_root=str(root),
        dataset_dir=str(folder / "in"),
        output_dir=str(folder / "out"),
    )
    flow.initialize()
    flow.run()
    (file,) = (folder / "out").iterdir()
    return file
