"""A shortlist restricts what a decoder may write, in PyTorch and CTranslate2 alike, and changes nothing else."""

import pytest
import torch

from distill_utils import cli
from distill_utils.data.corpus import load_corpus
from distill_utils.models.backends import CTranslate2, PyTorch, load_backend
from distill_utils.models.bart import train_tokenizer
from distill_utils.models.checkpoint import load_model
from distill_utils.models.export import export
from distill_utils.models.shortlist import Shortlist, shortened
from distill_utils.studies.loading import load_study
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError
from tests.conftest import save_tiny

TEXTS = [
    "Return the sum of two numbers.",
    "Plot a line through all of the points.",
    "Sort it.",
    "the line: the sum, the points",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train_tokenizer([*TEXTS, "line Line the The points"] * 20, 400)
    return save_tiny(folder, tokenizer)


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load_model(checkpoint)[1]


def one(tokenizer, text):
    (token,) = tokenizer(text, add_special_tokens=False)["input_ids"]
    return token


def test_the_most_frequent_tokens_and_the_special_ones_are_fixed(tokenizer):
    texts = [" the the the line", " the line", " sum"]
    assert set(Shortlist.of(tokenizer, texts, 0).fixed) == set(tokenizer.all_special_ids)
    the, line = one(tokenizer, " the"), one(tokenizer, " line")
    fixed = Shortlist.of(tokenizer, texts, 1).fixed
    assert set(fixed) == {the, *tokenizer.all_special_ids} and fixed == sorted(fixed)
    assert set(Shortlist.of(tokenizer, texts, 2).fixed) - set(fixed) == {line}


def test_a_documents_tokens_are_allowed_in_every_form(tokenizer):
    shortlist = Shortlist(tokenizer, [])
    ids = tokenizer("The line", add_special_tokens=False)["input_ids"]
    allowed = shortlist.candidates([ids])
    forms = {one(tokenizer, form) for form in ("the", " the", "The", " The", "line", " line", "Line", " Line")}
    assert set(allowed) == {*ids, *forms, *tokenizer.all_special_ids} and allowed == sorted(allowed)
    points = one(tokenizer, " points")
    both = shortlist.candidates([ids, [points]])
    assert set(both) == {*allowed, points}, "documents of a batch share their tokens"


def test_a_token_without_letters_has_itself_alone(tokenizer):
    shortlist = Shortlist(tokenizer, [])
    names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert shortlist.forms[names.index(".")] == [names.index(".")]
    assert {names.index("line"), names.index("ĠLine")} <= set(shortlist.forms[names.index("line")])


def test_allowed_logits_stay_and_the_others_are_excluded(checkpoint):
    model, tokenizer = load_model(checkpoint)
    model.final_logits_bias += torch.arange(len(tokenizer)) / 100
    ids = torch.tensor([[0, 5, 6, 2]])
    whole, few = model(input_ids=ids, decoder_input_ids=ids).logits, [2, 7, 9]
    with shortened(model, few):
        own = model(input_ids=ids, decoder_input_ids=ids).logits
    torch.testing.assert_close(own[..., few], whole[..., few])
    others = [i for i in range(own.shape[-1]) if i not in few]
    assert (own[..., others] == -torch.inf).all()
    assert torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, whole), "it ends with the context"
    with pytest.raises(ZeroDivisionError), shortened(model, few):
        raise ZeroDivisionError
    assert torch.equal(model(input_ids=ids, decoder_input_ids=ids).logits, whole)


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 1, "no_repeat_ngram_size": 2}, {"num_beams": 4, "length_penalty": 0.6}], ids=str
)
def test_both_backends_write_the_same_from_the_same_tokens(checkpoint, tokenizer, tmp_path, settings):
    shortlist = Shortlist.of(tokenizer, TEXTS, 9)
    folder = export(checkpoint, tmp_path / "export", summaries=TEXTS, shortlist=9)
    assert read_json(folder / "export.json")["shortlist"] == 9
    restricted = PyTorch(*load_model(checkpoint), shortlist=shortlist)
    batches = [[ids] for ids in restricted.encode(TEXTS)]  # CTranslate2 divides others by its threads
    settings = {**settings, "forced_eos_token_id": None}
    free = [*load_backend(checkpoint).write(batches, **settings)]
    ours, theirs = ([*backend.write(batches, **settings)] for backend in (restricted, CTranslate2(folder)))
    assert ours == theirs != free
    for batch, written in zip(batches, ours, strict=True):
        assert {token for ids in written for token in ids} <= set(shortlist.candidates(batch))


def test_a_shortlist_of_every_token_changes_nothing(checkpoint, tokenizer):
    shortlist = Shortlist(tokenizer, range(len(tokenizer)))
    batches = [load_backend(checkpoint).encode(TEXTS)]
    wanted = [*load_backend(checkpoint).write(batches)]
    assert [*PyTorch(*load_model(checkpoint), shortlist=shortlist).write(batches)] == wanted


def test_an_export_with_another_shortlist_is_made_anew(checkpoint, tmp_path):
    made = [
        (export(checkpoint, tmp_path / "export", summaries=TEXTS, shortlist=n) / "vmap.txt").read_text()
        for n in (5, 9, 5)
    ]
    assert made[0] == made[2] != made[1]
    assert not (export(checkpoint, tmp_path / "export") / "vmap.txt").exists()


@pytest.mark.parametrize(
    "given", [{"forced_bos_token_id": 300}, {"eos_token_id": [2, 265]}, {"eos_token_id": 265}], ids=str
)
def test_an_export_whose_ends_would_move_is_refused(checkpoint, tmp_path, given):
    """CTranslate2 gives them the place that they had among the candidates of its first call."""
    model, tokenizer = load_model(checkpoint)
    model.generation_config.update(**given, forced_eos_token_id=None)
    model.save_pretrained(tmp_path / "changed")
    tokenizer.save_pretrained(tmp_path / "changed")
    with pytest.raises(UserError, match="export it without one"):
        export(tmp_path / "changed", tmp_path / "export", summaries=TEXTS, shortlist=9)
    export(tmp_path / "changed", tmp_path / "export")


def test_one_translator_writes_the_same_for_any_candidates(checkpoint, tmp_path):
    """The first calls have other candidates than the later ones."""
    folder = export(checkpoint, tmp_path / "export", "int8", summaries=TEXTS, shortlist=2)
    texts = [*TEXTS, "the", "line", "Return", "points of the line", *reversed(TEXTS)]
    batches = [[ids] for ids in load_backend(checkpoint).encode(texts)]
    settings = {"min_new_tokens": 3, "max_new_tokens": 9, "no_repeat_ngram_size": 3}
    together = [*CTranslate2(folder).write(batches, **settings)]
    assert together == [next(iter(CTranslate2(folder).write([batch], **settings))) for batch in batches]


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(checkpoint, tokenizer):
    """As bart-large-cnn's, whose <mask> has no embedding."""
    model, _ = load_model(checkpoint)
    model.resize_token_embeddings(len(tokenizer) - 1)
    restricted = PyTorch(model, tokenizer, shortlist=Shortlist.of(tokenizer, TEXTS, 9))
    assert len(tokenizer) - 1 in restricted.shortlist.fixed
    assert len(next(iter(restricted.write([restricted.encode(TEXTS)])))) == len(TEXTS)


def test_names_with_white_space_are_left_out_of_the_map(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    spaced = type(tokenizer).from_pretrained(tmp_path)
    spaced.add_tokens(["two words", "a\ttab"])
    lines = Shortlist(spaced, [len(spaced) - 1]).ctranslate2_map().splitlines()
    assert len(lines) == 1 + len(spaced) - 2 and all(line.count("\t") == 1 for line in lines)
    assert lines[0].startswith("\t") and "tab" not in lines[0] and "</s>" in lines[0].split()


@pytest.mark.parametrize(
    "given", [["--shortlist", "5"], ["--study", "smoke"], ["--shortlist", "-1", "--study", "smoke"]]
)
def test_the_command_wants_both(checkpoint, tmp_path, capsys, given):
    assert cli.main(["export", str(checkpoint), str(tmp_path / "export"), *given]) == 2
    assert "--shortlist N and --study STUDY need each other" in capsys.readouterr().err
    assert not (tmp_path / "export").exists()


def test_the_command_counts_a_studys_training_summaries(checkpoint, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_HOME", str(tmp_path))
    assert cli.main(["export", str(checkpoint), str(tmp_path / "export"), "--shortlist", "6", "--study", "smoke"]) == 0
    fixed = (tmp_path / "export" / "vmap.txt").read_text().partition("\n")[0].split()
    wanted = Shortlist.of(tokenizer, load_corpus(load_study("smoke"))["train"]["summary"], 6).fixed
    assert fixed == tokenizer.convert_ids_to_tokens(wanted) and len(fixed) > len(tokenizer.all_special_ids)
