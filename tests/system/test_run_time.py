"""The record of a run's time: what it adds up, what it says, and how a run goes on."""

import json
import subprocess
import sys
import time

import pytest

from distill_utils.system import run_time
from distill_utils.system.run_time import REST, spending


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "time.json"
    run_time.begin(path, "k", {"corpus": 60.0, "training": 540.0, REST: 60.0}, {"corpus": 30.0, REST: 6.0})
    yield path
    run_time.stop()


def test_each_part_adds_up_and_a_part_within_another_counts_once(record, capsys):
    for _ in range(2):
        with spending("training", "6-3 kd"), spending("teacher cache", "states"):
            time.sleep(0.05)
    parts = {p["part"]: p for p in run_time.end(record)["time"]}
    assert list(parts) == ["corpus", "training", REST], "in the order in which they begin"
    assert 0.1 <= parts["training"]["seconds"] < 1 and parts["training"]["expected_s"] == 540
    assert parts["corpus"]["seconds"] == 30 and 6 <= parts[REST]["seconds"] < 7
    assert not record.exists()
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0] == "part 2 of 3, training (6-3 kd): 0.6 of about 11 min" and len(lines) == 2


def test_the_most_memory_of_the_run_and_a_notebook_together_is_recorded(record):
    """A notebook's process records parts of a run that another process, which waits for it, has begun."""
    with spending("training"):
        held = bytearray(300_000_000)  # zeros alone would take no memory
        held[::4096] = b"x" * len(held[::4096])
        del held
    own = json.loads(record.read_text())["memory"]
    assert own >= 300_000_000
    waits = subprocess.Popen(
        [sys.executable, "-c", "import time; x = bytearray(b'x' * 200_000_000); print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    try:
        waits.stdout.readline()
        record.write_text(json.dumps(json.loads(record.read_text()) | {"process": waits.pid}))
        with spending("timing"):
            pass
    finally:
        waits.kill()
    assert 200_000_000 <= run_time.end(record)["peak_memory_bytes"] - own < 300_000_000


def test_a_part_that_fails_is_recorded_too(record):
    with pytest.raises(KeyboardInterrupt), spending("training"):
        raise KeyboardInterrupt
    assert "training" in json.loads(record.read_text())["spent"]


def test_an_interrupted_run_goes_on_from_its_own_record_alone(record):
    with spending("training"):
        time.sleep(0.05)
    run_time.stop()
    with spending("training"):  # nobody's
        time.sleep(0.2)
    assert not run_time.go_on(record, "another key") and run_time.go_on(record, "k")
    with spending("students' summaries"):
        time.sleep(0.05)
    parts = {p["part"]: p["seconds"] for p in run_time.end(record)["time"]}
    assert parts["training"] == pytest.approx(0.1, abs=0.05) and parts["students' summaries"] > 0
    assert sum(parts.values()) < 37


def test_what_takes_longer_than_forecast_moves_the_end(record):
    data = json.loads(record.read_text())
    data["spent"]["training"] = 700.0
    data["begun"] = time.time() - 736
    line = run_time.progress_line(data, "students' summaries")
    # 736 s over; left: 30 of the corpus and 54 of the rest.
    assert line == "part 3 of 4, students' summaries: 12 of about 14 min"


def test_a_terminal_that_is_gone_stops_nothing(record, monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr("sys.stderr", Gone())
    with spending("training"):
        pass
    assert "training" in json.loads(record.read_text())["spent"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": "k"}'])
def test_a_damaged_record_stops_nothing(record, content):
    record.write_text(content)
    with spending("training"):
        pass
    assert run_time.end(record)["time"] == [] and not run_time.go_on(record, "k")
