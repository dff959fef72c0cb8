"""MONAI bundles: found, verified, opened, and their results saved."""

import lazy_loader

# `resources` must not wait for torch: `midiff --help` lists the bundles
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "bundle": ["Bundle", "open_bundle"],
        "saving": ["SaveWithSourceHeaderd"],
        "weights": ["load_weights", "save_weights"],
    },
)
