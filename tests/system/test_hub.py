"""The Hub by loopback: the real client libraries against a server on 127.0.0.1, and what they say when it fails."""

import io
import json
import random
import re
import shutil
import subprocess
import sys
import time

import pandas
import pytest
from transformers import BartConfig, BartForConditionalGeneration

from distill_utils.models.bart import train_tokenizer
from distill_utils.system.artefacts import read_json
from distill_utils.system.hub import is_hub_id
from distill_utils.system.paths import ROOT
from tests.helpers.hub import Hub

WORDS = [
    "rain",
    "fell",
    "over",
    "leeds",
    "while",
    "the",
    "council",
    "met",
    "and",
    "voted",
    "on",
    "a",
    "plan",
    "for",
    "new",
    "trams",
    "buses",
    "roads",
    "parks",
    "in",
    "march",
]
SMALL = {
    "name": "test_hub", "corpus.max_source_tokens": 48, "corpus.max_target_tokens": 16, "distillation.student": "2-1",
    "distillation.steps": 4, "distillation.batch_size": 4, "distillation.warmup_steps": 1, "distillation.validations": 2,
    "distillation.validation_examples": 4, "speed.documents": 2, "speed.repeats": 2,
}  # fmt: skip


def texts(count, seed=0):
    """Rows of a news dataset: a few sentences, and a sentence about them."""
    draw = random.Random(seed)
    sentence = lambda: " ".join(draw.choices(WORDS, k=8)).capitalize() + "."  # noqa: E731
    return [
        {"document": " ".join(sentence() for _ in range(4)), "summary": sentence(), "id": str(i)} for i in range(count)
    ]


def parquet(rows, **renamed):
    content = io.BytesIO()
    pandas.DataFrame(rows).rename(columns=renamed).to_parquet(content)
    return content.getvalue()


def splits(pattern, seed=0, **renamed):
    sizes = {"train": 40, "validation": 10, "test": 10}
    return {pattern.format(split): parquet(texts(n, seed + i), **renamed) for i, (split, n) in enumerate(sizes.items())}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The files of a BART as the published ones are: generation settings in config.json, no row for <mask>."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = train_tokenizer([row["document"] for row in texts(50)], 400)
    config = BartConfig(
        vocab_size=len(tokenizer) - 1, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64, init_std=0.3,
    )  # fmt: skip
    BartForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    settings = {"num_beams": 3, "max_length": 12, "min_length": 4, "no_repeat_ngram_size": 3, "early_stopping": True}
    settings["torch_dtype"] = read_json(folder / "config.json")["dtype"]
    (folder / "config.json").write_text(json.dumps(read_json(folder / "config.json") | settings))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(checkpoint):
    with Hub() as hub:
        # As published: weights as a pickle on main, safetensors in a pull request.
        unsafe = {name: content for name, content in checkpoint.items() if not name.endswith(".safetensors")}
        hub.add("model", "facebook/bart-large-xsum", {**unsafe, "pytorch_model.bin": b"never read"})
        hub.pull_request("facebook/bart-large-xsum", 8, "I too", "somebody", checkpoint)
        hub.pull_request("facebook/bart-large-xsum", 9, "Adding safetensors", "SFconvertbot", checkpoint)
        hub.add("dataset", "EdinburghNLP/xsum", splits("data/{}-00000-of-00001.parquet"))
        yield hub


def distill(hub, home, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "distill_utils", *arguments], cwd=ROOT, capture_output=True, text=True,
        env=hub.environment(home), check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def overrides(settings):
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def run(hub, home):
    """The xsum study's four notebooks with few steps."""
    folders = [ROOT / "runs" / "test_hub", ROOT / "figures" / "test_hub"]
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    yield distill(hub, home, "run", "xsum", *overrides(SMALL))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def results(run):
    code, _, err = run
    assert code == 0, err[-2000:]
    return read_json(ROOT / "runs" / "test_hub" / "results.json")


def test_the_xsum_study_runs_from_the_hub(results, hub):
    assert (
        results["corpus"] | {"name": "EdinburghNLP/xsum", "train": 40, "validation": 10, "test": 10}
        == results["corpus"]
    )
    assert results["corpus"]["revision"] == hub.repositories["dataset", "EdinburghNLP/xsum"].refs["main"]
    assert [s["name"] for s in results["systems"]] == [
        "lead-sentence", "lead-3-sentences", "first-20-words", "lookup", "teacher", "2-1 copy", "2-1 sft", "2-1 kd",
    ]  # fmt: skip


def test_generation_settings_are_the_checkpoints(results):
    expected = {"num_beams": 3, "max_length": 12, "min_length": 4, "no_repeat_ngram_size": 3, "early_stopping": True}
    assert results["generation"].items() >= expected.items()
    teacher = next(s for s in results["systems"] if s["name"] == "teacher")
    assert teacher["num_beams"] == 3 and 4 <= teacher["summary_tokens"] <= 11


def test_only_safetensors_are_fetched_and_only_from_the_converter(results, hub):
    pulls = hub.repositories["model", "facebook/bart-large-xsum"]
    fetched = [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]
    assert not any(path.endswith(".bin") for path in fetched)
    weights = [path for path in fetched if path.endswith(".safetensors")]
    assert weights and all(pulls.refs["refs/pr/9"] in path for path in weights)
    assert results["hub"]["model facebook/bart-large-xsum@main"] == pulls.refs["refs/pr/9"]


def test_a_teacher_that_does_not_do_the_task_is_warned_of_before_it_is_used(run, results):
    """Random weights are below the lead baseline."""
    assert results["teacher_check"]["teacher_rougeL"] < results["teacher_check"]["lead_rougeL"]
    warning = run[2].index("WARNING: the teacher does not perform this task")
    assert warning < run[2].index("[3/4]")
    assert "facebook/bart-large-xsum for XSum" in results["teacher_check"]["warning"]


def test_what_was_fetched_is_not_asked_for_again(results, hub, home):
    hub.requests.clear()
    hub.fail("EdinburghNLP/xsum", 500)
    hub.fail("facebook/bart-large-xsum", 500)
    code, _, err = distill(hub, home, "run", "xsum", *overrides(SMALL))
    hub.heal("EdinburghNLP/xsum")
    hub.heal("facebook/bart-large-xsum")
    assert code == 0 and err.count("finished before, nothing changed") == 4
    assert hub.requests == []


def test_a_ready_student_is_evaluated_and_distilled_further(results, hub, home, checkpoint):
    hub.add("model", "sshleifer/distilbart-xsum-12-6", checkpoint)
    settings = {
        **SMALL,
        "distillation.student": "sshleifer/distilbart-xsum-12-6",
        "distillation.methods": '["copy", "kd"]',
    }
    code, out, err = distill(hub, home, "run", "xsum", *overrides(settings))
    assert code == 0, err[-2000:]
    systems = {s["name"]: s for s in read_json(ROOT / "runs" / "test_hub" / "results.json")["systems"]}
    ready, further = systems["distilbart-xsum-12-6"], systems["distilbart-xsum-12-6 kd"]
    assert (ready["method"], ready["training_steps"]) == ("ready", 0)
    assert ready["rougeL"] == systems["teacher"]["rougeL"], "it is the teacher's twin"
    assert ready["speedup"] > 0 and (further["method"], further["training_steps"]) == ("kd", 4)
    assert "| distilbart-xsum-12-6 |" in out


# -- one call each, all in one process a Hub -----------------------------------------------------------------

CALL = """
import json, sys, time
from pathlib import Path
from distill_utils.system import hub
from distill_utils.system.errors import UserError
answers = []
for function, arguments in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        *arguments, record = arguments if len(arguments) == 4 else [*arguments, None]
        answers.append(["done", str(getattr(hub, function)(*arguments, record=record and Path(record)))])
    except UserError as error:
        answers.append(["refused", str(error)])
    answers[-1].append(time.monotonic() - started)
print(json.dumps(answers))
"""


def call(environment, *calls):
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps(calls)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def answers(checkpoint, tmp_path_factory):
    home = tmp_path_factory.mktemp("answers")
    converted = {"default/train/0000.parquet": parquet(texts(3, 1))}
    record = str(home / "hub.json")
    several = splits("3.0.0/{}/0000.parquet", 2) | splits("2.0.0/{}/0000.parquet", 9)
    with Hub() as hub:
        hub.add("model", "some/converted", {"config.json": b"{}", "pytorch_model.bin": b"x"})
        hub.pull_request("some/converted", 4, "Adding safetensors", "SFconvertbot", checkpoint)
        hub.add("model", "some/pickle", {"config.json": b"{}", "pytorch_model.bin": b"x"})
        for name in ("gated", "broken", "cut", "good"):
            hub.add("model", f"some/{name}", checkpoint)
        hub.fail("some/gated", 403, gated=True)
        hub.fail("some/broken", 500)
        hub.interrupt("some/cut", "model.safetensors")
        hub.add("dataset", "some/script", {"script.py": b"raise SystemExit", "README.md": b""})
        hub.add("dataset", "some/script", converted, "refs/convert/parquet")
        hub.add("dataset", "some/several", {"data.csv": b"a,b"})
        hub.add("dataset", "some/several", several, "refs/convert/parquet")
        hub.add("dataset", "some/two", several)
        calls = {
            "missing": ("fetch_checkpoint", ["some/nothing"]),
            "pickle only": ("fetch_checkpoint", ["some/pickle"]),
            "gated": ("fetch_checkpoint", ["some/gated"]),
            "server error": ("fetch_checkpoint", ["some/broken"]),
            "no such revision": ("fetch_checkpoint", ["some/good", "v9"]),
            "interrupted": ("fetch_checkpoint", ["some/cut"]),
            "missing dataset": ("fetch_dataset", ["some/nothing"]),
            "script": ("fetch_dataset", ["some/script"]),
            "no configuration": ("fetch_dataset", ["some/several"]),
            "one of several": ("fetch_dataset", ["some/several", "3.0.0"]),
            "good": ("fetch_checkpoint", ["some/good"]),
            "converted": ("fetch_checkpoint", ["some/converted"]),
            "pinned pickle": ("fetch_checkpoint", ["some/converted", "main"]),
            "pinned script": ("fetch_dataset", ["some/script", "", "main"]),
            "first of two": ("fetch_dataset", ["some/two", "2.0.0", "", record]),
            "second of two": ("fetch_dataset", ["some/two", "3.0.0", "", record]),
        }
        answers = dict(zip(calls, call(hub.environment(home), *calls.values()), strict=True))
        hub.heal("some/cut")
        (answers["after the interruption"],) = call(hub.environment(home), ("fetch_checkpoint", ["some/cut"]))
        refused = hub.environment(home) | {"HF_ENDPOINT": "http://127.0.0.1:1"}
    calls = {
        "unreachable": ("fetch_checkpoint", ["some/other"]),
        "unreachable dataset": ("fetch_dataset", ["some/other"]),
        "unreachable but here": ("fetch_checkpoint", ["some/good"]),
    }
    answers |= dict(zip(calls, call(refused, *calls.values()), strict=True))
    offline = refused | {"HF_HUB_OFFLINE": "1"}
    calls = {
        "offline": ("fetch_checkpoint", ["some/other"]),
        "offline but here": ("fetch_checkpoint", ["some/good"]),
        "offline, from a pull request": ("fetch_checkpoint", ["some/converted"]),
        "offline, a converted dataset": ("fetch_dataset", ["some/script"]),
        "offline, a dataset that is here": ("fetch_dataset", ["some/several", "3.0.0", "refs/convert/parquet"]),
    }
    return answers | dict(zip(calls, call(offline, *calls.values()), strict=True))


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("missing", ["there is no model some/nothing on the Hub, or it is private", "hf auth login"]),
        ("missing dataset", ["there is no dataset some/nothing on the Hub"]),
        ("pickle only", ["some/pickle", "no *.safetensors file"]),
        ("pinned pickle", ["no *.safetensors file at main"]),
        ("pinned script", ["no Parquet files at main", "corpus.revision=refs/convert/parquet"]),
        ("gated", ["some/gated", "terms", "hf auth login"]),
        ("server error", ["the Hub (http://127.0.0.1:", "answered 500"]),
        ("no such revision", ["some/good", "no such revision"]),
        ("interrupted", ["some/cut", "the connection was lost", "run again"]),
        ("no configuration", ["'corpus.configuration'", "2.0.0, 3.0.0"]),
        (
            "unreachable",
            ["some/other", "cannot be reached", "models--some--other", "hf download some/other --local-dir"],
        ),
        ("unreachable dataset", ["cannot be reached", "datasets--some--other", "--set corpus.path="]),
        ("offline", ["HF_HUB_OFFLINE is set"]),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(answers, case, parts):
    state, message, seconds = answers[case]
    assert state == "refused" and "\n" not in message
    assert all(part in message for part in parts), message
    assert seconds < 30


@pytest.mark.parametrize(
    "case",
    [
        "good", "converted", "after the interruption", "unreachable but here", "offline but here", "offline, from a pull request",
    ],
)  # fmt: skip
def test_a_checkpoint_that_is_here_is_used(answers, case, checkpoint):
    state, folder, _ = answers[case]
    assert state == "done"
    names = {path.name for path in (ROOT / folder).iterdir()}
    assert names == set(checkpoint)


@pytest.mark.parametrize("case", ["script", "offline, a converted dataset"])
def test_the_hubs_own_parquet_stands_in_for_a_loading_script(answers, case):
    state, folder, _ = answers[case]
    assert state == "done" and [p.name for p in (ROOT / folder).rglob("*") if p.is_file()] == ["0000.parquet"]


@pytest.mark.parametrize("case", ["one of several", "offline, a dataset that is here"])
def test_one_configuration_of_several_is_fetched(answers, case):
    state, folder, _ = answers[case]
    assert state == "done" and {p.name for p in (ROOT / folder).iterdir()} == {"3.0.0"}


def test_each_configuration_is_remembered_by_itself(answers):
    folders = [answers[case][1] for case in ("first of two", "second of two")]
    assert [(ROOT / folder / name).is_dir() for folder, name in zip(folders, ("2.0.0", "3.0.0"), strict=True)] == [
        True
    ] * 2


def test_what_is_an_id():
    assert is_hub_id("facebook/bart-large-xsum") and is_hub_id("EdinburghNLP/xsum")
    for text in ("bart", "models/teacher_model", "./a", "/a/b", "a/b/c", "../a", "a/b c", ""):
        assert not is_hub_id(text), text


def test_a_commands_line_when_the_hub_cannot_be_reached(hub, home):
    environment = hub.environment(home) | {"HF_ENDPOINT": "http://127.0.0.1:1"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "distill_utils", "run", "cnn_dailymail", "--set", "name=test_hub_none"], cwd=ROOT,
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    shutil.rmtree(ROOT / "runs" / "test_hub_none", ignore_errors=True)
    assert done.returncode == 2 and time.monotonic() - started < 30
    (line,) = done.stderr.strip().splitlines()
    assert re.match(
        r"distill: the model facebook/bart-large-cnn is not in .* and was not fetched: the Hub .* cannot be", line
    )


def test_a_student_is_pushed_with_its_card_and_can_be_loaded_by_its_name(tmp_path):
    settings = overrides({"name": "test_push", "distillation.steps": 2})
    train = ["train", "smoke", "--method", "sft", "--student", "2-1", *settings]
    with Hub() as hub:
        environment = hub.environment(tmp_path) | {"HF_TOKEN": hub.token}
        push = [sys.executable, "-m", "distill_utils", *train, "--push-to-hub", "me/small"]
        try:
            done = subprocess.run(push, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
            assert done.returncode == 0 and f"pushed:  {hub.endpoint}/me/small" in done.stdout, done.stderr
            again = subprocess.run(push, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
            assert again.returncode == 0, again.stderr
            assert hub.repositories["model", "me/small"].visibility == "private"
            code = "from distill_utils.models.checkpoint import load_model; print(load_model('me/small')[0].config.decoder_layers)"
            loaded = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)  # fmt: skip
            assert loaded.stdout == "1\n", loaded.stderr
            (commit,) = {ref for name, ref in hub.repositories["model", "me/small"].refs.items() if name == "main"}
            files = hub.repositories["model", "me/small"].commits[commit]
            assert (
                b'name = "me/small"' in files["README.md"]
                and "training.json" in files
                and "made_from.json" not in files
            )
            for token, wrong in ((None, "log in first"), ("hf_wrong", "answered 401")):
                refused = {name: value for name, value in environment.items() if name != "HF_TOKEN"}
                refused |= {"HF_TOKEN": token} if token else {}
                done = subprocess.run(push, cwd=ROOT, capture_output=True, text=True, env=refused, check=False)
                assert (
                    done.returncode == 2 and wrong in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
                ), done.stderr
        finally:
            shutil.rmtree(ROOT / "runs" / "test_push", ignore_errors=True)
        nothing = [method for method, _ in hub.requests if method in ("POST", "PUT")]
        assert distill(hub, tmp_path, *train[:-1], "distillation.steps=1")[0] == 0  # never by default
        assert [method for method, _ in hub.requests if method in ("POST", "PUT")] == nothing
        shutil.rmtree(ROOT / "runs" / "test_push", ignore_errors=True)
