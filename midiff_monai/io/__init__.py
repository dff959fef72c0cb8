"""Files in and out: volumes, DICOM, paths, manifests."""
