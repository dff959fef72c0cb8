"""DICOM files that do not look like it, and series of which files are missing, empty or damaged."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from midiff_monai.errors import InputError
from midiff_monai.io.dicom.reader import DicomSeries, read_series
from midiff_monai.io.inputs import Job, find_jobs
from midiff_monai.io.volumes import reading_warnings

WriteDicom = Callable[..., list[Path]]
AFFINE = nib.affines.from_matvec(np.diag([-0.9, -0.9, 3.0]), [40, 50, -20])
SLICES = 12


@pytest.fixture
def voxels() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(0, 2000, (8, 6, SLICES)).astype(np.int16)


@pytest.fixture
def files(tmp_path: Path, voxels: NDArray[np.int16], write_dicom: WriteDicom) -> list[Path]:
    """In the order of the slices, as are their names, which end in .dcm."""
    files = write_dicom(tmp_path / "in", voxels, AFFINE)
    return [file.rename(file.with_name(f"slice{k:02d}.dcm")) for k, file in enumerate(files, start=1)]


def jobs(folder: Path) -> list[Job]:
    return find_jobs([folder], folder.parent / "out")


def only(folder: Path) -> DicomSeries:
    (job,) = jobs(folder)
    assert job.series is not None
    return job.series


def assert_read(folder: Path, voxels: NDArray[np.int16]) -> None:
    image = read_series(only(folder))
    np.testing.assert_array_equal(image.get_fdata(), voxels)
    np.testing.assert_allclose(image.affine[:3, :3], AFFINE[:3, :3], atol=1e-5)
    assert reading_warnings(image) == []


def without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def without_meta(path: Path) -> None:
    """As ACR-NEMA and old PACS wrote it: the data set alone."""
    image = dcmread(path)
    del image.file_meta
    image.save_as(path, implicit_vr=False, little_endian=True)


def without_meta_implicit(path: Path) -> None:
    image = dcmread(path)
    del image.file_meta
    image.save_as(path, implicit_vr=True, little_endian=True)


def implicit(path: Path) -> None:
    image = dcmread(path)
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    image.save_as(path)


def big_endian(path: Path) -> None:
    image = dcmread(path)
    image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
    image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dcmwrite(path, image, implicit_vr=False, little_endian=False, force_encoding=True)


def big_endian_without_meta(path: Path) -> None:
    big_endian(path)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x00\x08\x00\x08CS") :])


def compressed(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


DISGUISES = {
    "no preamble": without_preamble,
    "no meta information": without_meta,
    "no meta information, implicit": without_meta_implicit,
    "implicit": implicit,
    "big endian": big_endian,
    "no meta information, big endian": big_endian_without_meta,
    "gzip": compressed,
}


@pytest.mark.parametrize("every", [1, 2], ids=["all", "half"])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_every_kind_of_file_is_read(disguise: str, every: int, files: list[Path], voxels: NDArray[np.int16]) -> None:
    for file in files[::every]:
        DISGUISES[disguise](file)
    assert_read(files[0].parent, voxels)


def test_files_without_preamble_and_suffix_are_read(files: list[Path], voxels: NDArray[np.int16]) -> None:
    for file in files:
        without_preamble(file)
        file.rename(file.with_suffix(""))
    assert_read(files[0].parent, voxels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"text that is not DICOM",
        bytes(200),
        b"\x08\x00\x00\x00" + b"\xff" * 300,
        b"\x1f\x8b\x08" + bytes(9),
    ],
)
def test_other_files_are_no_images(content: bytes, files: list[Path], voxels: NDArray[np.int16]) -> None:
    (files[0].parent / "other").write_bytes(content)
    np.testing.assert_array_equal(read_series(only(files[0].parent)).get_fdata(), voxels)


def test_a_dicomdir_and_other_objects_are_no_images(
    tmp_path: Path, files: list[Path], voxels: NDArray[np.int16]
) -> None:
    for name, uid in (("DICOMDIR", "1.2.840.10008.1.3.10"), ("report", "1.2.840.10008.5.1.4.1.1.88.11")):
        other = dcmread(files[0], stop_before_pixels=True)
        del other.Rows
        if name == "DICOMDIR":
            del other.SOPClassUID, other.SOPInstanceUID
        else:
            other.SOPClassUID = UID(uid)
        other.file_meta.MediaStorageSOPClassUID = UID(uid)
        other.save_as(tmp_path / "in" / name)
    assert_read(tmp_path / "in", voxels)


class TestLeftOut:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
            (b"<html>Sign in</html>", "is a web page"),
            (None, "is a placeholder of git-annex, its content is not here"),
        ],
    )
    def test_last_files_without_content_are_counted_and_named(
        self, content: bytes | None, reason: str, files: list[Path], voxels: NDArray[np.int16]
    ) -> None:
        """Nothing else says that slices are missing: the rest is numbered and spaced without a gap."""
        for file in files[7:]:
            file.unlink()
            if content is None:
                file.symlink_to("../.git/annex/objects/zz/00/key/key.dcm")
            else:
                file.write_bytes(content)
        image = read_series(only(files[0].parent))
        np.testing.assert_array_equal(image.get_fdata(), voxels[..., :7])
        (warning,) = reading_warnings(image)
        assert warning.startswith("5 files of the folder were left out") and reason in warning
        assert "slice08.dcm, slice09.dcm, slice10.dcm …" in warning

    @pytest.mark.parametrize("size", [140, 400, 900])
    def test_last_files_that_end_inside_the_header_are_counted_and_named(
        self, size: int, files: list[Path], voxels: NDArray[np.int16]
    ) -> None:
        for file in files[10:]:
            file.write_bytes(file.read_bytes()[:size])
        image = read_series(only(files[0].parent))
        np.testing.assert_array_equal(image.get_fdata(), voxels[..., :10])
        (warning,) = reading_warnings(image)
        assert "2 files of the folder were left out, because each is truncated (slice11.dcm, slice12.dcm)" in warning

    def test_a_file_that_ends_inside_its_pixels_is_refused(self, files: list[Path]) -> None:
        files[11].write_bytes(files[11].read_bytes()[:-20])
        with pytest.raises(InputError, match=r"slice12.dcm: cannot be read as DICOM"):
            read_series(only(files[0].parent))

    def test_a_damaged_compressed_file_is_named(self, files: list[Path]) -> None:
        for file in files:
            compressed(file)
        (last := files[11].with_name("slice12.dcm.gz")).write_bytes(last.read_bytes()[:100])
        folder = files[0].parent
        try:
            (warning,) = reading_warnings(read_series(only(folder)))
        except (InputError, ValueError):
            with pytest.raises(InputError, match=r"slice12.dcm.gz: cannot be read as DICOM"):
                read_series(next(job.series for job in jobs(folder) if "slice12" in job.series.name))  # type: ignore
        else:
            assert "slice12.dcm.gz" in warning

    def test_a_folder_of_truncated_files_alone_is_no_empty_one(self, files: list[Path]) -> None:
        for file in files:
            file.write_bytes(file.read_bytes()[:400])
        with pytest.raises(InputError, match=r"slice01.dcm: is truncated"):
            read_series(jobs(files[0].parent)[0].series)  # type: ignore[arg-type]

    def test_a_folder_without_any_content_says_so(self, files: list[Path]) -> None:
        for file in files:
            file.unlink()
            file.symlink_to("../.git/annex/objects/zz/00/key/key.dcm")
        with pytest.raises(
            InputError, match="12 files are not usable: slice01.dcm is a placeholder of .*`datalad get`"
        ):
            jobs(files[0].parent)

    def test_other_files_are_no_warning(self, tmp_path: Path, files: list[Path], voxels: NDArray[np.int16]) -> None:
        (tmp_path / "in" / "scan.json").write_text('{"EchoTime": 90}')
        (tmp_path / "in" / "index.html").write_text("<html>")
        (tmp_path / "in" / "empty.log").touch()
        (tmp_path / "in" / "notes").mkdir()
        (tmp_path / "in" / "notes" / "empty").touch()
        (tmp_path / "in" / ".hidden").touch()
        assert_read(tmp_path / "in", voxels)


class TestHoles:
    def test_every_second_image_is_missing(self, files: list[Path]) -> None:
        for file in files[1::2]:
            file.unlink()
        with pytest.raises(InputError, match=r"lacks 5 images, those with InstanceNumber 2, 4, 6, 8, 10 of 1-11"):
            read_series(only(files[0].parent))

    def test_the_last_slices_of_an_interleaved_series_are_missing(self, files: list[Path]) -> None:
        """Odd slices were acquired and numbered first, so that the numbers have a gap and the positions have none."""
        order = [*range(0, SLICES, 2), *range(1, SLICES, 2)]
        for number, k in enumerate(order, start=1):
            edit(files[k], InstanceNumber=number)
        for file in files[8:]:
            file.unlink()
        with pytest.raises(InputError, match=r"lacks 2 images, those with InstanceNumber 5-6 of 1-10"):
            read_series(only(files[0].parent))

    @pytest.mark.parametrize("declared", ["SpacingBetweenSlices", "SliceThickness"])
    def test_one_of_two_interleaved_echoes_is_complete(
        self, declared: str, files: list[Path], voxels: NDArray[np.int16]
    ) -> None:
        for k, file in enumerate(files):
            edit(file, SliceThickness=None)
            edit(file, InstanceNumber=2 * k + 1, **{declared: 3})
        assert_read(files[0].parent, voxels)

    @pytest.mark.parametrize(
        "numbers", [lambda k: None, lambda k: 1, lambda k: 0, lambda k: 1000 * k, lambda k: 50 + k]
    )
    def test_numbers_that_do_not_count_slices_are_ignored(
        self, numbers: Callable[[int], Any], files: list[Path], voxels: NDArray[np.int16]
    ) -> None:
        for k, file in enumerate(files):
            edit(file, InstanceNumber=numbers(k))
        assert_read(files[0].parent, voxels)

    def test_fewer_images_than_declared_give_a_warning(self, files: list[Path]) -> None:
        for file in files:
            edit(file, ImagesInAcquisition=SLICES)
        for file in files[8:]:
            file.unlink()
        (warning,) = reading_warnings(read_series(only(files[0].parent)))
        assert warning == "The headers declare 12 images (ImagesInAcquisition), but the series has 8."

    def test_frames_that_are_declared_but_not_described_are_refused(
        self, tmp_path: Path, files: list[Path], write_multiframe: Callable[[list[Path], Path], None]
    ) -> None:
        write_multiframe(files, tmp_path / "multi" / "image")
        image = dcmread(tmp_path / "multi" / "image")
        image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:7]
        image.save_as(tmp_path / "multi" / "image")
        with pytest.raises(InputError, match="declares 12 frames, but describes 7"):
            read_series(only(tmp_path / "multi"))

    @pytest.mark.parametrize("present", [2, 1])
    def test_a_concatenation_of_two_files_is_one_volume(
        self,
        present: int,
        tmp_path: Path,
        files: list[Path],
        voxels: NDArray[np.int16],
        write_multiframe: Callable[[list[Path], Path], None],
    ) -> None:
        folder, uids = tmp_path / "multi", {"ConcatenationUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
        for number, part in ((1, files[:6]), (2, files[6:])):
            write_multiframe(part, folder / f"{number}")
            edit(folder / f"{number}", InConcatenationNumber=number, InConcatenationTotalNumber=2, **uids)
        if present == 2:
            np.testing.assert_array_equal(read_series(only(folder)).get_fdata(), voxels)
        else:
            (folder / "2").unlink()
            with pytest.raises(InputError, match="lacks 1 of the 2 files of a concatenation"):
                read_series(only(folder))


def edit(path: Path, **attributes: Any) -> None:
    image = dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            image.pop(keyword, None)
        else:
            setattr(image, keyword, value)
    image.save_as(path)


def test_real_enhanced_images_of_one_series_are_a_time_series(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "odd" / "dicom-xa30", tmp_path / "in")
    with pytest.raises(
        InputError, match="has 5 multi-frame images at the same positions, as time and diffusion series"
    ):
        jobs(tmp_path / "in")
