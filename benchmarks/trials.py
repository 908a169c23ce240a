"""Trials behind statements of the docs: `python -m benchmarks.trials rates` (or another name below).

`rates`: which learning rate each method of the default study needs, by ROUGE-L on validation pairs.
`on_policy`: which settings the method `gkd` needs, likewise.
`half`: which shape with half of the parameters learns most in equal steps, and which rate plain fine-tuning needs in it.
`labels`: why students of the teacher's summaries are no better than students of the references.
`gap`: how much of the teacher's gap between training and validation pairs is memory, and how much is the distance
between packages.
`seen`: whether distillation gains less on pairs that the teacher was trained on than on others.
`overlap`: how many test pairs a memory of the training pairs could help with, and what the teacher scores on them.
`elsewhere`: what students keep on text of another kind, as the descriptions of the system's packages.

`gap` needs the checkpoints that `distill teacher docstrings` left in `runs/`, `overlap` and `elsewhere` a finished
`distill run docstrings_full`, or another study of docstrings that is named after them. Each writes a file in `benchmarks/results/`;
`python -m benchmarks.trials_page` shows them.
"""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from scipy.stats import ttest_ind
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.report import RESULTS
from distill_utils.data.corpus import load_corpus
from distill_utils.data.near_duplicates import LEAST_WORDS, NearDuplicates, contained
from distill_utils.data.splits import drawn as drawn_by_hash
from distill_utils.data.teacher_text import training_pairs, training_text
from distill_utils.data.tokenization import tokenize
from distill_utils.evaluation.evaluate import Evaluation, evaluate_baselines, evaluate_model, load_evaluation
from distill_utils.evaluation.results import load_results
from distill_utils.metrics.rouge import rouge_scores
from distill_utils.metrics.significance import compare, retention_interval
from distill_utils.metrics.words import sentences
from distill_utils.models.checkpoint import checkpoint_hash, load_model, parameter_count
from distill_utils.models.generation import summarize
from distill_utils.models.prepared import Prepared
from distill_utils.studies.loading import load_study
from distill_utils.studies.plan import Part, Run, planned, single_run
from distill_utils.system.artefacts import read_json, write_json, write_key
from distill_utils.system.environment import environment
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint
from distill_utils.system.progress import progress
from distill_utils.training.batching import BucketSampler, Collator
from distill_utils.training.losses import IGNORED
from distill_utils.training.optimizers import MuonWithAdamW
from distill_utils.training.teacher_cache import cache_folder, pseudo_labels
from distill_utils.training.train_student import TRAINING_FILE, train_student
from distill_utils.training.train_teacher import _Phase, _run_phase

RATES = {
    "sft": (2.5e-4, 5e-4, 1e-3, 2e-3, 3e-3),
    "kd": (5e-4, 1e-3, 2e-3),
    "hidden": (5e-4, 1e-3, 2e-3, 3e-3),
}
#: Settings and learning rates of `gkd`.
ON_POLICY = (
    ({"start": "sft", "interpolation": 0.5}, 5e-4),
    ({"start": "hidden", "interpolation": 0.5}, 5e-4),
    ({"start": "hidden", "interpolation": 0.9}, 5e-4),
    ({"start": "hidden", "interpolation": 0.1}, 5e-4),
    ({"start": "hidden", "interpolation": 0.5}, 1e-3),
    ({"start": "hidden", "interpolation": 0.5, "lmbda": 0.5}, 5e-4),
    ({"start": "hidden", "interpolation": 0.5, "sampling_temperature": 0.5}, 5e-4),
    ({"start": "sft", "interpolation": 0.9}, 5e-4),
    ({"start": "sft", "interpolation": 0.1}, 5e-4),
    ({"start": "sft", "interpolation": 0.5}, 1e-3),
)
#: Shapes with half of the teacher's parameters or slightly less, from few whole layers to many narrow ones.
HALF = ("3-1", "3-3-256", "4-3-192", "6-2-192", "5-3-96")
#: Pairs of each kind that `gap` scores, and validation pairs that `rates` summarizes.
PAIRS = 1000
DROPOUT = 0.1
#: Optimizer steps of `rates`.
STEPS = 250


def rates() -> None:
    """Train three methods at several rates."""
    _compared("learning_rates", [(method, {}, rate) for method, own in RATES.items() for rate in own])


def on_policy() -> None:
    """Train on what the student writes itself, with several settings."""
    _compared("on_policy", [("gkd", settings, rate) for settings, rate in ON_POLICY])


def half() -> None:
    """Train students with half of the parameters, and the chosen one by plain fine-tuning at several rates."""
    d = load_study("docstrings_half").distillation
    shapes = [("hidden", {"student": shape}, d.learning_rate) for shape in HALF]
    rates = [("sft", {"student": d.student}, rate) for rate in RATES["sft"][:4]]
    _compared("half_size", [*shapes, *rates], "docstrings_half")


def _compared(file: str, trials: Sequence[tuple[str, dict, float]], study: str = "docstrings") -> None:
    """Train a student for each method, settings and learning rate, and score it on validation pairs."""
    prepared, rows = Prepared(load_study(study)), []
    for method, settings, rate in trials:
        own = prepared.study.distillation
        rates = {**own.learning_rates, method: rate}  # the first half of gkd has its own method's
        d = own.model_copy(update={"learning_rates": rates, "steps": STEPS, **settings})
        label = "-".join([f"rate-{rate:g}", *(f"{key}-{value}" for key, value in settings.items())])
        run = single_run(prepared.study.model_copy(update={"distillation": d, "variant": label}), d.student, method)
        folder = train_student(prepared, run)
        model, tokenizer = load_model(folder)
        name = ", ".join([f"{run.name}, rate {rate:g}", *(f"{key} {value}" for key, value in settings.items())])
        scores = evaluate_model(prepared, name, model, tokenizer, checkpoint_hash(folder), Part("validation", PAIRS))
        report = read_json(folder / TRAINING_FILE)
        losses = [e["eval_loss"] for e in report["log"] if "eval_loss" in e]
        row = {"method": method, **settings, "rate": rate, "rougeL": scores.means()["rougeL"]}
        row |= {"validation_loss": losses[-1], "parameters": parameter_count(model), "seconds": report["seconds"]}
        rows.append(row)
        made = {"steps": d.steps, "batch_size": d.batch_size, "pairs": d.max_pairs, "validation_pairs": PAIRS}
        write_json(RESULTS / f"{file}.json", {**made, "rows": rows, "environment": environment()})
        print(rows[-1], flush=True)


def labels() -> None:
    """Train plain fine-tuning on references, on pseudo-labels, and on targets between the two."""
    prepared = Prepared(load_study("docstrings"))
    teacher, tokenizer = prepared.load_teacher()
    train = prepared.corpus["train"]
    count = prepared.study.distillation.max_pairs
    chosen = sorted(drawn_by_hash(train["id"], count))
    train = train.select(chosen)
    references = list(train["summary"])

    def written(beams: int = 1, *factors: float) -> list[str]:
        settings = {"pseudo_label_beams": beams, "pseudo_label_attention": list(factors or [1.0])}
        study = load_study("docstrings", {f"distillation.{key}": value for key, value in settings.items()})
        return list(pseudo_labels(Prepared(study), teacher, tokenizer, chosen)["summary"])

    plain = written()
    torch.manual_seed(0)
    sampled = summarize(
        teacher, tokenizer, train["document"], max_source_tokens=prepared.study.corpus.max_source_tokens, desc="sampling",
        num_beams=1, do_sample=True, top_k=0, max_new_tokens=prepared.study.corpus.max_target_tokens,
    )  # fmt: skip
    scores = rouge_scores(plain, references)["rougeL"]
    better = scores >= np.median(scores)
    random = np.random.default_rng(0).permutation(better)
    pairs = list(zip(plain, references, strict=True))
    targets = {
        "references": references,
        "pseudo-labels": plain,
        "pseudo-labels, 4 beams": written(4),
        "pseudo-labels, sampled": sampled,
        "references, cut to the length of the pseudo-labels": [
            " ".join(own.split()[: len(label.split())]) for label, own in pairs
        ],
        "the better half of the pseudo-labels, else references": [
            p[not good] for p, good in zip(pairs, better, strict=True)
        ],
        "a random half of the pseudo-labels, else references": [
            p[not good] for p, good in zip(pairs, random, strict=True)
        ],
        "pseudo-labels, attention scores / 1.5": written(1, 1.5),
        "pseudo-labels, attention scores / 2": written(1, 2.0),
        "pseudo-labels, attention scores / 1 to 2": written(1, 1.0, 2.0),
    }
    (run,) = [r for r in planned(prepared.study) if r.method == "sft"]
    bigrams = {
        name: [tuple(pair) for text in texts for pair in itertools.pairwise(text.split())]
        for name, texts in targets.items()
    }
    same = min(map(len, bigrams.values()))  # more of them would hold more of the same
    rows, found = [], {}
    for name, texts in targets.items():
        texts = [text or "-" for text in texts]
        label = f"labels-{len(rows)}"
        evaluation = _trained_on(prepared, train.remove_columns("summary").add_column("summary", texts), label, run)
        found[name] = evaluation.scores["rougeL"]
        apart = compare(name, "references", "rougeL", found[name], found["references"])
        for cache in cache_folder(run.study).glob("encoder-*"):  # of these targets alone
            shutil.rmtree(cache)
        rows.append(
            {
                "targets": name,
                "words": np.mean([len(text.split()) for text in texts]),
                "rougeL_of_targets": rouge_scores(texts, references)["rougeL"].mean(),
                "distinct_bigrams": len({*bigrams[name][:same]}) / same,
                "rougeL": found[name].mean(),
                "summary_words": np.mean([len(text.split()) for text in evaluation.predictions]),
                "over_references": apart.delta,
                "over_references_ci": list(apart.ci),
            }
        )
        made = {"steps": STEPS, "pairs": count, "validation_pairs": PAIRS, "method": run.method}
        write_json(RESULTS / "pseudo_labels.json", {**made, "rows": rows, "environment": environment()})
        print(rows[-1], flush=True)


def _trained_on(prepared: Prepared, train: Dataset, name: str, run: Run, part: Part | None = None) -> Evaluation:
    """Train a student of the run on other pairs and summarize with it, the validation pairs unless a part is given."""
    own = Prepared(prepared.study)
    shared = {key: getattr(prepared, key) for key in ("teacher_folder", "teacher_hash")}
    own.__dict__.update(shared, corpus=DatasetDict({**prepared.corpus, "train": train}))
    own.__dict__["statistics"] = {
        **prepared.statistics,
        "fingerprint": fingerprint(prepared.fingerprint, name, *train["summary"]),
    }
    d = run.study.distillation.model_copy(update={"steps": STEPS})
    here = replace(run, study=run.study.model_copy(update={"distillation": d, "variant": name}))
    folder = train_student(own, here)
    model, tokenizer = load_model(folder)
    return evaluate_model(
        own, f"{name}, {run.name}", model, tokenizer, checkpoint_hash(folder), part or Part("validation", PAIRS)
    )


def gap() -> None:
    """Score checkpoints of the teacher on pairs that they have seen, on unseen pairs of the same packages, and on validation pairs.

    Also the mean of the last checkpoints, and a teacher whose last steps were trained with dropout.
    """
    text = _TeacherText()
    study, folders = text.study, text.checkpoints
    held_out = Prepared(study).corpus["validation"]
    held_out = tokenize(held_out.select(range(min(PAIRS, len(held_out)))), text.tokenizer, study.corpus)
    drawn = np.random.default_rng(study.seed)
    # The pairs that the first checkpoint has not seen are seen by the last one: the same pairs, before and after.
    early = drawn.choice(text.seen_by(folders[0]), PAIRS, replace=False)
    late = drawn.choice(np.concatenate(text.batches[_step(folders[0]) :]), PAIRS, replace=False)
    pairs = {"early": text.pairs.select(early), "late": text.pairs.select(late), "validation": held_out}
    made = {"pairs_of_each_kind": PAIRS, "first_checkpoint": _step(folders[0]), "training_pairs": len(text.ids)}
    file = RESULTS / "teacher_gap.json"
    before = read_json(file) if file.is_file() else {}
    rows = before["rows"] if {key: before.get(key) for key in made} == made else []  # go on with them

    def add(name: str, step: int, make: Callable[[], PreTrainedModel]) -> None:
        if name in [row["model"] for row in rows]:
            return
        model, row = make().eval(), {"model": name, "passes": step / len(text.batches)}
        for kind, chosen in pairs.items():
            losses, tokens = _losses(model, text.tokenizer, chosen)
            row[kind] = losses.sum() / tokens.sum()
            again = np.random.default_rng(study.seed).integers(len(losses), size=(2000, len(losses)))
            ends = np.quantile(losses[again].sum(1) / tokens[again].sum(1), [0.025, 0.975])
            row[f"{kind}_ci"] = ends.tolist()
        rows.append(row)
        print(row, flush=True)
        write_json(file, {**made, "rows": rows, "environment": environment()})

    def mean() -> PreTrainedModel:
        models = [load_model(folder)[0] for folder in folders[-study.teacher.average_checkpoints :]]
        states = [model.state_dict() for model in models]
        models[0].load_state_dict({name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]})
        return models[0]

    last = _step(folders[-1])
    for folder in folders:
        add(f"step {_step(folder):,}", _step(folder), lambda folder=folder: load_model(folder)[0])
    add(f"mean of the last {study.teacher.average_checkpoints}", last, mean)
    add(f"dropout {DROPOUT} from step {_step(folders[-2]):,} on", last, text.with_dropout)


def seen() -> None:
    """Distil on the validation pairs, which the teacher has not seen, and on as many of the pairs that it was trained on."""
    prepared = Prepared(load_study("docstrings"))
    train, unseen = (prepared.corpus[split] for split in ("train", "validation"))
    pairs = {"seen": train.select(sorted(drawn_by_hash(train["id"], len(unseen)))), "unseen": unseen}
    rows, scores = [], {}
    for kind, own in pairs.items():
        for run in [r for r in planned(prepared.study) if r.method in ("sft", "kd", "hidden")]:
            found = _trained_on(prepared, own, kind, run, Part())
            scores[kind, run.method] = found.scores["rougeL"]
            row = {"pairs": kind, "method": run.method, "rougeL": found.means()["rougeL"]}
            if run.method != "sft":
                row |= _difference("over_sft", found.scores["rougeL"], scores[kind, "sft"])
            if kind == "unseen":
                row |= _difference("over_seen", found.scores["rougeL"], scores["seen", run.method])
            if kind == "unseen" and run.method != "sft":
                gains = {k: scores[k, run.method] - scores[k, "sft"] for k in ("unseen", "seen")}
                row |= _difference("gain_over_seen", gains["unseen"], gains["seen"])
            rows.append(row)
            print(row, flush=True)
            made = {"pairs": len(unseen), "steps": STEPS, "test_pairs": len(found.scores["rougeL"])}
            write_json(RESULTS / "seen_pairs.json", {**made, "rows": rows, "environment": environment()})


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> dict:
    apart = compare("ours", "theirs", "rougeL", ours, theirs)
    return {name: apart.delta, f"{name}_ci": list(apart.ci)}


def overlap(study: str = "docstrings_full") -> None:
    """Count a finished study's test pairs that resemble training pairs, and compare what the teacher scores on them and on the rest."""
    prepared = Prepared(load_study(study))
    tokenizer, limit = prepared.load_teacher()[1], prepared.study.corpus.max_source_tokens
    train, test = prepared.corpus["train"], prepared.corpus["test"]

    def read(texts: Sequence[str]) -> list[str]:
        """Return the beginning of each text that the models read."""
        ids = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return tokenizer.batch_decode(ids, skip_special_tokens=True)

    jaccard, read_in_test = prepared.study.corpus.filters.near_duplicate_jaccard, read(test["document"])
    known = NearDuplicates(read_in_test, jaccard)
    for text in read_in_test:
        known.add(text)
    near: set[int] = set()
    for text in progress(read(train["document"]), desc="near duplicates", unit="text"):
        near |= known.matches(text)
    kinds = {
        "near duplicate of a training document, in the tokens that are read": np.isin(np.arange(len(test)), [*near]),
        "summary stands in a training document": np.array(contained(test["summary"], train["document"])),
    }
    scores, rows = load_evaluation(prepared, "teacher").scores["rougeL"], []
    for kind, affected in kinds.items():
        row = {"kind": kind, "pairs": int(affected.sum()), "teacher_on_the_rest": float(scores[~affected].mean())}
        if row["pairs"] > 1:
            apart = ttest_ind(scores[affected], scores[~affected], equal_var=False)
            row |= {"teacher": float(scores[affected].mean()), "over_the_rest": float(scores[affected].mean() - scores[~affected].mean())}  # fmt: skip
            row |= {"over_the_rest_ci": [float(bound) for bound in apart.confidence_interval()]}
        rows.append(row)
        print(row, flush=True)
    made = {"study": study, "train": len(train), "test": len(test), "teacher": float(scores.mean()), "jaccard": jaccard}
    made |= {"source_tokens": limit, "words": LEAST_WORDS}
    write_json(RESULTS / "overlap.json", {**made, "rows": rows, "environment": environment()})


def elsewhere(study: str = "docstrings_full") -> None:
    """Score a finished study's teacher and students on text of another kind, and compare what is kept there and at home.

    For docstrings these are package descriptions; for another corpus, articles of CNN/DailyMail without their first sentence.
    """
    home = Prepared(load_study(study))
    is_docstrings = not home.study.corpus.path
    pairs = (
        _package_descriptions()
        if is_docstrings
        else _leads(load_corpus(load_study("cnn_dailymail"))["test"]["document"])
    )
    with tempfile.TemporaryDirectory() as folder:
        own = {split: home.corpus[split].select_columns(["document", "summary"]) for split in ("train", "validation")}
        for split, rows in {**own, "test": Dataset.from_list(pairs)}.items():
            rows.to_json(Path(folder) / f"{split}.jsonl")
        settings = {"corpus.path": folder, "name": f"{study}_elsewhere", "corpus.line_breaks": is_docstrings}
        away = Prepared(load_study(study, settings))
        rows = _kept_elsewhere(home, away)
    made = {
        "study": study,
        "texts": "package descriptions" if is_docstrings else "articles",
        "pairs": len(pairs),
        "commit_of_students": load_results(home.study)["environment"]["commit"],
    }
    write_json(RESULTS / "elsewhere.json", {**made, "rows": rows, "environment": environment()})


def _leads(articles: Sequence[str]) -> list[dict[str, str]]:
    """Return each article without its first sentence as document, and that sentence as summary, as XSum is made."""
    split = (sentences(article) for article in articles)
    return [{"document": " ".join(rest), "summary": first} for first, *rest in split if rest]


def _kept_elsewhere(home: Prepared, away: Prepared) -> list[dict]:
    teacher, tokenizer = home.load_teacher()
    theirs = {
        "home": load_evaluation(home, "teacher").scores["rougeL"],
        "elsewhere": evaluate_model(away, "teacher", teacher, tokenizer, home.teacher_hash).scores["rougeL"],
    }
    rows = [{"name": "teacher", **{place: scores.mean() for place, scores in theirs.items()}}]
    rows += [{"name": name, "elsewhere": e.means()["rougeL"]} for name, e in evaluate_baselines(away).items()]
    named: dict[str, list[Run]] = {}
    for run in planned(home.study):
        if run.group in ("main", "budgets"):
            named.setdefault(run.name, []).append(run)
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, runs in named.items():
        own: dict[str, list[np.ndarray]] = {"home": [], "elsewhere": []}
        for run in runs:
            checkpoint = checkpoint_hash(run.folder)
            own["home"].append(load_evaluation(home, run.evaluation, checkpoint, run.part).scores["rougeL"])
            written = evaluate_model(away, run.evaluation, load_model(run.folder)[0], tokenizer, checkpoint)
            own["elsewhere"].append(written.scores["rougeL"])
        found[name] = {place: np.stack(scores) for place, scores in own.items()}
    for name, own in found.items():
        row, half = {"name": name, "seeds": len(own["home"])}, {}
        for place, scores in own.items():
            alike = [other[place] for other in found.values() if len(other[place]) > 1]
            low, high = retention_interval(scores, theirs[place], alike=alike)
            row[place] = scores.mean()
            row[f"kept_{place}"], row[f"kept_{place}_ci"] = scores.mean() / theirs[place].mean(), [low, high]
            half[place] = (high - low) / 2
        change, width = row["kept_elsewhere"] - row["kept_home"], np.hypot(*half.values())  # of independent pairs
        rows.append({**row, "change": change, "change_ci": [change - width, change + width]})
        print(rows[-1], flush=True)
    return rows


def _package_descriptions(file: Path = Path("/var/lib/dpkg/status")) -> list[dict[str, str]]:
    """Return name and description as document, and synopsis as summary, of one Debian package for each source package."""
    if not file.is_file():
        raise UserError(f"there is no {file}: this trial needs a system with Debian packages")
    chosen: dict[str, dict[str, str]] = {}
    for block in file.read_text("utf-8").split("\n\n"):
        fields = dict(re.findall(r"^(\S+): ?(.*(?:\n .*)*)", block, re.MULTILINE))
        synopsis, _, body = fields.get("Description", "").partition("\n")
        body = " ".join(line.strip() for line in body.split("\n") if line.strip() != ".")
        if len(body.split()) >= 10 and len(synopsis.split()) >= 3:
            source = fields.get("Source", fields["Package"]).split()[0]
            chosen.setdefault(source, {"document": f"{fields['Package']}\n{body}", "summary": synopsis})
    return list(chosen.values())


class _TeacherText:
    """The teacher's training pairs in the order in which it first saw them, and the checkpoints that it left.

    Attributes:
        pairs, ids: tokenized pairs, and their names.
        batches: indices of the pairs, batch by batch, of the first pass over them.
    """

    def __init__(self) -> None:
        self.study = load_study("docstrings")
        self.work = self.study.folder / "teacher_training"
        self.checkpoints = sorted((self.work / "finetuning").glob("checkpoint-*"), key=_step)
        self.tokenizer = load_model(self.checkpoints[-1])[1]
        chosen = training_pairs(self.study, training_text(self.study))
        texts = Dataset.from_dict({"document": [d.document for d in chosen], "summary": [d.summary for d in chosen]})
        self.ids = [d.id for d in chosen]
        self.pairs = tokenize(texts, self.tokenizer, self.study.corpus)
        lengths = self.pairs["length"], list(map(len, self.pairs["labels"]))
        size = self.study.teacher.finetuning.batch_size
        self.batches = [*BucketSampler(*lengths, batch_size=size, seed=self.study.seed)]

    def seen_by(self, checkpoint: Path) -> np.ndarray:
        return np.concatenate(self.batches[: _step(checkpoint)])

    def with_dropout(self) -> PreTrainedModel:
        """Train from the last checkpoint but one to the end again, with dropout."""
        study = load_study("docstrings", {"name": "teacher_dropout"})
        output = study.folder / "teacher_training" / "finetuning"
        key = fingerprint("dropout", DROPOUT)
        if not output.is_dir():
            shutil.copytree(self.checkpoints[-2], output / self.checkpoints[-2].name)
            write_key(output, key)
        config = AutoConfig.from_pretrained(self.checkpoints[-2], dropout=DROPOUT)
        model = AutoModelForSeq2SeqLM.from_pretrained(self.checkpoints[-2], config=config, attn_implementation="eager")
        optimizer = MuonWithAdamW(model, study.teacher.finetuning.learning_rate, study.teacher.weight_decay)
        _run_phase(
            study, model, self.tokenizer, _Phase("finetuning", self.pairs, key, optimizer, self.pairs.select(range(64)))
        )
        return model


def _step(folder: Path) -> int:
    return int(folder.name.split("-")[1])


@torch.inference_mode()
def _losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Dataset
) -> tuple[np.ndarray, np.ndarray]:
    """Return each pair's cross-entropy, summed over its target tokens in nats, and the number of these tokens."""
    collate, order = Collator(tokenizer, model), np.argsort(pairs["length"])
    losses, tokens = np.zeros(len(order)), np.zeros(len(order))
    for start in progress(range(0, len(order), 50), desc="scoring", unit="batch"):
        batch = collate(pairs.select(order[start : start + 50]).to_list())
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits.float()
        each = torch.nn.functional.cross_entropy(logits.mT, labels, ignore_index=IGNORED, reduction="none")
        losses[order[start : start + 50]] = each.sum(1)
        tokens[order[start : start + 50]] = (labels != IGNORED).sum(1)
    return losses, tokens


if __name__ == "__main__":
    {
        "rates": rates,
        "on_policy": on_policy,
        "half": half,
        "labels": labels,
        "gap": gap,
        "seen": seen,
        "overlap": overlap,
        "elsewhere": elsewhere,
    }[sys.argv[1]](*sys.argv[2:])
