"""ROUGE against rouge_score itself, offline."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from distill_utils.metrics import rouge
from distill_utils.metrics.rouge import TYPES, Rouge, rouge_scores
from distill_utils.metrics.words import ENGLISH, UNICODE, kind_of_words, sentences, unicode_words
from tests.helpers.properties import examples

#: Any text, and texts of a few words and lines, which have some in common.
LINES = st.lists(
    st.lists(st.sampled_from(["the", "cat", "cats", "ran", "running", "to", "a", "b2", "été"]), max_size=6).map(
        " ".join
    ),
    max_size=3,
).map("\n".join)
TEXTS = st.text() | LINES
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)

PREDICTIONS = ["Returns the number of nodes.", "plot a line", "", "the cats were running"]
REFERENCES = ["Return the node count of the graph.", "plot a line", "something", "a cat runs"]


def direct(prediction, reference, kind):
    if kind == "rougeLsum":  # by the library's convention a line is a sentence
        prediction, reference = ("\n".join(sentences(text)) for text in (prediction, reference))
    return 100 * RougeScorer([kind], use_stemmer=True).score(reference, prediction)[kind].fmeasure


def test_equals_rouge_score_pair_by_pair():
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    for kind in TYPES:
        assert scores[kind].tolist() == [direct(p, r, kind) for p, r in zip(PREDICTIONS, REFERENCES, strict=True)]


@examples(100)
@given(PAIRS)
@example([("a a", "a\nbe\na")])  # by rougeLsum 40 this way, 80 the other
def test_any_text_can_be_scored_as_rouge_score_does(pairs):
    scores = rouge_scores(*zip(*pairs, strict=True))
    for kind in TYPES:
        assert scores[kind].shape == (len(pairs),) and ((scores[kind] >= 0) & (scores[kind] <= 100)).all()
        assert scores[kind].tolist() == [direct(*pair, kind) for pair in pairs]


@examples(60)
@given(PAIRS, st.randoms(use_true_random=False))
def test_a_pairs_scores_do_not_depend_on_the_other_pairs(pairs, random):
    order = random.sample(range(len(pairs)), len(pairs))
    scores = rouge_scores(*zip(*pairs, strict=True))
    moved = rouge_scores(*zip(*(pairs[i] for i in order), strict=True))
    for kind in TYPES:
        assert moved[kind].tolist() == scores[kind][order].tolist()


@examples(60)
@given(TEXTS)
def test_a_text_matches_itself_wholly_if_it_has_words(text):
    scores = rouge_scores([text], [text])
    words = len(DefaultTokenizer(use_stemmer=True).tokenize(text))
    for kind in TYPES:
        assert scores[kind][0] == pytest.approx(100 if words > (kind == "rouge2") else 0), "pairs of words need two"


@examples(60)
@given(TEXTS, TEXTS)
def test_exchanging_prediction_and_reference_changes_no_f1_and_one_line_is_its_own_summary(one, other):
    there, back = rouge_scores([one], [other]), rouge_scores([other], [one])
    for kind in ("rouge1", "rouge2", "rougeL"):  # rougeLsum looks for each line of the reference in all of the other
        assert there[kind][0] == pytest.approx(back[kind][0])
    line = rouge_scores([one.replace("\n", " ")], [other.replace("\n", " ")])
    for kind in ("rouge1", "rouge2", "rougeL"):
        assert line[kind][0] == there[kind][0]
    if len(sentences(one.replace("\n", " "))) < 2 > len(sentences(other.replace("\n", " "))):
        assert line["rougeLsum"][0] == pytest.approx(line["rougeL"][0])


@examples(60)
@given(LINES, LINES, st.sampled_from([str.upper, str.title, lambda text: f"«{text}!»".replace(" ", " … -- ")]))
def test_case_and_punctuation_do_not_count(one, other, written):
    scores, plain = rouge_scores([written(one)], [other]), rouge_scores([one], [other])
    assert {kind: scores[kind][0] for kind in TYPES} == {kind: plain[kind][0] for kind in TYPES}


@examples(30)
@given(st.lists(st.text("ab", min_size=1), max_size=6), st.lists(st.text("xz", min_size=1), max_size=6))
def test_texts_without_a_word_in_common_score_nothing(one, other):
    scores = rouge_scores([" ".join(one)], [" ".join(other)])
    assert not any(scores[kind].any() for kind in TYPES)


def f1(common, predicted, wanted):
    return 200 * common / (predicted + wanted) if common else 0.0


def longest_common(a, b):
    """Length of the longest common subsequence, by its definition."""
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest_common(a[1:], b[1:])
    return max(longest_common(a[1:], b), longest_common(a, b[1:]))


@examples(60)
@given(*[st.lists(st.sampled_from(["a", "be", "cat", "dog"]), max_size=7)] * 2)
def test_scores_are_those_of_the_definition(prediction, reference):
    """Words of up to three letters have no ending that the stemmer would take."""
    scores = rouge_scores([" ".join(prediction)], [" ".join(reference)])
    for kind, size in (("rouge1", 1), ("rouge2", 2)):
        grams = [Counter(zip(*(words[i:] for i in range(size)), strict=False)) for words in (prediction, reference)]
        wanted = f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())
        assert scores[kind][0] == pytest.approx(wanted)
    wanted = f1(longest_common(prediction, reference), len(prediction), len(reference))
    assert scores["rougeL"][0] == pytest.approx(wanted)


def test_known_value():
    # 3 of 3 predicted words and 3 of 6 reference words match: F1 = 2·1·½ / 1½ = ⅔. Stemming joins cat and cats.
    scores = rouge_scores(["the cat sat"], ["the cats sat on the mat"])
    assert scores["rouge1"][0] == pytest.approx(200 / 3)


def test_processes_give_the_same_in_the_same_order(monkeypatch):
    here = rouge_scores(PREDICTIONS * 6, REFERENCES * 6)
    monkeypatch.setattr(rouge, "CHUNK", 5)
    spread = rouge_scores(PREDICTIONS * 6, REFERENCES * 6)
    for kind in TYPES:
        np.testing.assert_array_equal(here[kind], spread[kind])


@examples(4)
@given(st.lists(st.tuples(LINES, LINES), min_size=7, max_size=20), st.integers(1, 3))
def test_any_texts_score_the_same_in_processes(pairs, chunk):
    here = rouge_scores(*zip(*pairs, strict=True))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rouge, "CHUNK", chunk)
        spread = rouge_scores(*zip(*pairs, strict=True))
    for kind in TYPES:
        np.testing.assert_array_equal(here[kind], spread[kind])


def test_metric_gives_means_and_intervals():
    result = Rouge().compute(predictions=PREDICTIONS, references=REFERENCES)
    scores = rouge_scores(PREDICTIONS, REFERENCES)
    for kind in TYPES:
        low, high = result[f"{kind}_ci"]
        assert result[kind] == pytest.approx(scores[kind].mean())
        assert 0 <= low <= result[kind] <= high <= 100


def test_metric_gives_per_example_scores_on_request():
    result = Rouge().compute(predictions=PREDICTIONS, references=REFERENCES, per_example=True)
    assert result["rougeL_scores"] == rouge_scores(PREDICTIONS, REFERENCES)["rougeL"].tolist()


def test_metric_takes_batches():
    metric = Rouge()
    metric.add_batch(predictions=PREDICTIONS[:2], references=REFERENCES[:2])
    metric.add_batch(predictions=PREDICTIONS[2:], references=REFERENCES[2:])
    assert metric.compute()["rougeL"] == pytest.approx(rouge_scores(PREDICTIONS, REFERENCES)["rougeL"].mean())


def test_uneven_or_empty_input_is_refused():
    with pytest.raises(ValueError, match="as many"):
        rouge_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="as many"):
        rouge_scores([], [])


@pytest.mark.parametrize(
    ("prediction", "reference", "english", "unicode"),
    [
        ("été", "âtà", 100, 0),  # both are "t" in letters a to z
        ("l'été", "l\u2019e\u0301te\u0301", None, 100),  # composed and decomposed
        ("Straße", "STRASSE", None, 100),
        ("дом большой", "большой дом", 0, 100),
        ("हिन्दी", "हिन्द", 0, 0),  # a vowel sign is part of its word
        ("한국 서울", "서울 한국", 0, 100),
        ("the cats", "the cat", 100, 50),  # without stems
        ("İSTANBUL", "istanbul", None, 100),
        ("Ϊ\u0301", "ΐ", None, 100),  # composed in capitals, decomposed by lowering them
    ],
)
def test_words_of_other_alphabets(prediction, reference, english, unicode):
    assert rouge_scores([prediction], [reference], UNICODE)["rouge1"][0] == pytest.approx(unicode)
    if english is not None:
        assert rouge_scores([prediction], [reference], ENGLISH)["rouge1"][0] == pytest.approx(english)


def test_texts_of_english_with_a_few_accents_are_english():
    assert (
        kind_of_words(["Beyoncé sang in a café.", *["Nothing of the kind was heard anywhere else that day."] * 60])
        == ENGLISH
    )
    for form in ("NFC", "NFD"):
        french = unicodedata.normalize(form, "Le café a été fermé à midi.")
        assert kind_of_words([french, "Il n'y a plus de pain."]) == UNICODE
    assert kind_of_words(["Документ", "a"]) == UNICODE and kind_of_words(["서울 한국"]) == UNICODE
    assert kind_of_words(["12 3", ""]) == ENGLISH
    for text in ("文件的摘要", "ドキュメント", "เอกสาร"):
        with pytest.raises(ValueError, match="does not separate words"):
            kind_of_words([text])


@examples(60)
@given(TEXTS)
def test_unicode_words_do_not_depend_on_how_accents_are_written(text):
    assert unicode_words(unicodedata.normalize("NFD", text)) == unicode_words(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("version 1.2 of it", ["version 1.2 of it"]),
        ("नमस्ते दुनिया। यह दूसरा है॥ तीसरा", ["नमस्ते दुनिया।", "यह दूसरा है॥", "तीसरा"]),
        ("هل جاء؟ نعم.", ["هل جاء؟", "نعم."]),
        ("وہ آیا۔ پھر گیا۔", ["وہ آیا۔", "پھر گیا۔"]),
        ("天気は晴れ。行く？はい！", ["天気は晴れ。", "行く？", "はい！"]),
        ("Mr. Smith came.\nHe left at 5 p.m. Monday.", ["Mr. Smith came.", "He left at 5 p.m. Monday."]),
        ("One\r\n\r\ntwo. Three\rfour", ["One", "two. Three", "four"]),
        ("One. Two.\n", ["One.", "Two."]),
        (" \n", []),
    ],
)
def test_sentences_are_the_lines_or_end_with_a_mark(text, found):
    assert sentences(text) == found


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("d e f\na b c", "a b c\nd e f", 100),
        ("d e f a b c", "a b c\nd e f", 100),
        (
            "Mr. Smith was heard at St. Louis by the U.S. Supreme Court.\nJones won on Monday at 5 p.m.",
            "The U.S. Supreme Court heard Mr. Smith vs. Jones.\nThe court of appeals in St. Louis ruled at 5 p.m. Monday.",
            45.4545,
        ),
    ],
)
def test_given_lines_are_the_sentences_as_in_rouge_score(prediction, reference, score):
    found = rouge_scores([prediction], [reference])["rougeLsum"][0]
    assert found == pytest.approx(score, abs=1e-3)
    library = RougeScorer(["rougeLsum"], use_stemmer=True).score(reference, prediction)["rougeLsum"].fmeasure
    assert found == 100 * library


def test_rouge_lsum_takes_sentences_in_any_order():
    """By the published convention for CNN/DailyMail: a sentence a line, here of texts without line breaks."""
    one, other = "The cat sat. A dog ran!", "A dog ran! The cat sat."
    scores = rouge_scores([one], [other])
    assert scores["rougeLsum"][0] == pytest.approx(100) and scores["rougeL"][0] == pytest.approx(50)
    lines = [text.replace(". ", ".\n").replace("! ", "!\n") for text in (one, other)]
    assert (
        scores["rougeLsum"][0] == 100 * RougeScorer(["rougeLsum"], use_stemmer=True).score(*lines)["rougeLsum"].fmeasure
    )
