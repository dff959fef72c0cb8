"""App of MONAI Label: segments a scan of any contrast with the bundle `any_contrast_brain_segmentation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import HTTPException
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import SqueezeDimd
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.utils.others.generic import strtobool

import midiff_monai
from midiff_monai.bundle.resources import bundle_root, overlay_path, read_metadata
from midiff_monai.errors import MidiffError
from midiff_monai.labels import STRUCTURES

BUNDLE = "any_contrast_brain_segmentation"


class AnyContrastTask(BasicInferTask):
    """Runs the bundle. MONAI Label's own task for bundles ignores one without `models/model.pt`.

    Args:
        conf: `modality` names an overlay of `transforms/`, such as CT; `fast` computes at 2 mm.
    """

    def __init__(self, conf: Mapping[str, str]) -> None:
        root, modality = bundle_root(BUNDLE), conf.get("modality")
        overlays = [str(overlay_path(modality))] if modality else []
        self.bundle = ConfigParser()
        self.bundle.read_config([str(root / "configs" / "inference.yaml"), *overlays])
        self.bundle.update({"bundle_root": str(root), "fast": strtobool(conf.get("fast", "false"))})
        super().__init__(
            path=None,
            network=self.bundle.get_parsed_content("network_def"),
            type=InferType.SEGMENTATION,
            labels={structure.name: structure.id for structure in STRUCTURES if structure.id},
            dimension=3,
            description=read_metadata(root)["description"],
        )

    def __call__(self, request: Any, callbacks: Any = None) -> tuple[str | None, dict]:
        """Segment the scan of a request. A scan that cannot be used is an answer with the reason, and not a crash."""
        try:
            return super().__call__(request, callbacks)
        except MidiffError as error:
            raise HTTPException(status_code=422, detail=str(error)) from error

    def pre_transforms(self, data: Any = None) -> Sequence[Callable]:
        """Read the scan as a run of the bundle does."""
        return self.bundle.get_parsed_content("preprocessing").transforms

    def inferer(self, data: Any = None) -> Inferer:
        """The inferer of the bundle."""
        return self.bundle.get_parsed_content("inferer")

    def post_transforms(self, data: Any = None) -> Sequence[Callable]:
        """MONAI Label writes the file itself, from a volume without channels."""
        return [SqueezeDimd(keys=self.output_label_key, dim=0)]

    def _get_network(self, device: str, data: Any) -> Any:
        """The network on the device of the bundle. MONAI Label would load a file of weights into a copy of it."""
        return self.network


class MidiffApp(MONAILabelApp):
    """The app: one task, no training."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="midiff_monai",
            description="Brain segmentation of scans of any contrast",
            version=midiff_monai.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The tasks by name."""
        return {BUNDLE: AnyContrastTask(self.conf)}
