"""A server of MONAI Label with the app of this project, driven by its REST client, against the command."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from midiff_monai import segment
from midiff_monai.evaluation.phantom import make_phantom
from midiff_monai.labels import STRUCTURES

monai_label = pytest.importorskip(
    "monailabel.client", reason="needs MONAI Label in this environment, see docs/how-to/monai-label.md"
)

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = "any_contrast_brain_segmentation"
PATIENCE = 600
"""Seconds that the server may take to start."""


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a PD phantom on an oblique grid, and of a file that is no volume."""
    folder = tmp_path_factory.mktemp("studies")
    image = make_phantom("PD").image.slicer[::3, ::3, 28:31]
    turn = np.array([[0.995, -0.0998, 0, 3], [0.0998, 0.995, 0, -7], [0, 0, 1, 11], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine), folder / "a_PDw.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no volume")
    return folder


@pytest.fixture(scope="module")
def client(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Client of a running server, which computes at 2 mm."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = tmp_path_factory.mktemp("app")  # the server makes folders in it
    shutil.copy(REPOSITORY / "apps" / "monailabel" / "main.py", app)
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app)]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port), "--conf", "fast", "true"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, cwd=log.parent, env=os.environ)
    try:
        client = monai_label.MONAILabelClient(f"http://127.0.0.1:{port}", tmpdir=str(log.parent))
        wait_for(client, server, log)
        yield client
    finally:
        server.terminate()
        server.wait()


def wait_for(client: Any, server: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers."""
    for _ in range(PATIENCE):
        assert server.poll() is None, log.read_text()[-3000:]
        with suppress(OSError):
            client.info()
            return
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


def test_the_server_names_the_structures(client: Any) -> None:
    model = client.info()["models"][BUNDLE]
    assert model["type"] == "segmentation" and model["dimension"] == 3
    assert model["labels"] == {structure.name: structure.id for structure in STRUCTURES if structure.id}


def test_the_server_segments_as_the_command(client: Any, studies: Path, tmp_path: Path) -> None:
    file, answer = client.infer(BUNDLE, "a_PDw", {})
    expected = segment(studies / "a_PDw.nii.gz", tmp_path / "out", fast=True)[0]
    found = nib.Nifti1Image.from_filename(file)
    assert expected.segmentation is not None and expected.segmentation.any()
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected.segmentation)
    np.testing.assert_allclose(found.affine, expected.source.affine, atol=1e-4)
    assert answer["label_names"]["Left-Hippocampus"] == 17


def test_a_file_that_is_no_volume_is_an_answer(client: Any) -> None:
    with pytest.raises(Exception, match="422.*broken.nii.gz"):
        client.infer(BUNDLE, "broken", {})
