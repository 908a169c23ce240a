"""Time summarizers: latency and throughput, with their spread.

Every round times all systems in turn, so a slowdown of the machine affects all of them; speed-ups are ratios
within a round. A warm-up round is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from distill_utils.models.backends import Backend, Batch
from distill_utils.studies.settings import SpeedSettings
from distill_utils.system.progress import progress
from distill_utils.system.run_time import spending


@dataclass(frozen=True)
class Load:
    """The workload of a measurement.

    Attributes:
        batch_size: documents per batch; 1 measures latency.
        num_beams: beams of the search.
        documents: documents per round.
        tokens: fixed length of every summary, so that all systems do the same work; None: each system's own length.
    """

    batch_size: int
    num_beams: int
    documents: int
    tokens: int | None = None


@spending("timing", "all systems")
def measure_speed(
    systems: Mapping[str, Backend], sources: Batch, loads: Sequence[Load], *, reference: str, repeats: int, rest: float = 0.0,
    **generate_settings,
) -> dict[str, list[dict]]:  # fmt: skip
    """Time every system under every load.

    Args:
        sources: token ids of the documents.
        reference: the system that speed-ups are relative to.
        repeats: number of rounds. Each begins with another system, since one may slow down the next.
        rest: seconds before every measurement, in which the threads of systems in other processes come to rest.
        generate_settings: arguments of ``model.generate``; a load's beams and length override them.

    Returns:
        Per system and load: the load itself; ``summaries_per_s`` and ``speedup``, medians over rounds, each with ``_spread``
        (minimum and maximum); ``summary_tokens`` (mean); and at batch size 1 ``latency_ms`` (median over documents and
        rounds), ``latency_ms_p90``, ``latency_ms_p99``, ``latency_ms_spread`` (10th and 90th percentile).
    """
    measured: dict[str, list[dict]] = {name: [] for name in systems}
    for load in progress(loads, desc="timing", unit="load"):
        settings = {**generate_settings, "num_beams": load.num_beams}
        if load.tokens:
            settings = {k: v for k, v in settings.items() if k not in ("min_length", "max_length")}
            settings |= {"min_new_tokens": load.tokens, "max_new_tokens": load.tokens}
        works = _works(sources[: load.documents], load.batch_size)
        seconds = {name: np.zeros((repeats, len(works))) for name in systems}
        written = dict.fromkeys(systems, 0)
        for round_ in range(-1, repeats):
            for i, work in enumerate(works if round_ >= 0 else works[:2]):
                for name in _turned([*systems], round_ + 1):
                    system = systems[name]
                    time.sleep(rest)
                    started = time.perf_counter()
                    summaries = list(system.write(work, **settings))
                    if round_ >= 0:
                        seconds[name][round_, i] = time.perf_counter() - started
                        written[name] += sum(len(ids) for batch in summaries for ids in batch)
        documents = sum(len(batch) for work in works for batch in work)
        for name in systems:
            measured[name].append(
                {
                    **asdict(load),
                    "documents": documents,
                    **(_latency(1000 * seconds[name]) if load.batch_size == 1 else {}),
                    **_rounds("summaries_per_s", documents / seconds[name].sum(1)),
                    **_rounds("speedup", seconds[reference].sum(1) / seconds[name].sum(1)),
                    "summary_tokens": written[name] / (repeats * documents),
                }
            )
    return measured


def _turned(names: list[str], by: int) -> list[str]:
    by %= len(names)
    return names[by:] + names[:by]


def _works(sources: Batch, batch_size: int) -> list[list[Batch]]:
    """Return the units of timing: each document at batch size 1, else all batches together, sorted by length."""
    if batch_size == 1:
        return [[[ids]] for ids in sources]
    ordered = sorted(sources, key=len)
    return [[ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]]


def _latency(milliseconds: np.ndarray) -> dict:
    low, median, high, most = (float(p) for p in np.percentile(milliseconds, [10, 50, 90, 99]))
    return {"latency_ms": median, "latency_ms_p90": high, "latency_ms_p99": most, "latency_ms_spread": [low, high]}


def _rounds(name: str, values: np.ndarray) -> dict:
    return {name: float(np.median(values)), f"{name}_spread": [float(values.min()), float(values.max())]}


def natural_loads(settings: SpeedSettings, num_beams: int) -> list[Load]:
    """Return the loads without a fixed length, at batch size 1 and in batches; greedy, too, if ``settings.beams`` has 1."""
    return [
        Load(batch_size, beams, max(settings.documents, batch_size))
        for beams in sorted({num_beams, *({1} & set(settings.beams))})
        for batch_size in (1, settings.batch_size)
    ]


def forced_loads(settings: SpeedSettings, num_beams: int, tokens: int) -> list[Load]:
    """Return the loads of a fixed length over batch sizes and beams, and of one token for the time breakdown.

    Batches use as many documents as the largest batch has; batch size 1 uses ``settings.documents``.
    """
    sizes = dict.fromkeys((1, *settings.batch_sizes, settings.batch_size))
    asked = [(size, num_beams, tokens) for size in sizes]
    asked += [(settings.batch_size, beams, tokens) for beams in settings.beams if beams != num_beams]
    asked += [(size, num_beams, 1) for size in (1, settings.batch_size)]
    most = max(settings.documents, *sizes)
    return [Load(size, beams, settings.documents if size == 1 else most, length) for size, beams, length in asked]


def find(measured: Sequence[Mapping], batch_size: int, num_beams: int, tokens: int | None = None) -> Mapping | None:
    """Return a system's measurements under one load, or None."""
    wanted = {"batch_size": batch_size, "num_beams": num_beams, "tokens": tokens}
    return next((m for m in measured if all(m[key] == value for key, value in wanted.items())), None)


def headline(measured: Sequence[Mapping], settings: SpeedSettings, num_beams: int) -> dict:
    """Return a system's main measurements at batch size 1 and in batches, without a fixed length."""
    single, batched = find(measured, 1, num_beams), find(measured, settings.batch_size, num_beams)
    return {
        **{k: single[k] for k in ("num_beams", "latency_ms", "latency_ms_p90", "latency_ms_p99", "latency_ms_spread", "speedup", "speedup_spread", "summary_tokens")},
        **{k: batched[k] for k in ("summaries_per_s", "summaries_per_s_spread")},
        "batch_speedup": batched["speedup"],
        "batch_speedup_spread": batched["speedup_spread"],
    }  # fmt: skip


def parts(measured: Sequence[Mapping], batch_size: int, num_beams: int, tokens: int) -> dict | None:
    """Break down the time per summary, from two fixed lengths; all decoding steps are assumed to take the same time.

    Returns:
        ``encoder_ms`` (encoder and cross-attention's keys and values), ``step_ms`` (a decoding step) and ``encoder_share``
        (encoder's fraction of the time); None if not measured.
    """
    long, short = (find(measured, batch_size, num_beams, length) for length in (tokens, 1))
    if long is None or short is None or tokens < 2:
        return None
    whole, first = 1000 / long["summaries_per_s"], 1000 / short["summaries_per_s"]
    step = (whole - first) / (tokens - 1)
    return {"encoder_ms": first - step, "step_ms": step, "encoder_share": (first - step) / whole}
