"""What is written is written whole, and taken for finished only when it is."""

import errno
from types import SimpleNamespace

import pytest

from distill_utils import cli
from distill_utils.artefacts import is_current, read_json, whole_file, whole_folder, write_json
from distill_utils.errors import UserError


def test_a_folder_appears_when_it_is_finished(tmp_path):
    target = tmp_path / "made"
    with whole_folder(target, "key") as folder:
        (folder / "x").write_text("1")
        assert not target.exists() and not is_current(target, "key")
    assert (target / "x").read_text() == "1"
    assert is_current(target, "key") and not is_current(target, "other key")


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "made"
    with whole_folder(target, "old") as folder:
        (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(target, "new") as folder:
        (folder / "x").write_text("new")
        raise RuntimeError
    assert (target / "x").read_text() == "old" and is_current(target, "old")
    assert list(tmp_path.iterdir()) == [target], "no temporary folder is left"


def test_a_file_is_replaced_or_left_alone(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("{")
        raise RuntimeError
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot be written"), (errno.EROFS, "cannot be written")],
)
def test_a_full_disk_and_a_closed_folder_are_said_in_one_line(tmp_path, number, message):
    for context in (whole_folder(tmp_path / "folder", "key"), whole_file(tmp_path / "file")):
        with pytest.raises(UserError, match=message), context:
            raise OSError(number, "no")
    assert not list(tmp_path.iterdir())


def test_a_run_that_the_disk_cannot_hold_is_not_begun(monkeypatch, capsys):
    monkeypatch.setattr("distill_utils.runner.shutil.disk_usage", lambda _: SimpleNamespace(free=50_000_000))
    assert cli.main(["run", "smoke"]) == 2
    assert "0.1 GB of free disk space and smoke needs about" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "message", ["[Errno 28] No space left on device", 'IoError(Os { code: 28, kind: StorageFull, message: "x" })']
)
def test_a_disk_that_fills_up_while_working_is_said_in_one_line(monkeypatch, capsys, message):
    def fail(*_, **__):
        raise RuntimeError(message)

    monkeypatch.setattr("distill_utils.plan.train_student", fail)
    assert cli.main(["train", "smoke", "--method", "sft"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "distill: the disk is full; free some space and run again"
