"""Arguments of the command line: wrong ones are one line, and those of BIDS apps have two spellings."""

from __future__ import annotations

from pathlib import Path

import pytest

from midiff_monai.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnet"], "midiff: error: argument COMMAND: invalid choice: 'segmnet' (choose from "),
        (["--verson", "info"], "midiff: error: unknown argument --verson: did you mean --version? See `midiff --he"),
        (["segment", "a.nii.gz"], "midiff: error: the following arguments are required: -o/--output. See `midiff seg"),
        (["segment", "a.nii.gz", "-o", "out", "--sed", "1"], "midiff: error: unknown argument --sed: did you mean --s"),
        (["batch", "in", "-o", "out", "--probabilty"], "unknown argument --probabilty: did you mean --probability? "),
        (["segment", "a.nii.gz", "-o", "out", "--fsat=1"], "unknown argument --fsat: did you mean --fast? See `midif"),
        (["bids", "in", "out"], "arguments are required: {participant,group}. See `midiff bids --help`."),
        (["compare", "a", "b", "c", "-o", "out"], "midiff: error: unknown argument c. See `midiff compare --help`."),
        (["segment", "a.nii.gz", "-o", "out", "--steps", "two"], "argument --steps: invalid int value: 'two'. See `m"),
        (["segment", "a.nii.gz", "-o", "out", "-v", "-q"], "-q/--quiet: not allowed with argument -v/--verbose. See "),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("midiff: error: ")
    assert printed.err.count("\n") == 1 and printed.err.endswith("--help`.\n") and printed.out == ""


@pytest.mark.parametrize("option", ["--participant-label", "--participant_label"])
def test_labels_are_accepted_in_the_spelling_of_bids_apps(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bids", str(tmp_path), str(tmp_path / "out"), "participant", "--skip-bids-validation", option, "07"]
    assert main(arguments) == 2
    assert "has no sub-07" in capsys.readouterr().err
