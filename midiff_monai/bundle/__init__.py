"""MONAI bundles: finds, verifies and opens them, and saves their results."""

import lazy_loader

# `resources` must not wait for torch: `midiff --help` lists the bundles
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundle": ["Bundle", "open_bundle"],
        "conversion": ["convert_checkpoint", "convert_state", "unet_arguments"],
        "loading": ["CheckIntensityRanged", "InputVolumes", "LoadSegmentationd", "LoadVolumed"],
        "resources": ["read_metadata"],
        "saving": ["SaveWithSourceHeaderd"],
        "weights": ["load_matching_weights", "load_weights", "save_state", "save_weights"],
    },
)
