"""Writing a segmentation as DICOM SEG, with coded structure names and references to the source images.

Needs the extra `dicom`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import DA

from midiff_monai.errors import in_one_line
from midiff_monai.io.dicom.frames import Frame
from midiff_monai.io.dicom.reader import DicomSeries, ordered_frames, quiet
from midiff_monai.labels import FREESURFER_IDS, STRUCTURES, Structure

STRUCTURE_CODES: Mapping[str, Code] = MappingProxyType(
    {
        "Cerebral-White-Matter": codes.cid7140.CerebralWhiteMatter,
        "Cerebral-Cortex": codes.cid7153.CerebralCortex,
        "Lateral-Ventricle": codes.cid7140.LateralVentricle,
        "Inf-Lat-Vent": codes.cid7140.InferiorHornOfLateralVentricle,
        "Cerebellum-White-Matter": codes.cid7140.CerebellarWhiteMatter,
        "Cerebellum-Cortex": codes.cid7140.CerebellarCortex,
        "Thalamus": codes.cid7153.Thalamus,
        "Caudate": codes.cid7140.CaudateNucleus,
        "Putamen": codes.cid7140.Putamen,
        "Pallidum": codes.cid7140.GlobusPallidus,
        "3rd-Ventricle": codes.cid7140.ThirdVentricle,
        "4th-Ventricle": codes.cid7140.FourthVentricle,
        "Brain-Stem": codes.cid7140.BrainStem,
        "Hippocampus": codes.cid7140.Hippocampus,
        "Amygdala": codes.cid7140.Amygdala,
        "CSF": codes.cid7153.CerebrospinalFluid,
        "Accumbens-area": codes.cid7140.NucleusAccumbens,
        "VentralDC": codes.cid7140.VentralDiencephalon,
    }
)
"""FreeSurfer name without side → code from CID 7140 or 7153 (DICOM PS3.16). All but VentralDC are SNOMED CT codes."""

SIDES: Mapping[str, Code] = MappingProxyType({"Left": codes.cid244.Left, "Right": codes.cid244.Right})

SEXES = ("M", "F", "O")

VERSION = metadata.version("midiff-monai")

SERIES_NUMBER_OFFSET = 9000
"""Added to the SeriesNumber of the source, so that viewers list the segmentation after the acquired series."""

_TYPE_2_KEYWORDS = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes that may be empty but must be present. Some anonymisation tools remove them."""

_IDENTIFYING_KEYWORDS = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName")


def write_dicom_seg(segmentation: NDArray[np.integer], series: DicomSeries, path: Path) -> None:
    """Write a segmentation as DICOM SEG (BINARY), which viewers overlay on the series.

    Segments are numbered from 1 in the order of `labels.STRUCTURES`. Structures without a voxel are left out.

    Args:
        segmentation: FreeSurfer ids (X, Y, Z) on the grid of `reader.read_series`.
        series: The segmented series. Its files are read again for their headers.
        path: File to write. Ends in .dcm.

    Raises:
        InputError: The series is no longer a volume, or its headers lack what a DICOM SEG must refer to.
        ValueError: The segmentation has another shape than the series, or is empty.
    """
    frames = ordered_frames(series)
    patient = _identifying_values(frames[0].dataset)
    _check_required_uids(frames[0].dataset, series)
    rows, columns = frames[0].matrix
    if segmentation.shape != (columns, rows, len(frames)):
        raise ValueError(f"a segmentation of shape {segmentation.shape} is not on the grid of series {series.name}")
    numbers, segments = _number_segments(segmentation)
    try:
        with quiet():
            _dicom_seg(frames, numbers.T, segments).save_as(path)  # (Z, Y, X), one frame per slice
    except OSError:
        raise
    except Exception as error:  # highdicom and pydicom raise many errors on headers that violate the standard
        reason = re.sub("|".join(map(re.escape, patient)) or "$^", "…", in_one_line(error))
        fault = f"has headers that a DICOM SEG cannot refer to ({reason})"
        raise series.error(fault, "Export it as standard MR or CT images") from error


def _identifying_values(source: Dataset) -> list[str]:
    """Return what identifies the patient in a header and must not appear in a message, longest first."""
    values = {str(source.get(keyword) or "") for keyword in _IDENTIFYING_KEYWORDS}
    values |= {part for value in values for part in re.split(r"[\^=]", value)}
    return sorted((value for value in values if len(value) > 1), key=len, reverse=True)


def _number_segments(
    segmentation: NDArray[np.integer],
) -> tuple[NDArray[np.uint8], list[hd.seg.SegmentDescription]]:
    """Number the structures present. Returns the segmentation in segment numbers, and the segment descriptions."""
    present = [structure for structure in STRUCTURES[1:] if (segmentation == structure.id).any()]
    if not present:
        raise ValueError("a DICOM SEG needs at least one structure")
    number_of_id = np.zeros(max(FREESURFER_IDS) + 1, dtype=np.uint8)
    number_of_id[[structure.id for structure in present]] = np.arange(1, len(present) + 1)
    segments = [describe_segment(number, structure) for number, structure in enumerate(present, start=1)]
    return number_of_id[segmentation], segments


def describe_segment(number: int, structure: Structure) -> hd.seg.SegmentDescription:
    """Describe a structure by its code, side, FreeSurfer name and colour."""
    side, _, unsided = structure.name.partition("-")
    code = STRUCTURE_CODES[unsided if side in SIDES else structure.name]
    is_csf = code == codes.cid7153.CerebrospinalFluid
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name,
        segmented_property_category=codes.cid7150.BodySubstance if is_csf else codes.cid7150.AnatomicalStructure,
        segmented_property_type=code,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="midiff_monai", family=codes.cid7162.ArtificialIntelligence, version=VERSION
        ),
        display_color=hd.color.CIELabColor.from_rgb(*structure.colour),
    )
    description.SegmentDescription = f"FreeSurfer id {structure.id}"
    if side in SIDES:
        (property_type,) = description.SegmentedPropertyTypeCodeSequence
        property_type.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept.from_code(SIDES[side])]
    return description


def _check_required_uids(image: Dataset, series: DicomSeries) -> None:
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        if not image.get(keyword):
            raise series.error(f"has no {keyword}, to which a DICOM SEG must refer", "Export it with all its UIDs")


def _normalise_header(source: Dataset) -> None:
    """Replace header values that highdicom refuses: some character sets, invalid dates of birth and sexes."""
    source.decode()
    source.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 can represent any text
    for keyword in _TYPE_2_KEYWORDS:
        source.setdefault(keyword, None)
    if source.PatientSex not in SEXES:
        source.PatientSex = None
    try:
        DA(source.PatientBirthDate)
    except ValueError:  # placeholders such as "00000000" for an unknown date
        source.PatientBirthDate = None


def _positions_of_selected(frames: list[Frame], sources: list[Dataset]) -> list[hd.PlanePositionSequence] | None:
    """Return the positions of the frames if the source images have other frames too, such as those of another echo."""
    if len(frames) == sum(int(source.get("NumberOfFrames") or 1) for source in sources):
        return None  # highdicom takes the positions from the source images
    return [hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, frame.position.tolist()) for frame in frames]


def _dicom_seg(
    frames: list[Frame], slices: NDArray[np.uint8], segments: list[hd.seg.SegmentDescription]
) -> hd.seg.Segmentation:
    sources = list({id(frame.dataset): frame.dataset for frame in frames}.values())
    for source in sources:
        _normalise_header(source)
    if len(sources) == 1:  # highdicom expects the frames of a multi-frame image in stored order
        order = np.argsort([frame.index for frame in frames])
        slices, frames = slices[order], [frames[k] for k in order]
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=slices,
        plane_positions=_positions_of_selected(frames, sources),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER_OFFSET + int(sources[0].get("SeriesNumber") or 0),
        series_description="midiff_monai segmentation",
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="midiff_monai",
        manufacturer_model_name="midiff_monai",
        software_versions=VERSION,
        device_serial_number="none",
        content_description="Research only, not for diagnosis",
    )
