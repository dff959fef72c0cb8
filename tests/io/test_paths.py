from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midiff_monai.errors import OutputError
from midiff_monai.io.outputs import output_paths
from midiff_monai.io.paths import (
    VOLUME_SUFFIXES,
    atomic_write,
    check_writable,
    volume_files,
    volume_stem,
)

STEMS = st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


class TestNames:
    @given(stem=STEMS, suffix=st.sampled_from(VOLUME_SUFFIXES), upper=st.booleans())
    def test_stem_and_suffix_make_up_the_name(self, stem: str, suffix: str, upper: bool) -> None:
        assert volume_stem(stem + (suffix.upper() if upper else suffix)) == stem

    @pytest.mark.parametrize("name", ["scan.v2_dseg.nii.gz", "1.3.12.2.1107.mha", "T1.nii.nii.gz"])
    def test_dots_within_the_stem_stay(self, name: str) -> None:
        assert f"{volume_stem(name)}{name[len(volume_stem(name)) :]}" == name
        assert name[len(volume_stem(name)) :] in VOLUME_SUFFIXES


class TestCheckWritable:
    def test_creates_the_folder_and_leaves_nothing_in_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "new" / "out"
        check_writable(folder, [folder / "x.csv"], overwrite=False)
        assert folder.is_dir() and not list(folder.iterdir())

    def test_existing_output_needs_overwrite(self, tmp_path: Path) -> None:
        output = tmp_path / "x_dseg.nii.gz"
        output.write_text("precious")
        with pytest.raises(OutputError, match=r"x_dseg\.nii\.gz: exists already\. Use --overwrite"):
            check_writable(tmp_path, [tmp_path / "new.csv", output], overwrite=False)
        check_writable(tmp_path, [output], overwrite=True)
        assert output.read_text() == "precious"

    @pytest.mark.parametrize(("read_from", "write_to"), [("real", "link"), ("link", "real"), ("real", "real")])
    def test_inputs_are_never_overwritten(self, tmp_path: Path, read_from: str, write_to: str) -> None:
        """X_synthT1w.nii.gz is both an input and the output of X. A link to the folder must not hide this."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
        earlier = output_paths("X.nii.gz", tmp_path / read_from).synthetic
        earlier.touch()
        output = output_paths("X.nii.gz", tmp_path / write_to).synthetic
        with pytest.raises(OutputError, match="is an input of this run"):
            check_writable(tmp_path / write_to, [output], overwrite=True, inputs=[earlier])

    def test_a_name_too_long_for_a_temporary_file_is_refused(self, tmp_path: Path) -> None:
        """`atomic_write` adds ten bytes, so 245 bytes are the limit."""
        check_writable(tmp_path, [tmp_path / ("x" * 245)], overwrite=False)
        with atomic_write(tmp_path / ("x" * 245)) as temporary:
            temporary.touch()
        with pytest.raises(OutputError, match="too long a name"):
            check_writable(tmp_path, [tmp_path / ("é" * 123)], overwrite=False)

    @pytest.mark.parametrize("below", ["", "deeper"])
    def test_folder_that_is_a_file(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(OutputError, match="is a file"):
            check_writable(tmp_path / "out" / below, [], overwrite=True)

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
    def test_folder_that_accepts_no_files(self) -> None:
        with pytest.raises(OutputError, match=r"/proc/self: cannot be written \("):
            check_writable("/proc/self", [], overwrite=True)

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
    def test_read_only_folder(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o555)
        with pytest.raises(OutputError, match=os.strerror(errno.EACCES)):
            check_writable(tmp_path, [], overwrite=True)


class TestAtomicWrite:
    def test_nibabel_picks_the_format_of_the_final_name(self, tmp_path: Path) -> None:
        target = tmp_path / "x_dseg.nii.gz"
        image = nib.Nifti1Image(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.eye(4))
        with atomic_write(target) as temporary:
            nib.save(image, temporary)
            assert not target.exists()
        assert target.read_bytes()[:2] == b"\x1f\x8b"  # gzip
        np.testing.assert_array_equal(nib.Nifti1Image.from_filename(target).dataobj, image.dataobj)
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
    def test_failure_keeps_the_old_file_and_removes_the_temporary_file(
        self, tmp_path: Path, failure: type[BaseException]
    ) -> None:
        target = tmp_path / "x.csv"
        target.write_text("old")
        with pytest.raises(failure), atomic_write(target) as temporary:
            temporary.write_text("half of the n")
            raise failure
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]

    def test_failure_before_anything_is_written_is_not_masked(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "x.csv"):
            raise ZeroDivisionError

    def test_two_writers_do_not_share_a_name(self, tmp_path: Path) -> None:
        target = tmp_path / "x.csv"
        with atomic_write(target) as first, atomic_write(target) as second:
            first.write_text("first")
            second.write_text("second")
        assert target.read_text() == "first"


@pytest.mark.parametrize(
    ("name", "header", "other"),
    [
        ("x.hdr", b"", "x.img"),
        ("x.img", b"", "x.hdr"),
        ("x.HDR", b"", "x.IMG"),
        ("x.mhd", b"NDims = 3\nElementDataFile = y.raw\n", "y.raw"),
        ("x.nhdr", b"NRRD0004\r\nencoding: raw\r\ndata file: sub/y.raw\r\n", "sub/y.raw"),
        ("x.mhd", b"ElementDataFile = LOCAL\n", None),
        ("x.mhd", b"ElementDataFile = LIST\nsub/1.raw\nsub/2.raw\n", "sub/1.raw sub/2.raw"),
        ("x.nhdr", b"data file: LIST 2\nb.raw\na.raw\n", "b.raw a.raw"),
        ("x.mhd", b"ElementDataFile = s%02d.raw 8 12 2\n", "s08.raw s10.raw s12.raw"),
        ("x.nhdr", b"data file: sub/s%d.raw 0 1\n", "sub/s0.raw sub/s1.raw"),
        ("x.mhd", b"ElementDataFile = a\0b\n", None),
        ("x.nii.gz", b"data file: y.raw", None),
    ],
)
def test_files_of_a_volume(name: str, header: bytes, other: str | None, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(header)
    (tmp_path / "sub").mkdir()
    others = other.split() if other else []
    for file in others:
        (tmp_path / file).touch()
    expected = [name, *others]
    assert volume_files(tmp_path / name) == tuple(tmp_path / file for file in expected)
    assert volume_files(tmp_path / "absent.mhd") == (tmp_path / "absent.mhd",)


@pytest.mark.parametrize(
    ("name", "header", "missing"),
    [
        ("x.hdr", b"", "x.img"),
        ("x.mhd", b"ElementDataFile = y.raw\n", "y.raw"),
        ("x.nhdr", b"data file: s%d.raw 1 999999999999999999999999 1 2\n", "s1.raw"),
        ("x.mhd", b"ElementDataFile = %s%d%999999999d 0 1 0\n", "%s%d%999999999d 0 1 0"),
    ],
)
def test_files_of_a_volume_that_are_missing_are_named(name: str, header: bytes, missing: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(header)
    assert volume_files(tmp_path / name) == (tmp_path / name, tmp_path / missing)


def test_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    left, fresh, other = (tmp_path / name for name in (".01234567.x.nii", ".89abcdef.x.nii", ".01234567.y.nii"))
    for path in (left, fresh, other):
        path.touch()
    for path in (left, other):
        os.utime(path, (0, 0))
    with atomic_write(tmp_path / "x.nii") as temporary:
        temporary.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"x.nii", fresh.name, other.name}
