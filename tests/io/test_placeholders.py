"""Files whose content is not here, and files that are something else than their name says."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from midiff_monai.errors import InputError
from midiff_monai.io.inputs import find_jobs
from midiff_monai.io.volumes import read_volume

NAMES = ["T2.nii.gz", "T2.nii", "T2.mgz", "T2.nrrd"]


def zip_file() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("T2.nii", bytes(400))
    return content.getvalue()


def tar_file() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("T2.nii"), io.BytesIO())
    return content.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n <!-- saved --> <!DOCTYPE html>\n<html><title>Sign in</title></html>"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(LFS, "pointer of Git LFS.* `git lfs pull`", id="LFS"),
        pytest.param(b"/annex/objects/MD5E-s3812000--0.nii.gz\n", "not here.*datalad get", id="unlocked annex"),
        pytest.param(b"../../.git/annex/objects/a/b/c.nii.gz", "not here.*datalad get", id="annex link as a file"),
        pytest.param(PAGE, "is a web page", id="page"),
        pytest.param(b"<html>", "is a web page", id="short page"),
        pytest.param(
            b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "error message of a server", id="XML"
        ),
        pytest.param(b'{"message": "Not Found"}', "JSON document", id="JSON"),
        pytest.param(zip_file(), "ZIP archive. Unpack it", id="ZIP"),
        pytest.param(tar_file(), "TAR archive. Unpack it", id="TAR"),
        pytest.param(bz2.compress(bytes(400)), "compressed with bzip2. Decompress it", id="bzip2"),
        pytest.param(lzma.compress(bytes(400)), "compressed with xz. Decompress it", id="xz"),
        pytest.param(b"\x28\xb5\x2f\xfd" + bytes(400), "compressed with Zstandard. Decompress it", id="Zstandard"),
    ],
)
def test_a_placeholder_is_named(content: bytes, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / name)


@pytest.mark.parametrize(("content", "message"), [(PAGE, "web page"), (tar_file(), "TAR archive")])
def test_a_compressed_placeholder_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "T2.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / "T2.nii.gz")


@pytest.mark.parametrize("name", ["T2.nii.gz", "T2.nii", "T2.mgz", "T2.mgh"])
@pytest.mark.parametrize("content", ["a note\n", "Größe 1,5 mm\r\n\tx" * 99, "é" * 400, "x" * 511 + "é"])
def test_a_text_with_the_name_of_a_volume_is_named(content: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"is a text file, not a volume\. Name the volume"):
        read_volume(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../.git/annex/objects/zz/00/key/key.nii.gz", "its content is not here.*`datalad get`"),
        ("/archive/T2.nii.gz", "is a link to /archive/T2.nii.gz, which does not exist"),
    ],
)
def test_a_link_without_target_is_named(target: str, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(target)
    with pytest.raises(InputError, match=message):
        read_volume(tmp_path / name)
    (job,) = find_jobs([tmp_path], tmp_path / "out")
    assert job.source == tmp_path / name


def test_a_table_that_is_not_here_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.csv").symlink_to("../.git/annex/objects/zz/00/key/key.csv")
    with pytest.raises(
        InputError,
        match=r"study.csv: is a placeholder of git-annex, its content is not here\. Get it first, with `datalad get`",
    ):
        find_jobs([tmp_path / "study.csv"], tmp_path / "out")


def test_voxels_that_begin_like_text_are_read(tmp_path: Path) -> None:
    """Raw voxels may have any value. Only a start like that of a known placeholder counts."""
    voxels = np.frombuffer(b"version 1 {<p> PK" * 60, np.uint8).reshape(10, 6, 17)
    nib.save(nib.Nifti1Pair(voxels, np.diag([1, 1, 3, 1])), tmp_path / "a.img")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.img").get_fdata(), voxels)
