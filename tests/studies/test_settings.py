"""Study files: every shipped one is valid, and what is wrong is said in one line with exit code 2."""

import re
import shutil

import nbformat
import pytest
from pydantic import ValidationError

from distill_utils import cli, run_study
from distill_utils.studies.loading import load_study, parse_override, study_names
from distill_utils.studies.settings import parse_shape
from distill_utils.system.errors import UserError
from distill_utils.system.paths import ROOT


@pytest.mark.parametrize("name", study_names())
def test_shipped_studies_load(name):
    study = load_study(name)
    assert study.name == name and study.folder.name == name


def test_a_study_like_another_has_its_settings_where_it_gives_none():
    full, short = load_study("docstrings_full"), load_study("docstrings")
    assert full.corpus.filters == short.corpus.filters and full.teacher == short.teacher
    assert (full.corpus.max_test, short.corpus.max_test) == (0, 1000)
    assert full.distillation.learning_rate == short.distillation.learning_rate
    assert full.distillation.steps != short.distillation.steps and full.generation == short.generation


@pytest.mark.parametrize(
    "text",
    [
        '{"distillation.temperature": 4, "corpus.filters.min_summary_words": 9}',
        "{'distillation.temperature': 4, 'corpus.filters.min_summary_words': 9}",
        '{"distillation": {"temperature": 4}, "corpus": {"filters": {"min_summary_words": 9}}}',
    ],
)
def test_overrides_may_be_a_text_or_nested(text):
    """``papermill -p OVERRIDES '{…}'`` hands over a text."""
    study, plain = load_study("docstrings", text), load_study("docstrings")
    assert (study.distillation.temperature, study.corpus.filters.min_summary_words) == (4, 9)
    assert study.distillation.steps == plain.distillation.steps, "the rest of a section stays"


@pytest.mark.parametrize("text", ["distillation.temperature=4", "[1]", "{", "4", '"x"', "[]", "{{'a': 1}}", [("a", 1)]])
def test_overrides_that_are_no_mapping_are_refused(text):
    with pytest.raises(UserError, match="OVERRIDES should be a mapping"):
        load_study("smoke", text)


@pytest.mark.parametrize(
    "text",
    [
        '{"distillation.steps": 3, "distillation.steps": 4}',
        "{'distillation.steps': 3, 'distillation.steps': 4}",
        '{"distillation": {"steps": 3, "steps": 4}}',
        "{'distillation': {'steps': 3, 'steps': 4}}",
        {"distillation": {"steps": 3}, "distillation.steps": 4},
    ],
)
def test_an_override_that_comes_twice_is_refused(text):
    with pytest.raises(UserError, match=r"OVERRIDES has '(distillation\.)?steps' more than once; keep one"):
        load_study("smoke", text)


def test_no_overrides():
    assert load_study("smoke", "") == load_study("smoke", " ") == load_study("smoke", None) == load_study("smoke")


def test_overrides_reach_nested_settings():
    study = load_study("smoke", {"distillation.temperature": 4, "corpus.filters.min_summary_words": 2})
    assert study.distillation.temperature == 4.0 and isinstance(study.distillation.temperature, float)
    assert study.corpus.filters.min_summary_words == 2


def test_a_string_alone_is_a_list_of_one():
    assert load_study("smoke", {"teacher.path": "models/mine"}).teacher.path == ("models/mine",)


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        load_study("smoke").distillation.alpha = 0.1


LOAD = """
from distill_utils.studies.loading import load_study
study = load_study(STUDY, OVERRIDES)
print(f"{study.title}, seed {study.seed}")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Work in an empty folder; write study files there."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="mine.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        return name

    return write


def test_a_study_of_ones_own_is_given_by_its_path(mine, tmp_path, monkeypatch):
    path = mine('title = "Mine"\nlike = "smoke"\n[distillation]\nalpha = 0.25\n')
    study = load_study(path, {"distillation.temperature": 4})
    assert (study.name, study.title, study.distillation.alpha, study.distillation.temperature) == (
        "mine",
        "Mine",
        0.25,
        4,
    )
    assert study.folder == load_study("smoke").folder.with_name("mine")
    assert study.teacher == load_study("smoke").teacher
    monkeypatch.chdir("/")
    assert load_study(study.file).settings() == load_study(tmp_path / "mine.toml").settings()
    assert load_study(study.file, {"name": "other"}).name == "other"


def test_a_study_may_be_like_a_file_beside_it(mine):
    mine('title = "Base"\nlike = "smoke"\nseed = 3\n', "base.toml")
    study = load_study(mine('title = "Mine"\nlike = "../base.toml"\n', "below/mine.toml"))
    assert (study.seed, study.title, study.speed) == (3, "Mine", load_study("smoke").speed)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.toml", None, "/mine.toml cannot be read: No such file or directory"),
        ("no\0where.toml", None, "cannot be read"),
        ("mine.toml", "title = ", "/mine.toml is not valid TOML"),
        ("mine.toml", "seed = " + "9" * 5000, "/mine.toml cannot be read: Exceeds the limit"),
        ("mine.toml", "seed = 1", "setting 'title' is missing"),
        ("mine.toml", 'titel = "a"', "unknown setting 'titel'; did you mean 'title'?"),
        ("mine.toml", 'title = "a"\n[corpus.filters]\nboilerplat = []', "did you mean 'corpus.filters.boilerplate'?"),
        ("mine.toml", 'like = "nowhere"', "is like 'nowhere', which does not exist"),
        ("mine.toml", 'like = "nowhere.toml"', "/nowhere.toml cannot be read"),
        ("mine.toml", 'like = "mine.toml"', "which leads back to itself"),
        ("My study.toml", 'like = "smoke"', "'name' should be at most 100 lower-case letters"),
        ("smoke.toml", 'like = "smoke"', "not another study's name, not 'smoke'; rename the file"),
    ],
)
def test_a_study_of_ones_own_that_cannot_be_read(mine, capsys, name, content, message):
    if content is not None:
        mine(content, name)
    assert cli.main(["report", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("distill: ") and message in line


def test_what_a_study_of_ones_own_lacks_is_told_with_its_path(mine, tmp_path, capsys):
    mine('like = "smoke"\n[teacher]\npath = ["models/nowhere"]\n')
    assert cli.main(["run", "mine.toml"]) == 2
    assert f"make one: distill teacher {tmp_path}/mine.toml" in capsys.readouterr().err
    shutil.rmtree(load_study("mine.toml").folder)


def test_notebooks_take_a_study_of_ones_own(mine, tmp_path):
    study = load_study(mine('title = "Mine"\nlike = "smoke"\n'))
    cells = [nbformat.v4.new_code_cell(text) for text in ("STUDY = ''\nOVERRIDES = {}", LOAD)]
    cells[0].metadata["tags"] = ["parameters"]
    language = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), tmp_path / "01.ipynb")
    run_study._execute(
        tmp_path / "01.ipynb", tmp_path / "executed.ipynb", study, {"seed": 3}
    )  # works in another folder
    assert "Mine, seed 3" in (tmp_path / "executed.ipynb").read_text("utf-8")


def test_kernels_side_by_side_share_no_socket(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cells = [nbformat.v4.new_code_cell("from ipykernel.connect import get_connection_info\nget_connection_info()")]
    language = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), tmp_path / "01.ipynb")

    def sockets(number):
        run_study.execute(tmp_path / "01.ipynb", tmp_path / f"{number}.ipynb", load_study("smoke"), {})
        return re.search(r"'?ip\W+([^\\'\"]+)", (tmp_path / f"{number}.ipynb").read_text("utf-8"))[1]

    assert sockets(1) != sockets(2)
    assert not list(tmp_path.glob("kernel-ipc*"))


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
    assert parse_shape("12-6") == (12, 6, None)
    assert parse_shape("12-6-1024") == (12, 6, 1024)
    for wrong in ("12", "12-0", "a-b", "12-6-0", "12-6-3-2", "12-6-", ""):
        with pytest.raises(UserError, match="written E-D"):
            parse_shape(wrong)


WRONG = [
    (
        ["run", "nonsense"],
        "there is no study 'nonsense'; the studies are: cnn_dailymail, docstrings, docstrings_ablations, docstrings_budgets, docstrings_full, docstrings_half, docstrings_shapes, full_size, smoke, xsum, xsum_trial",
    ),
    (["run", "../smoke"], "there is no study"),
    (["run", "smoke", "--set", "distillation.temprature=4"], "did you mean 'distillation.temperature'?"),
    (["run", "smoke", "--set", "distilation.alpha=1"], "did you mean 'distillation'?"),
    (
        ["run", "smoke", "--set", "distillation.alpha=1.5"],
        "'distillation.alpha' should be less than or equal to 1, not 1.5",
    ),
    (["run", "smoke", "--set", "distillation.alpha=-0.1"], "'distillation.alpha' should be greater than or equal to 0"),
    (
        ["run", "smoke", "--set", 'evidence.shapes=["2-1"]'],
        "'evidence.shapes' should be shapes other than distillation.student",
    ),
    (["run", "smoke", "--set", 'evidence.shapes=["1"]'], "'evidence.shapes[0]' should be written E-D"),
    (["run", "smoke", "--set", "evidence.alphas=[0.5, 0.5]"], "'evidence.alphas' should not contain duplicates"),
    (["run", "smoke", "--set", "evidence.alphas=[0.5]"], "'evidence.alphas' requires evidence.temperatures"),
    (["run", "smoke", "--set", "evidence.alphas=[1.5]"], "'evidence.alphas[0]' should be less than or equal to 1"),
    (
        ["run", "smoke", "--set", "evidence.alphas=[0.5]", "--set", "evidence.temperatures=[0]"],
        "'evidence.temperatures[0]' should be greater than 0",
    ),
    (
        ["run", "smoke", "--set", "distillation.cache_teacher=top-k"],
        "'distillation.cache_teacher' should be '' or 'states', not 'top-k'",
    ),
    (["run", "smoke", "--set", "evidence.pairs=[1.5]"], "'evidence.pairs[0]' should be a valid integer"),
    (["run", "smoke", "--set", "evidence.pairs=8"], "'evidence.pairs' should be a list"),
    (["run", "smoke", "--set", "evidence.budgets=[8]"], "'evidence.budgets' should be a section of settings"),
    (["run", "smoke", "--set", "evidence.budgets.copy=[8]"], "'evidence.budgets.copy' should be 'scratch', 'sft'"),
    (["run", "smoke", "--set", "evidence.budgets.sft=[0]"], "'evidence.budgets.sft[0]' should be greater than 0"),
    (["run", "smoke", "--set", "evidence.budgets.gkd=[1]"], "'evidence.budgets.gkd' should be at least 2"),
    (["run", "smoke", "--set", 'evidence.shapes_method="copy"'], "'evidence.shapes_method' should be 'scratch', 'sft'"),
    (
        ["run", "smoke", "--set", "distillation.interpolation=0"],
        "'distillation.interpolation' should be greater than or equal to 0.001",
    ),
    (
        ["run", "smoke", "--set", "distillation.pseudo_label_share=0"],
        "'distillation.pseudo_label_share' should be greater than 0",
    ),
    (
        ["run", "smoke", "--set", "distillation.methods=['gkd']", "--set", "distillation.steps=1"],
        "'distillation.steps' should be at least 2",
    ),
    (
        ["run", "smoke", "--set", "corpus.unlabelled=true", "--set", "distillation.lmbda=0.5"],
        "'corpus.unlabelled' requires distillation.lmbda = 1",
    ),
    (["run", "smoke", "--set", "distillation.start='scratch'"], "'distillation.start' should be 'sft', 'kd'"),
    (["run", "smoke", "--set", "distillation.lmbda=2"], "'distillation.lmbda' should be less than or equal to 1"),
    (
        ["run", "smoke", "--set", "distillation.pseudo_label_attention=[0]"],
        "'distillation.pseudo_label_attention[0]' should be greater than or equal to 0.1",
    ),
    (["run", "smoke", "--set", "distillation.alpha=true"], "'distillation.alpha' should be a valid number, not True"),
    (["run", "smoke", "--set", "distillation.steps=true"], "'distillation.steps' should be a valid integer, not True"),
    (["run", "smoke", "--set", "distillation.steps='8'"], "'distillation.steps' should be a valid integer, not '8'"),
    (["run", "smoke", "--set", "teacher.weight_decay=-1"], "'teacher.weight_decay' should be greater than or equal"),
    (["run", "smoke", "--set", "seed=4294967296"], "'seed' should be less than 4294967296"),
    (["run", "smoke", "--set", "variant=x"], "unknown setting 'variant'"),
    (["run", "smoke", "--set", "distillation.alpha=nan"], "'distillation.alpha' should be a finite number"),
    (["run", "smoke", "--set", "distillation.temperature=0"], "'distillation.temperature' should be greater than 0"),
    (
        ["run", "smoke", "--set", "distillation.temperature=hot"],
        "'distillation.temperature' should be a valid number, not 'hot'",
    ),
    (["run", "smoke", "--set", "distillation.steps=1.5"], "'distillation.steps' should be a valid integer"),
    (["run", "smoke", "--set", "distillation.steps=0"], "'distillation.steps' should be greater than 0"),
    (["run", "smoke", "--set", "distillation=3"], "'distillation' should be a section of settings"),
    (["run", "smoke", "--set", "seed.x=3"], "'seed' is a value, not a section"),
    (["run", "smoke", "--set", "file=other"], "a study is named by its file"),
    (["run", "smoke", "--set", "name=../other"], "'name' should be at most 100"),
    (["run", "smoke", "--set", "name=docstrings"], "not another study's name"),
    (["run", "smoke", "--set", "generation.num_beams=0"], "'generation.num_beams' should be greater than 0"),
    (
        ["run", "smoke", "--set", "generation.min_new_tokens=9"],
        "'generation.min_new_tokens' should be at most max_new_tokens, 8",
    ),
    (
        ["run", "smoke", "--set", "teacher.generation.num_beams=0"],
        "'teacher.generation.num_beams' should be greater than 0",
    ),
    (["run", "smoke", "--set", "generation.early_stopping=7"], "'generation.early_stopping' should be a valid boolean"),
    (["run", "smoke", "--set", "distillation"], "--set takes key=value"),
    (
        ["run", "smoke", "--set", 'distillation.methods=["magic"]'],
        "'distillation.methods[0]' should be 'copy', 'scratch'",
    ),
    (["run", "smoke", "--set", "distillation.methods=[]"], "'distillation.methods' should name at least one"),
    (["run", "smoke", "--set", "distillation.student=two"], "written E-D"),
    (["run", "smoke", "--set", "distillation.student=./nowhere"], "there is no checkpoint in ./nowhere"),
    (["run", "smoke", "--set", "distillation.student=2-3"], "can keep 1 to 2 of its teacher's 2 layers, not 3"),
    (["run", "smoke", "--set", "corpus.path=nowhere"], "there is no such file or folder"),
    (["run", "smoke", "--set", 'corpus.packages=["nowhere"]'], "names 'nowhere', which is not installed"),
    (
        ["run", "smoke", "--set", 'corpus.filters.boilerplate=["("]'],
        "'corpus.filters.boilerplate[0]' should be a regular expression",
    ),
    (["run", "smoke", "--set", "teacher.path=models/nowhere"], f"there is no teacher in {ROOT}/models/nowhere"),
    (
        ["run", "smoke", "--set", "corpus.max_source_tokens=4096", "--set", "teacher.path=models/docstrings_teacher"],
        "the model has 128 positions",
    ),
    (["run", "smoke", "--set", "seed=-1"], "'seed' should be greater than or equal to 0"),
    (
        ["run", "smoke", "--set", "teacher.d_model=33"],
        "'teacher.d_model' should be a multiple of the 2 attention heads",
    ),
    (["train", "smoke", "--method", "magic"], "there is no method 'magic'"),
    (["train", "smoke", "--method", "sft", "--student", "9-9"], "can keep 1 to 2"),
    (["evaluate", "/nowhere", "smoke"], "there is no checkpoint in /nowhere"),
    (["summarize", "/nowhere", "/nowhere/text"], "cannot be read"),
    (["teacher", "smoke"], "has no folder"),
    (["summarize", "models/docstrings_teacher", "/dev/null"], "there is nothing to summarize"),
    (
        ["run", "smoke", "--set", 'speed.runtimes=["abacus"]'],
        "'speed.runtimes[0]' should be 'pytorch-bf16', 'ctranslate2-float32'",
    ),
    (
        ["run", "smoke", "--set", 'speed.runtimes=["pytorch-bf16"]', "--set", "speed.tokens=4096"],
        "'speed.tokens' is 4096, but the model has",
    ),
    (
        ["run", "smoke", "--set", "evidence.runtime=abacus"],
        "'evidence.runtime' should be 'pytorch-fp32' or 'ctranslate2-float32'",
    ),
    (["run", "smoke", "--set", "speed.beams=[0]"], "'speed.beams[0]' should be greater than 0"),
    (["speed", "--tokenizer", "/nowhere", "--corpus", "/nowhere"], "'corpus.path' is '/nowhere'"),
    (
        ["speed", "--tokenizer", "/nowhere", "--corpus", "/nowhere", "--repeats", "0"],
        "must be an integer of at least 1",
    ),
    (["train", "smoke", "--method", "sft", "--push-to-hub", "name"], "is named owner/name, not 'name'"),
    (["export", "models/docstrings_teacher", "models"], "models exists and is not an export"),
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
        (["run", "smoke"], "distill run uses one process"),
        (["teacher", "docstrings"], "supports one process only"),
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


def test_a_learning_rate_given_is_that_of_all_methods(tmp_path):
    """Else the shipped studies' own rates of single methods would undo it."""
    own = load_study("docstrings").distillation.learning_rates
    assert own["sft"] != load_study("docstrings").distillation.learning_rate
    assert not load_study("docstrings", {"distillation.learning_rate": 1e-4}).distillation.learning_rates
    assert not load_study("docstrings", {"distillation": {"learning_rates": {}}}).distillation.learning_rates
    both = {"distillation.learning_rate": 1e-4, "distillation.learning_rates.kd": 3e-4}
    assert load_study("docstrings", both).distillation.learning_rates == {"kd": 3e-4}
    one = load_study("docstrings", {"distillation.learning_rates.kd": 3e-4}).distillation.learning_rates
    assert one == {**own, "kd": 3e-4}
    for text, wanted in (
        ("learning_rate = 1e-4", {}),
        ("learning_rates = {}", {}),
        ("learning_rates.kd = 3e-4", one),
        ("steps = 9", own),
    ):
        (tmp_path / "mine.toml").write_text(f'like = "docstrings"\n[distillation]\n{text}\n')
        assert load_study(tmp_path / "mine.toml").distillation.learning_rates == wanted, text
