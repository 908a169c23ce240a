"""Overlap between splits, by hand."""

from datasets import Dataset, DatasetDict

from distill_utils.data.near_duplicates import contained, leakage, overlap


def test_a_phrase_is_contained_with_its_words_in_a_row():
    texts = ["Returns, for each node, the shortest path.", "The end of one text", "begins another one here"]
    phrases = [
        "Returns for each node", "returns each node the", "for each NODE: the shortest", "the shortest path the end",
        "of one text begins another", "shortest path", "begins another one here", "begins another one here now", "",
    ]  # fmt: skip
    assert contained(phrases, texts) == [True, False, True, False, False, False, True, False, False]
    assert contained(["a b c d"], []) == [False]


def test_documents_that_begin_alike_are_counted_whatever_their_end():
    beginning = " ".join(f"w{i}" for i in range(95))
    rows = {
        "train": [(f"{beginning} " + " ".join(f"a{i}" for i in range(300)), "one summary of it")],
        "validation": [("nothing like it at all", "w10 w11 w12 w13")],
        "test": [(f"{beginning} " + " ".join(f"b{i}" for i in range(300)), "another summary")],
    }
    corpus = DatasetDict(
        {split: Dataset.from_dict({"document": [d for d, _ in pairs], "summary": [s for _, s in pairs]}) for split, pairs in rows.items()}
    )  # fmt: skip
    assert leakage(corpus, 0.8) == {"summaries_in_train": 0, "near_duplicates": 0}
    assert overlap(corpus, 0.8) == {"near_duplicates_in_first_words": 1, "summaries_inside_documents": 1}
