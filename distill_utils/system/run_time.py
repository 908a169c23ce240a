"""Record the time that the parts of a run take, and its memory, in ``time.json``, and print a line of progress when a part goes on.

``distill run`` begins the record. The notebooks' processes find it through an environment variable and add
to it; without that variable, nothing is recorded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from distill_utils.system.artefacts import read_json, write_json
from distill_utils.system.memory import give_back, process_peak
from distill_utils.system.progress import say_below_bars

VARIABLE = "DISTILL_RUN_TIME"
FILE = "time.json"
#: In the order in which they begin.
PARTS = ("corpus", "teacher's summaries", "teacher cache", "training", "students' summaries", "timing")
#: All that no part names: start of the notebooks' processes, statistics and figures.
REST = "notebooks and figures"
_open: list[str] = []


def begin(path: Path, key: str, expected: Mapping[str, float], spent: Mapping[str, float]) -> None:
    """Begin a record; ``expected`` and ``spent``: seconds of each part, forecast and over by now."""
    elapsed = sum(spent.values())
    spent = {name: seconds for name, seconds in spent.items() if name != REST}
    record = {"key": key, "expected": dict(expected), "spent": spent, "elapsed": elapsed}
    write_json(path, {**record, "begun": time.time() - elapsed, "process": os.getpid()})
    os.environ[VARIABLE] = str(path)


def go_on(path: Path, key: str) -> bool:
    """Go on with the record of an interrupted run; False if there is none of this ``key``."""
    record = _read(path)
    if record is None or record["key"] != key:
        return False
    write_json(path, {**record, "begun": time.time() - record["elapsed"], "process": os.getpid()})
    os.environ[VARIABLE] = str(path)
    return True


def known(path: Path, key: str) -> bool:
    """Return whether there is a record of this ``key``."""
    record = _read(path)
    return record is not None and record["key"] == key


def stop() -> None:
    """Stop recording; the record remains, for the run to go on."""
    os.environ.pop(VARIABLE, None)


def writing(system: str) -> str:
    """Return the part in which a system's summaries are written."""
    return "teacher's summaries" if system == "teacher" else "students' summaries"


def end(path: Path) -> dict:
    """End a finished run's record and remove it.

    Returns:
        ``time``: for each part ``part``, ``expected_s`` and ``seconds``; parts that an earlier run finished are missing.
        ``peak_memory_bytes``: the most that this process and a notebook's had together.
    """
    stop()
    record = _read(path)
    if record is None:
        return {"time": [], "peak_memory_bytes": 0}
    path.unlink()
    _pause(record)
    named = sum(record["spent"].values())
    spent = {**record["spent"], REST: max(0.0, record["elapsed"] - named)}
    names = [name for name in (*PARTS, REST) if name in spent or name in record["expected"]]
    parts = [
        {"part": name, "expected_s": round(record["expected"].get(name, 0.0), 1), "seconds": round(spent.get(name, 0.0), 1)}
        for name in names
    ]  # fmt: skip
    return {"time": parts, "peak_memory_bytes": max(record.get("memory", 0), process_peak())}


@contextmanager
def spending(part: str, what: str = "") -> Iterator[None]:
    """Add the time inside the context to ``part``, one of :data:`PARTS`; inside another part's, it is that one's.

    Prints where the whole run stands: ``part 4 of 7, training (6-3-kd-0): 8.0 of about 19 min``.
    """
    path = Path(os.environ.get(VARIABLE, ""))
    record = None if _open else _read(path)
    if record is None:
        yield
        return
    give_back()
    _open.append(part)
    say_below_bars(progress_line(record, part, what))
    started = time.monotonic()
    try:
        yield
    finally:
        _open.pop()
        give_back()
        if (record := _read(path)) is not None:
            record["spent"][part] = record["spent"].get(part, 0.0) + time.monotonic() - started
            record["memory"] = max(record.get("memory", 0), process_peak() + _held_by(record.get("process")))
            _pause(record)
            write_json(path, record)


def _held_by(process: int | None) -> int:
    """Return the memory that another process, which waits for this one, has now."""
    if process in (None, os.getpid()):
        return 0
    try:
        return psutil.Process(process).memory_info().rss
    except psutil.Error:
        return 0


def progress_line(record: Mapping, part: str, what: str = "") -> str:
    elapsed = time.time() - record["begun"]
    spent = dict(record["spent"])
    spent[REST] = max(0.0, elapsed - sum(spent.values()))
    left = sum(max(0.0, seconds - spent.get(name, 0.0)) for name, seconds in record["expected"].items())
    names = [name for name in (*PARTS, REST) if name in record["expected"] or name == part]
    place = f"part {names.index(part) + 1} of {len(names)}, {part}"
    return f"{place}{f' ({what})' if what else ''}: {minutes(elapsed)} of about {minutes(elapsed + left)} min"


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:.0f}"


def _pause(record: dict) -> None:
    """Note the time since the run began, so that a later run goes on from there."""
    record["elapsed"] = max(record["elapsed"], time.time() - record["begun"])


def _read(path: Path) -> dict | None:
    """Return the record; None if there is none or it is damaged: it is not worth an error."""
    try:
        record = read_json(path)
        return record if {"key", "expected", "spent", "elapsed", "begun"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
