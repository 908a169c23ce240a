"""Study files: every shipped one is valid, and what is wrong is said in one line with exit code 2."""

import pytest

from distill_utils import cli
from distill_utils.errors import UserError
from distill_utils.study import load_study, parse_override, parse_shape, study_names


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_load(name):
    study = load_study(name)
    assert study.name == name and study.folder.name == name


def test_a_study_like_another_has_its_settings_where_it_gives_none():
    full, short = load_study("docstrings_full"), load_study("docstrings")
    assert full.corpus.filters == short.corpus.filters and full.teacher == short.teacher
    assert (full.corpus.max_test, short.corpus.max_test) == (0, 1000)
    assert full.distillation.learning_rate == short.distillation.learning_rate
    assert full.distillation.steps > short.distillation.steps and full.generation == short.generation


def test_overrides_reach_nested_settings():
    study = load_study("smoke", {"distillation.temperature": 4, "corpus.filters.min_summary_words": 2})
    assert study.distillation.temperature == 4.0 and isinstance(study.distillation.temperature, float)
    assert study.corpus.filters.min_summary_words == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=4", ("a.b", 4)),
        ("a=0.5", ("a", 0.5)),
        ("a=true", ("a", True)),
        ("a=6-3", ("a", "6-3")),
        ('a=["sft", "kd"]', ("a", ["sft", "kd"])),
        ("a=x=y", ("a", "x=y")),
    ],
)
def test_override_values(text, value):
    assert parse_override(text) == value


def test_shapes():
    assert parse_shape("12-6") == (12, 6)
    for wrong in ("12", "12-0", "a-b", "12-6-3", ""):
        with pytest.raises(UserError, match="written E-D"):
            parse_shape(wrong)


WRONG = [
    (
        ["run", "nonsense"],
        "there is no study 'nonsense'; the studies are: cnn_dailymail, docstrings, docstrings_full, full_size, smoke, xsum",
    ),
    (["run", "../smoke"], "there is no study"),
    (["run", "smoke", "--set", "distillation.temprature=4"], "did you mean 'distillation.temperature'?"),
    (["run", "smoke", "--set", "distilation.alpha=1"], "did you mean 'distillation'?"),
    (["run", "smoke", "--set", "distillation.alpha=1.5"], "'distillation.alpha' must lie in [0, 1], not 1.5"),
    (["run", "smoke", "--set", "distillation.alpha=-0.1"], "must lie in [0, 1]"),
    (["run", "smoke", "--set", 'evidence.shapes=["2-1"]'], "shapes other than distillation.student"),
    (["run", "smoke", "--set", 'evidence.shapes=["1"]'], "written E-D"),
    (["run", "smoke", "--set", "evidence.alphas=[0.5, 0.5]"], "must not name anything twice"),
    (["run", "smoke", "--set", "evidence.alphas=[0.5]"], "'evidence.alphas' goes with evidence.temperatures"),
    (["run", "smoke", "--set", "evidence.alphas=[1.5]"], "'evidence.alphas' must lie in [0, 1]"),
    (
        ["run", "smoke", "--set", "evidence.alphas=[0.5]", "--set", "evidence.temperatures=[0]"],
        "'evidence.temperatures' must be above 0",
    ),
    (
        ["run", "smoke", "--set", "distillation.cache_teacher=top-k"],
        "'distillation.cache_teacher' takes states or nothing",
    ),
    (["run", "smoke", "--set", "evidence.pairs=[1.5]"], "takes a list of whole numbers"),
    (["run", "smoke", "--set", "evidence.pairs=8"], "takes a list of whole numbers"),
    (["run", "smoke", "--set", "evidence.longer_steps=8"], "goes with evidence.longer_methods"),
    (["run", "smoke", "--set", 'evidence.longer_methods=["copy"]'], "takes methods that train"),
    (["run", "smoke", "--set", 'evidence.shapes_method="copy"'], "is one of scratch, sft"),
    (["run", "smoke", "--set", "distillation.interpolation=0"], "must lie in [0.001, 1]"),
    (["run", "smoke", "--set", "distillation.pseudo_label_share=0"], "must lie in (0, 1]"),
    (["run", "smoke", "--set", "variant=x"], "unknown setting 'variant'"),
    (["run", "smoke", "--set", "distillation.alpha=nan"], "must lie in [0, 1]"),
    (["run", "smoke", "--set", "distillation.temperature=0"], "'distillation.temperature' must be above 0"),
    (["run", "smoke", "--set", "distillation.temperature=hot"], "takes a number, not 'hot'"),
    (["run", "smoke", "--set", "distillation.steps=1.5"], "takes a whole number"),
    (["run", "smoke", "--set", "distillation.steps=0"], "must be at least 1"),
    (["run", "smoke", "--set", "distillation=3"], "is a section of settings"),
    (["run", "smoke", "--set", "seed.x=3"], "'seed' is a value, not a section"),
    (["run", "smoke", "--set", "file=other"], "a study is named by its file"),
    (["run", "smoke", "--set", "name=../other"], "'name' names a run's folders"),
    (["run", "smoke", "--set", "name=docstrings"], "no other study's name"),
    (["run", "smoke", "--set", "generation.num_beams=0"], "must be at least 1"),
    (["run", "smoke", "--set", "generation.min_new_tokens=9"], "must not pass 8"),
    (["run", "smoke", "--set", "teacher.generation.num_beams=0"], "'teacher.generation.num_beams' must be at least 1"),
    (["run", "smoke", "--set", "generation.early_stopping=7"], "takes true or false"),
    (["run", "smoke", "--set", "distillation"], "--set takes key=value"),
    (["run", "smoke", "--set", 'distillation.methods=["magic"]'], "takes methods from"),
    (["run", "smoke", "--set", "distillation.methods=[]"], "needs at least one method"),
    (["run", "smoke", "--set", "distillation.student=two"], "written E-D"),
    (["run", "smoke", "--set", "distillation.student=./nowhere"], "there is no checkpoint in ./nowhere"),
    (["run", "smoke", "--set", "distillation.student=2-3"], "can keep 1 to 2 of its teacher's 2 layers, not 3"),
    (["run", "smoke", "--set", "corpus.path=nowhere"], "there is no such file or folder"),
    (["run", "smoke", "--set", 'corpus.packages=["nowhere"]'], "which requirements.lock does not pin"),
    (["run", "smoke", "--set", 'corpus.filters.boilerplate=["("]'], "is no regular expression"),
    (["run", "smoke", "--set", "teacher.path=models/nowhere"], "there is no teacher in models/nowhere"),
    (
        ["run", "smoke", "--set", "corpus.max_source_tokens=4096", "--set", "teacher.path=models/docstrings_teacher"],
        "the model has 128 positions",
    ),
    (["run", "smoke", "--set", "seed=-1"], "'seed' must not be negative"),
    (["run", "smoke", "--set", "teacher.d_model=33"], "must be a multiple of the 2 attention heads"),
    (["train", "smoke", "--method", "magic"], "there is no method 'magic'"),
    (["train", "smoke", "--method", "sft", "--student", "9-9"], "can keep 1 to 2"),
    (["evaluate", "/nowhere", "smoke"], "there is no checkpoint in /nowhere"),
    (["summarize", "/nowhere", "/nowhere/text"], "cannot be read"),
    (["teacher", "smoke"], "names no folder for a teacher of its own"),
    (["summarize", "models/docstrings_teacher", "/dev/null"], "there is nothing to summarize"),
    (
        ["run", "smoke", "--set", 'speed.runtimes=["abacus"]'],
        "'speed.runtimes' takes pytorch-bf16, ctranslate2-float32",
    ),
    (
        ["run", "smoke", "--set", 'speed.runtimes=["pytorch-bf16"]', "--set", "speed.tokens=4096"],
        "'speed.tokens' is 4096, but the model has",
    ),
    (
        ["run", "smoke", "--set", "evidence.runtime=abacus"],
        "'evidence.runtime' is one of pytorch-fp32, ctranslate2-float32",
    ),
    (["run", "smoke", "--set", "speed.beams=[0]"], "'speed.beams' takes whole numbers from 1"),
    (["speed", "--tokenizer", "/nowhere", "--corpus", "/nowhere"], "'corpus.path' is '/nowhere'"),
    (["speed", "--tokenizer", "/nowhere", "--corpus", "/nowhere", "--repeats", "0"], "takes a whole number from 1"),
    (["train", "smoke", "--method", "sft", "--push-to-hub", "name"], "is named owner/name, not 'name'"),
    (["export", "models/docstrings_teacher", "models"], "models is there and is no export"),
    (["dance"], "invalid choice"),
    ([], "required"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a)[:60] or "nothing" for a, _ in WRONG])
def test_wrong_input_gets_one_line_and_exit_code_2(arguments, message, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as stopped:  # argparse
        code = stopped.code
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert lines[-1].startswith("distill: ") and message in lines[-1]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "smoke"], "distill run is one process"),
        (["teacher", "docstrings"], "is trained by one process"),
    ],
)
def test_what_torchrun_is_not_for(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_error_that_all_processes_find_is_said_by_one(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "smoke", "--method", "magic"]) == 2
    assert capsys.readouterr().err == ""
