"""DICOM series read as volumes, segmentations written as DICOM SEG."""
