"""`make full-size`: the whole path on a tiny model, and what is said of the committed run."""

import json
import random
import shutil

import pytest
from tokenizers import ByteLevelBPETokenizer

from benchmarks import full_size
from distill_utils.evaluation import shape_speeds
from distill_utils.models.bart import SPECIAL_TOKENS, load_tokenizer
from distill_utils.models.prepared import Prepared
from distill_utils.report import publish
from distill_utils.report.shape_speeds import explanation, table
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError
from tests.conftest import WORDS


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """vocab.json and merges.txt, as BART's tokenizer is published."""
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([" ".join(WORDS)] * 3, vocab_size=300, special_tokens=SPECIAL_TOKENS, show_progress=False)
    bpe.save_model(str(folder))
    vocabulary = read_json(folder / "vocab.json")
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<mask>": len(vocabulary)}))
    return folder


@pytest.fixture(scope="module")
def tiny(tokenizer_folder, tmp_path_factory):
    """What makes the study small."""
    draw = random.Random(0)
    rows = [
        {"document": " ".join(draw.choices(WORDS, k=30)), "summary": " ".join(draw.choices(WORDS, k=6))}
        for _ in range(200)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return {
        "corpus.path": str(path), "teacher.tokenizer": str(tokenizer_folder), "teacher.d_model": 16, "teacher.attention_heads": 2,
        "speed.repeats": 2, "speed.documents": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def measured(tiny):
    study = load_study("full_size", {"name": "test_full_size", **tiny})
    yield full_size.measure(study)
    shutil.rmtree(study.folder)


def test_the_training_was_stopped_at_a_checkpoint_and_resumed(measured):
    assert measured["training"]["resumed_at_step"] == 2
    assert len(measured["training"]["step_seconds"]) == 4
    assert [step for step, *_ in measured["training"]["losses"]] == [1, 2, 3, 4]


def test_both_models_write_equally_long_summaries(measured):
    assert {s["summary_tokens"] for s in measured["speeds"].values()} == {24}
    assert {s["num_beams"] for s in measured["speeds"].values()} == {6}


def test_the_tables_numbers_are_the_results(measured):
    table = full_size.table(measured)
    assert f"{measured['parameters']['teacher']:,}" in table and "at step 2 of 4" in table
    assert "not reported: the weights are random" in table
    assert "rouge" not in json.dumps(measured["speeds"]).lower()


def test_operations_are_counted(measured):
    """An encoder layer of width d does at least 2 · 12 d² operations a token (its matrices alone), a decoder layer more."""
    step = measured["xsum_step"]
    assert step["flops_per_pair"] > 2 * 12 * 16**2 * 12 * step["mean_source_tokens"]
    assert step["forwards"] == 2 * load_study("xsum").distillation.steps
    # 16 × 60 × the vocabulary's float32 logits are kept at least once
    assert step["kept_for_backward_bytes"] > step["logits_bytes"] > 0
    assert step["cache_bytes"] == 16 * 6 * 12 * 2 * 16 * (1024 + 60) * 4


def test_the_cost_of_each_stage_follows_from_what_was_counted(measured):
    step = measured["xsum_step"]
    assert step["encoder_flops_per_pair"] < step["teacher_flops_per_pair"] < step["flops_per_pair"]
    # A decoder layer's matrices, and the projection, once per target token.
    decoder = step["teacher_flops_per_pair"] - step["encoder_flops_per_pair"]
    assert decoder > 2 * 12 * 16**2 * 12 * step["mean_target_tokens"]
    told = full_size.stages(
        {**measured, "xsum_step": {**step, "teacher_flops_per_pair": 1e12, "mean_target_tokens": 27.0, "width": 1000}}
    )
    assert "| 1.9 h | 11 GB |" in told, "204,045 · 1 TFLOP at 30 TFLOP/s; 204,045 · 27 · 1,000 · 2 bytes"
    assert "204,045 training pairs" in told and "not measured" in told


def test_the_page_shows_the_committed_run():
    committed = read_json(publish.published_results("full_size"))
    assert full_size.results_page(committed) == (publish.PAGES / "full_size.md").read_text("utf-8")
    assert committed["parameters"] == {"teacher": 406_291_456, "student": 305_511_424}
    assert committed["peak_memory_bytes"] < 16e9


def test_where_there_is_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"no folder with vocab\.json"):
        load_tokenizer(str(tmp_path))
    assert full_size.main(["--tokenizer", str(tmp_path), "--corpus", str(tmp_path / "nowhere")]) == 2


def test_shapes_are_timed_beside_the_published_speeds(tiny):
    pytest.importorskip("ctranslate2")
    study = load_study("full_size", {"name": "test_shapes", **tiny})
    runtimes = ["pytorch-fp32", "ctranslate2-float32"]
    found = shape_speeds.measure_shapes(
        Prepared(study), ["12-6", "12-3", "12-3-24"], runtimes, documents=2, batch_size=3, repeats=2
    )
    assert [(r["shape"], r["runtime"]) for r in found["rows"]] == [
        (s, r) for r in runtimes for s in ("12-12", "12-6", "12-3", "12-3-24")
    ]
    sizes = [r["parameters"] for r in found["rows"][:4]]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    for row in found["rows"]:
        assert [(m["batch_size"], m["tokens"]) for m in row["loads"]] == [(1, 24), (1, 1), (3, 24), (3, 1)]
        assert all(m["summary_tokens"] == pytest.approx(m["tokens"], abs=1) for m in row["loads"])
        assert row["shape"] != "12-12" or all(m["speedup"] == 1 for m in row["loads"])
    assert (
        read_json(study.folder / shape_speeds.FILE)["rows"] == found["rows"] and not (study.folder / "shapes").exists()
    )
    rows = table(found).splitlines()
    assert len(rows) == 2 + 8 and rows[3].endswith("| 1.68× |") and rows[4].endswith("| 2.16× |")
    told = explanation(found)
    assert len(told) == 2 and "(12-6)" in told[0] and "independent of the layers" in told[1]
    narrow = {"shape": "12-2-8", "runtime": "pytorch-fp32", "parts": {"1": {"step_ms": 1e6, "encoder_ms": 1.0}}}
    fits = [text.partition("By a least-squares")[2] for text in explanation({"rows": [*found["rows"], narrow]})]
    assert fits == [text.partition("By a least-squares")[2] for text in told], "narrow layers are no part of the fit"
    with pytest.raises(UserError, match="unknown inference backend 'abacus'"):
        shape_speeds.measure_shapes(Prepared(study), ["12-6"], ["abacus"], documents=1, batch_size=1, repeats=1)
    shutil.rmtree(study.folder)
