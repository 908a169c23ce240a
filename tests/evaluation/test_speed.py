"""Speeds by a clock that the test turns: what is timed, in which order, and what is made of it."""

import pytest

from distill_utils.evaluation import speed
from distill_utils.evaluation.speed import Load, find, forced_loads, headline, measure_speed, natural_loads, parts
from distill_utils.models.backends import Backend
from distill_utils.studies.settings import SpeedSettings

SOURCES = [[1] * length for length in (5, 2, 9, 4)]


class Clock:
    """Seconds that pass only while a system writes."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(speed.time, "perf_counter", lambda: self.now)


class Fake(Backend):
    """Takes so many seconds for each batch at first, and for each step of it; everything takes longer as the day wears on."""

    def __init__(self, name: str, clock: Clock, encoder: float, step: float, natural: int) -> None:
        self.name, self.clock, self.encoder, self.step, self.natural = name, clock, encoder, step, natural

    def write(self, batches, **settings):
        tokens = settings.get("max_new_tokens") or self.natural
        assert "max_length" not in settings or not settings.get("max_new_tokens")
        self.clock.calls.append((self.name, [len(batch) for batch in batches], settings["num_beams"], tokens))
        tired = 1 + len(self.clock.calls) / 1000
        for batch in batches:
            self.clock.now += tired * (self.encoder + tokens * self.step)
            yield [[7] * tokens for _ in batch]


@pytest.fixture
def systems(monkeypatch):
    clock = Clock(monkeypatch)
    return {"slow": Fake("slow", clock, 4.0, 2.0, 3), "fast": Fake("fast", clock, 4.0, 1.0, 2)}


def measured(systems, *loads, **settings):
    return measure_speed(systems, SOURCES, loads, reference="slow", repeats=3, **settings)


def test_systems_take_turns_and_the_first_round_does_not_count(systems):
    measured(systems, Load(1, 4, 2))
    calls = systems["slow"].clock.calls
    orders = [["slow", "fast"], ["fast", "slow"]] * 2  # each round begins with another
    assert [name for name, *_ in calls] == [name for order in orders for _ in range(2) for name in order], (
        "a warm-up round and three, of two documents"
    )
    assert {beams for _, _, beams, _ in calls} == {4}


def test_drift_does_not_look_like_a_difference(systems):
    same = {"slow": systems["slow"], "twin": systems["slow"]}
    (twin,) = measure_speed(same, SOURCES, [Load(1, 1, 4)], reference="slow", repeats=3)["twin"]
    assert twin["speedup"] == pytest.approx(1, abs=0.001)


def test_latency_and_throughput(systems):
    found = measured(systems, Load(1, 4, 4), Load(2, 4, 4))
    single, batched = found["fast"]
    assert (
        single["latency_ms"] == pytest.approx(6000, rel=0.05) and single["latency_ms_p99"] >= single["latency_ms_p90"]
    )
    assert single["summaries_per_s"] == pytest.approx(1 / 6, rel=0.05)
    assert batched["summaries_per_s"] == pytest.approx(1 / 3, rel=0.05) and "latency_ms" not in batched
    assert single["speedup"] == pytest.approx(10 / 6, rel=0.01) and found["slow"][0]["speedup"] == 1
    assert single["summary_tokens"] == 2 and found["slow"][0]["summary_tokens"] == 3
    low, high = single["speedup_spread"]
    assert low <= single["speedup"] <= high


def test_batches_hold_documents_of_about_one_length(systems, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Fake, "write", lambda self, batches, **_: seen.extend(batches) or ([[7]] * len(b) for b in batches)
    )
    monkeypatch.setattr(speed.time, "perf_counter", iter(range(1000)).__next__)
    measured({"slow": systems["slow"]}, Load(2, 1, 4))
    assert [[len(ids) for ids in batch] for batch in seen[:2]] == [[2, 4], [5, 9]]


def test_forced_lengths_are_the_same_for_all(systems):
    slow, fast = (m[0] for m in measured(systems, Load(1, 4, 2, tokens=5), max_length=99).values())
    assert slow["summary_tokens"] == fast["summary_tokens"] == 5
    assert fast["speedup"] == pytest.approx(14 / 9, rel=0.01)


def test_two_lengths_tell_encoder_from_decoder(systems):
    found = measured(systems, Load(1, 4, 2, tokens=5), Load(1, 4, 2, tokens=1))["fast"]
    split = parts(found, 1, 4, 5)
    assert split["encoder_ms"] == pytest.approx(4000, rel=0.1) and split["step_ms"] == pytest.approx(1000, rel=0.1)
    assert split["encoder_share"] == pytest.approx(4 / 9, rel=0.1)
    assert parts(found, 1, 4, 6) is None and parts(found, 2, 4, 5) is None


def test_loads_and_the_short_form(systems):
    settings = SpeedSettings(documents=3, batch_size=2, batch_sizes=(1, 2), beams=(1, 4))
    asked = natural_loads(settings, 4)
    assert [(load.batch_size, load.num_beams) for load in asked] == [(1, 1), (2, 1), (1, 4), (2, 4)]
    assert [(load.batch_size, load.num_beams) for load in natural_loads(SpeedSettings(batch_size=2), 4)] == [
        (1, 4),
        (2, 4),
    ]
    found = measured(systems, *asked)["fast"]
    short = headline(found, settings, 4)
    assert short["latency_ms"] == find(found, 1, 4)["latency_ms"] and short["num_beams"] == 4
    assert short["batch_speedup"] == find(found, 2, 4)["speedup"]
    asked = [(load.batch_size, load.num_beams, load.tokens) for load in forced_loads(settings, 4, 16)]
    assert asked == [(1, 4, 16), (2, 4, 16), (2, 1, 16), (1, 4, 1), (2, 4, 1)]
