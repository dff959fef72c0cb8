"""Reading DICOM series as volumes and writing segmentations as DICOM SEG."""
