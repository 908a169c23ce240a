"""Atomic writes, checksums, locks."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from distill_utils import cli
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import (
    KEY_FILE,
    STALE,
    is_current,
    read_json,
    read_record,
    whole_file,
    whole_folder,
    write_json,
    write_manifest,
    write_record,
)
from distill_utils.system.errors import UserError
from distill_utils.system.locks import OWNER_FILE, locked
from distill_utils.system.paths import ROOT
from tests.conftest import distill


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
    monkeypatch.setattr("distill_utils.run_study.shutil.disk_usage", lambda _: SimpleNamespace(free=50_000_000))
    assert cli.main(["run", "smoke"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("distill: smoke needs about") and line.endswith("has 0.1 GB; free disk space")


@pytest.mark.parametrize(
    "message", ["[Errno 28] No space left on device", 'IoError(Os { code: 28, kind: StorageFull, message: "x" })']
)
def test_a_disk_that_fills_up_while_working_is_said_in_one_line(monkeypatch, capsys, message):
    def fail(*_, **__):
        raise RuntimeError(message)

    monkeypatch.setattr("distill_utils.training.train_student.train_student", fail)
    assert cli.main(["train", "smoke", "--method", "sft"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "distill: the disk is full; free some space and run again"


DYING = """
import os, sys
from pathlib import Path
from distill_utils.system.artefacts import whole_file, whole_folder, write_manifest
at = Path(sys.argv[1])
with whole_folder(at / "half", "key") as a, whole_file(at / "x.json") as b, whole_folder(at / "made", "key") as c:
    for path in (a / "x", b, c / "x"):
        path.write_text("new")
    write_manifest(c, "key")
    os._exit(1)
"""


def age(folder):
    """As if nothing had been written to it for a while."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (time.time() - STALE - 60,) * 2)


@pytest.mark.parametrize(
    "writing",
    [lambda at: locked(at.parent, "x"), lambda at: whole_folder(at / "mine", "key")],
    ids=["locked", "whole_folder"],
)
def test_only_stale_temporaries_are_removed(tmp_path, writing):
    at = tmp_path / "at"
    with whole_folder(at / "made", "key") as folder:
        (folder / "x").write_text("old")
    subprocess.run([sys.executable, "-c", DYING, str(at)], cwd=ROOT, check=False)
    left = [path for path in at.iterdir() if path.name != "made"]
    assert len(left) == 3
    with writing(at):
        assert all(path.is_dir() for path in left), "their processes might live"
    foreign = at / ".hidden.unfinished"
    with whole_folder(at / "other", "key") as live:
        foreign.mkdir()
        (live / "inside").mkdir()
        for path in (*left, foreign, live):
            age(path)
        (live / "inside" / "x").write_text("x")
        with writing(at):
            assert not any(path.exists() for path in left) and foreign.is_dir() and live.is_dir()
    assert {path.name for path in at.iterdir()} - {"mine"} == {"made", "other", foreign.name}
    assert (at / "made" / "x").read_text() == "old" and is_current(at / "other", "key")


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "stale"), KeyboardInterrupt()])
def test_a_swap_that_fails_leaves_what_was_there(tmp_path, monkeypatch, error):
    with whole_folder(tmp_path / "made", "old") as folder:
        (folder / "x").write_text("old")
    real = Path.rename

    def rename(path, target):
        if path.name.endswith(".unfinished"):
            raise error
        return real(path, target)

    with pytest.raises(type(error)), whole_folder(tmp_path / "made", "new"):
        monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["made"] and is_current(tmp_path / "made", "old")


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace("20.5", "21.5"), lambda text: text[:-9], lambda text: text.replace("checksum", "sum"), lambda text: "[]",
        lambda text: text.replace('"a"', '"b"'), lambda text: "",
    ],
)  # fmt: skip
def test_a_record_that_was_changed_is_refused(tmp_path, harm):
    data = {"rougeL": 20.5, 10: {"a": (1, None)}, 9: "é"}
    write_record(tmp_path / "record.json", data)
    assert read_record(tmp_path / "record.json", "regenerate it") == {"rougeL": 20.5, "10": {"a": [1, None]}, "9": "é"}
    text = (tmp_path / "record.json").read_text("utf-8")
    assert harm(text) != text
    (tmp_path / "record.json").write_text(harm(text), "utf-8")
    with pytest.raises(UserError, match=r"record.json (is damaged|has no checksum).*; regenerate it"):
        read_record(tmp_path / "record.json", "regenerate it")


def test_results_that_were_changed_are_not_believed(finished, capsys):
    path = finished.results_file
    text = path.read_text("utf-8")
    path.write_text(text.replace('"rougeL": ', '"rougeL": 1', 1), "utf-8")
    assert cli.main(["report", "smoke"]) == 2
    assert capsys.readouterr().err.startswith(f"distill: {path} is damaged")
    path.write_text(text, "utf-8")
    assert cli.main(["report", "smoke"]) == 0


# -- damage and locks -------------------------------------------------------------------------------------------


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=times)  # as a disk does it: unseen


def foreign(path):
    path.write_bytes(b"x" * path.stat().st_size)


def missing(path):
    path.unlink()


@pytest.mark.parametrize("harm", [truncated, flipped, foreign, missing])
@pytest.mark.parametrize("name", ["data.bin", "inside/more.json", KEY_FILE])
def test_a_damaged_artefact_is_named_and_not_used(tmp_path, name, harm):
    target = tmp_path / "made"
    with whole_folder(target, "key") as folder:
        (folder / "inside").mkdir()
        (folder / "data.bin").write_bytes(bytes(range(256)) * 50)
        (folder / "inside" / "more.json").write_text("[1, 2, 3]")
    harm(target / name)
    code = f"from pathlib import Path; from distill_utils.system.artefacts import is_current; print(is_current(Path({str(target)!r}), 'key'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
    if name != KEY_FILE:  # without its key it is nobody's artefact
        assert done.stderr.count("\n") == 1 and str(target) in done.stderr and name in done.stderr


def test_what_lies_beside_an_artefacts_files_does_not_matter(tmp_path):
    with whole_folder(tmp_path / "made", "key") as folder:
        (folder / "x").write_text("1")
    (tmp_path / "made" / "README.md").write_text("a card")
    assert is_current(tmp_path / "made", "key")


def test_a_manifest_can_be_written_again(tmp_path):
    for content in ("1", "2"):
        (tmp_path / "x").write_text(content)
        write_manifest(tmp_path, "key")
        assert is_current(tmp_path, "key")


LOCKING = """
import sys, time
from pathlib import Path
from distill_utils.system.locks import locked
with locked(Path(sys.argv[1]), "making things"):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_message_names_the_locks_owner_and_a_dead_process_owns_no_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", LOCKING, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as one:
        assert one.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use: making things, process {one.pid} on .*, since 20"):
            locked(tmp_path, "something else", wait=0).__enter__()
        one.kill()
    with locked(tmp_path, "something else", wait=5):
        assert read_json(tmp_path / OWNER_FILE)["process"] == os.getpid()
    assert not (tmp_path / OWNER_FILE).exists()


def test_two_runs_of_a_study_at_once(tmp_path):
    study = load_study("smoke", {"name": "locked"})
    try:
        with locked(study.folder, "distill run locked"):
            code, _, err = distill("run", "smoke", "--set", "name=locked")
        assert code == 2 and err.count("\n") == 1 and f"in use: distill run locked, process {os.getpid()}" in err
        work = study.folder / "students" / "2-1-kd-0.training"
        with locked(work, "training 2-1-kd-0"):
            code, _, err = distill("run", "smoke", "--fresh", "--set", "name=locked")
        assert code == 2 and "in use: training 2-1-kd-0" in err and work.is_dir(), "it is not deleted under its process"
    finally:
        shutil.rmtree(study.folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="make its folder writable"), locked(tmp_path / "a", "x"):
        pass


def test_a_full_disk_leaves_nothing_half_written_and_the_rest_as_it_was(small_disk):
    with whole_folder(small_disk / "made", "old") as folder:
        (folder / "x").write_bytes(b"1" * 1000)
    with pytest.raises(UserError, match="the disk is full"), whole_folder(small_disk / "made", "new") as folder:
        for i in range(100):
            (folder / str(i)).write_bytes(b"1" * 100_000)
    assert [path.name for path in small_disk.iterdir()] == ["made"] and is_current(small_disk / "made", "old")
    with whole_folder(small_disk / "made", "new") as folder:  # as soon as there is room
        (folder / "x").write_bytes(b"1" * 500_000)
    assert is_current(small_disk / "made", "new")


def test_a_disk_that_can_only_be_read_is_said_in_one_line(small_disk):
    with whole_folder(small_disk / "made", "key") as folder:
        (folder / "x").write_bytes(b"1")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    writing = (
        lambda: whole_folder(small_disk / "made", "new"),
        lambda: whole_file(small_disk / "x"),
        lambda: locked(small_disk, "x", wait=0),
    )
    for attempt in writing:
        with pytest.raises(UserError, match="cannot be written") as refused, attempt():
            pass
        assert "\n" not in str(refused.value)
    assert is_current(small_disk / "made", "key")
