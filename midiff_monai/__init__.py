"""Zero-shot cross-modality segmentation of medical volumes by diffusion guided with local mutual information."""
