"""Zero-shot cross-modality segmentation of medical volumes by diffusion guided with local mutual information."""

from importlib import metadata

import lazy_loader

__version__ = metadata.version("midiff-monai")

# torch and MONAI take seconds to import: `midiff --help` must not wait for them
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "guidance": ["LMIGuide", "LocalMutualInformation"],
        "inferers": ["LMIGuidedInferer"],
        "io.inputs": ["find_jobs"],
        "pipeline.batch": ["run_batch"],
        "pipeline.images": ["ImageResult", "segment_image", "translate_image"],
        "pipeline.result": ["Result"],
        "pipeline.run": ["Settings", "segment", "translate"],
    },
)
__all__ = [*__all__, "__version__"]
