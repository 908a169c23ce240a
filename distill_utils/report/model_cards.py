"""Write the model cards of students and teachers."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from distill_utils.data.corpus import corpus_name
from distill_utils.evaluation.evaluate import WHOLE, Evaluation, evaluate_baselines, load_evaluation
from distill_utils.evaluation.lookup import LOOKUP
from distill_utils.metrics.significance import mean_interval, retention_interval
from distill_utils.models.checkpoint import checkpoint_hash, depth, inner_width, load_model, parameter_count
from distill_utils.models.prepared import Prepared
from distill_utils.studies.plan import Part, Run
from distill_utils.studies.settings import METHODS, Study
from distill_utils.system.artefacts import write_text
from distill_utils.system.errors import UserError
from distill_utils.system.hub import is_hub_id
from distill_utils.system.paths import located
from distill_utils.training.train_student import training_report

FETCHED = ", the standard library and the wheels of `studies/docstrings/teacher_wheels.txt`"


def model_card(recipe: dict) -> str:
    """Return the README of a teacher trained from random weights, with the numbers of its recipe."""
    t, machine = recipe["settings"], recipe["machine"]
    minutes = {phase: recipe[phase]["seconds"] / 60 for phase in ("denoising", "finetuning")}
    final = recipe["final_validation_loss"]
    return f"""---
library_name: transformers
pipeline_tag: summarization
license: other
---
# A compact BART that writes the summary line of Python docstrings

The teacher of the `{recipe["study"]}` study: {t["encoder_layers"]}-{t["decoder_layers"]} layers, width {t["d_model"]}, \
{recipe["parameters"] / 1e6:.1f} M parameters, bfloat16, byte-level BPE with {t["vocabulary"]:,} tokens. Trained from random weights by \
`distill teacher {recipe["study"]}`.

## Data

{recipe["training_docstrings"]:,} docstrings of {recipe["packages"]:,} Python packages: the training packages of \
`studies/docstrings/packages.toml`{FETCHED if t["fetch_text"] else ""}. No validation or test package is among them, and docstrings that copy one \
of theirs (by document, by signature with summary, or by summary) were removed. Corpus fingerprint: `{recipe["corpus_fingerprint"]}`. \
The texts belong to their authors and have the licences of their packages. Check those licences before you use the weights for \
anything but study.

## Recipe

1. Denoising: text infilling on {recipe["denoising_tokens"] / 1e6:.1f} M tokens, {t["denoising"]["steps"]:,} steps of \
{t["denoising"]["batch_size"]} windows of {t["denoising_window"]} tokens, {minutes["denoising"]:.0f} minutes.
2. Fine-tuning: {recipe["finetuning_pairs"]:,} pairs, including those with too few details for the corpus, \
{t["finetuning"]["steps"]:,} steps of {t["finetuning"]["batch_size"]}, {minutes["finetuning"]:.0f} minutes.
3. Selection by validation loss between the last weights and the mean of the last {recipe["checkpoints_averaged"]} checkpoints: \
**{recipe["kept"]}** ({", ".join(f"{name} {loss:.3f}" for name, loss in final.items())}).

Optimizers: Muon for the layers' matrices, AdamW for the rest. Dropout {t["dropout"]:g}, weight decay {t["weight_decay"]:g}. bfloat16 autocast on {machine["cores"]} \
cores of {machine["processor"]} with torch {machine["torch"]}, shared with other jobs. All settings: `recipe.json`.

{_curve(recipe)}

{_memory(recipe)}

## Result

{_tested(recipe)}

## Limits

The model was trained on docstrings of these packages only; it is not suitable for news, prose or languages other than English. Long \
docstrings are truncated. Summaries can contain statements that the text does not support. The only evaluation is ROUGE.
"""


def finetuned_card(recipe: dict) -> str:
    """Return the README of a fine-tuned teacher, with the numbers of its recipe."""
    phase, machine = recipe["settings"]["finetuning"], recipe["machine"]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['processor']}"
    return f"""---
library_name: transformers
pipeline_tag: summarization
base_model: {recipe["base"]}
---
# {recipe["base"]} fine-tuned to summarize `{recipe["corpus"]}`

The teacher of the `{recipe["study"]}` study: {recipe["shape"][0]}-{recipe["shape"][1]} layers, {recipe["parameters"] / 1e6:.1f} M \
parameters. Fine-tuned from `{recipe["base"]}` by `distill teacher {recipe["study"]}`. The licences of the checkpoint and of the data apply.

{recipe["finetuning_pairs"]:,} pairs (corpus fingerprint `{recipe["corpus_fingerprint"]}`), {phase["steps"]:,} steps of \
{phase["batch_size"] * phase["gradient_accumulation_steps"]} pairs, AdamW, learning rate {phase["learning_rate"]:g}, \
{recipe["finetuning"]["seconds"] / 60:.0f} minutes on {machine["processes"]} × {where}, torch {machine["torch"]}. All settings: \
`recipe.json`.

{_curve(recipe)}

{_tested(recipe)}

Summaries can contain statements that the text does not support. The only evaluation is ROUGE.
"""


def _memory(recipe: dict) -> str:
    """State the gap between training and validation pairs, and the loss on pairs before they were seen."""
    seen, unseen, first_pass = recipe["training_pairs_loss"], first_pass_loss(recipe), _steps_of_a_pass(recipe)
    other = recipe["final_validation_loss"][recipe["kept"]]
    text = (
        f"On training pairs the loss is {seen:.2f} nats per token, on validation pairs {other:.2f}, a gap of {other - seen:.2f}. "
        f"The training made {recipe['settings']['finetuning']['steps'] / first_pass:.2f} passes over the pairs."
    )
    if unseen is None:
        return text
    return (
        f"{text} In the last tenth of the first pass, on pairs that the model had not seen, the running loss was {unseen:.2f}. "
        f"That is {unseen - seen:+.2f} against the final loss on seen pairs. `models/README.md` separates memory from the distance between "
        "packages."
    )


def first_pass_loss(recipe: dict) -> float | None:
    """Return the mean training loss in the last tenth of the first pass; None if no value was logged there."""
    steps = _steps_of_a_pass(recipe)
    losses = [loss for step, loss in recipe["finetuning"]["training_loss"] if 0.9 * steps < step <= steps]
    return sum(losses) / len(losses) if losses else None


def _steps_of_a_pass(recipe: dict) -> float:
    phase = recipe["settings"]["finetuning"]
    return recipe["finetuning_pairs"] / (phase["batch_size"] * phase["gradient_accumulation_steps"])


def _curve(recipe: dict) -> str:
    rows = "\n".join(f"| {step:,} | {loss:.2f} |" for step, loss in recipe["finetuning"]["validation_loss"])
    return f"| step | validation loss (nats/token) |\n| ---: | ---: |\n{rows}"


def _tested(recipe: dict) -> str:
    test, baselines_ = recipe["test"], recipe["baselines"]
    low, high = recipe["test_ci"]["rougeL"]
    lead = recipe["lead"]
    best, (least, most) = lead["over"], lead["rougeL_ci"]
    return (
        f"On {recipe['test_pairs']:,} test pairs: ROUGE-1/2/L **{test['rouge1']:.1f} / {test['rouge2']:.1f} / {test['rougeL']:.1f}** "
        f"(F1, stemming; ROUGE-L 95 % interval {low:.1f} to {high:.1f}). The best baseline without a model, `{best}`, reaches "
        f"{baselines_[best]:.1f} ROUGE-L, {lead['rougeL']:.1f} points less (95 % interval {least:.1f} to {most:.1f}). Summaries have "
        f"{recipe['length_ratio']:.2f} of the references' words; ROUGE-L precision is {recipe['precision_rougeL']:.1f} and recall "
        f"{recipe['recall_rougeL']:.1f}. {recipe['stutters']} summaries repeat a word three times in a row."
    )


CARD = "README.md"
LABELS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}
#: The card's code sample; a test runs it.
SAMPLE = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = "{name}"{comment}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSeq2SeqLM.from_pretrained(name)
text = {text!r}
inputs = tokenizer(text, max_length={tokens}, truncation=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])"""
DOCSTRING = "mean(values)\nAdd all values up and divide the sum by how many there are. An empty list raises ValueError."
NEWS = "The bridge over the river was closed on Monday after an inspection found cracks in two of its pillars."


def write_card(prepared: Prepared, run: Run, name: str = ".") -> None:
    """Write a student's model card; ``name``: what the code sample loads, the card's folder or an id on the Hub."""
    write_text(run.folder / CARD, student_card(prepared, run, name))


def student_card(prepared: Prepared, run: Run, name: str = ".") -> str:
    """Return the card in Markdown, with the numbers of ``training.json`` and of the weights' evaluation."""
    study, report, (model, _) = prepared.study, training_report(prepared, run), load_model(run.folder)
    evaluation = teacher = None
    if run.part.split == "test" and not run.part.greedy:  # the sweep has no comparable evaluation of the teacher
        evaluation = _evaluation(prepared, run.evaluation, checkpoint_hash(run.folder), run.part)
        teacher = _evaluation(prepared, "teacher", prepared.teacher_hash)
    base, layers = _teacher_id(study), depth(model.config)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="summarization",
        license=None if base else "other",
        base_model=base,
        datasets=[study.corpus.path] if _on_hub(study.corpus.path) else None,
        model_name=run.evaluation,
        eval_results=_model_index(study, evaluation) if evaluation else None,
    )
    units = f" with {width:,} feed-forward units" if (width := inner_width(model.config)) else ""
    what = f"{layers['encoder']} encoder and {layers['decoder']} decoder layers{units}, {parameter_count(model) / 1e6:.1f} M parameters"
    sample = SAMPLE.format(
        name=name,
        comment="  # the folder of this card" if name == "." else "",
        text=NEWS if study.corpus.path else DOCSTRING,
        tokens=study.corpus.max_source_tokens,
    )
    return f"""---
{data.to_yaml()}
---
# {run.evaluation}: a summarizer distilled from {f"`{base}`" if base else f"the teacher of the study `{study.name}`"}

{what}. Method `{run.method}`: {METHODS[run.method].what}.

```python
{sample}
```

## Data

{_data(prepared)}

## Training

{_training(report)} All settings and losses: `training.json`.

## Result

{_result(prepared, evaluation, teacher)}

## Limits

The model imitates its teacher on texts like those of its data; it reads the first {study.corpus.max_source_tokens:,} tokens. Summaries can \
contain statements that the text does not support. The only evaluation is ROUGE.

## Licence

{"The licences of the teacher and of the data apply." if base or study.corpus.path else
"The docstrings belong to their authors and have the licences of their packages. Check those licences before you use the weights for anything but study."}
"""  # fmt: skip


def _teacher_id(study: Study) -> str | None:
    """Return the teacher's id if it comes from the Hub, else None."""
    if any((located(path) / "config.json").is_file() for path in study.teacher.path):
        return None
    return next((path for path in study.teacher.path[-1:] if is_hub_id(path)), None)


def _on_hub(path: str) -> bool:
    return bool(path) and not located(path).exists() and is_hub_id(path)


def _evaluation(prepared: Prepared, system: str, checkpoint: str, part: Part = WHOLE) -> Evaluation | None:
    try:
        return load_evaluation(prepared, system, checkpoint, part)
    except UserError:
        return None


def _model_index(study: Study, evaluation: Evaluation) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="summarization",
            dataset_type=study.corpus.path if _on_hub(study.corpus.path) else corpus_name(study),
            dataset_name=corpus_name(study),
            dataset_split="test",
            metric_type="rouge",
            metric_name=LABELS[kind],
            metric_value=round(mean, 2),
        )
        for kind, mean in evaluation.means().items()
        if kind in LABELS
    ]


def _data(prepared: Prepared) -> str:
    study, fingerprint = prepared.study, prepared.fingerprint
    if study.corpus.path:
        return f"`{corpus_name(study)}` (corpus fingerprint `{fingerprint}`)."
    return f"Docstrings of the Python packages that `studies/docstrings/packages.toml` lists (corpus fingerprint `{fingerprint}`): details as input, summary line as target."


def _training(report: dict) -> str:
    if not report["steps"]:
        return "None: the weights are copies of the teacher's."
    settings = {
        "α": report["alpha"] if report.get("lmbda") != 1 else None, "T": report["temperature"], "β": report["beta"],
        "interpolation": report["interpolation"], "lmbda": report.get("lmbda"),
        "sampling temperature": report.get("sampling_temperature"),
    }  # fmt: skip
    given = ", ".join(f"{letter} = {value:g}" for letter, value in settings.items() if value is not None)
    given += f"; the first half of the steps as {report['start']}" if report.get("start") else ""
    more = f" and {report['unlabelled']:,} documents without a summary" if report.get("unlabelled") else ""
    return (
        f"{report['steps']:,} steps of {report['pairs_per_step']} pairs, drawn from {report['pairs']:,}{more}; {given}; "
        f"encoder {'frozen' if report['encoder_frozen'] else 'trained'}; seed {report['seed']}; {report['seconds']:.0f} s."
    )


def _result(prepared: Prepared, evaluation: Evaluation | None, teacher: Evaluation | None) -> str:
    if evaluation is None:
        return "Not evaluated on the test split."
    means, (low, high) = evaluation.means(), mean_interval(evaluation.scores["rougeL"])
    text = (
        f"On {len(evaluation.predictions):,} of the {len(prepared.corpus['test']):,} test pairs: ROUGE-1/2/L "
        f"**{means['rouge1']:.1f} / {means['rouge2']:.1f} / {means['rougeL']:.1f}** (F1, stemming; ROUGE-L 95 % interval {low:.1f} to "
        f"{high:.1f}; one training seed, whose variance the interval does not cover). {_baselines(prepared, evaluation.examples)}"
    )
    if teacher is None:
        return text
    theirs = teacher.scores["rougeL"][evaluation.examples]
    kept = retention_interval(evaluation.scores["rougeL"], theirs)
    if not kept:
        return text
    share = means["rougeL"] / theirs.mean()
    return f"{text} That is {100 * share:.1f} % of its teacher's ROUGE-L (95 % interval {100 * kept[0]:.1f} to {100 * kept[1]:.1f} %)."


def _baselines(prepared: Prepared, examples: Sequence[int]) -> str:
    scores = {name: e.scores["rougeL"][examples].mean() for name, e in evaluate_baselines(prepared).items()}
    best = max(scores, key=scores.get)
    text = f"The best baseline without a model, `{best}`, reaches {scores[best]:.1f} ROUGE-L"
    return (
        f"{text}."
        if best == LOOKUP
        else f"{text}, and looking up the most similar training document {scores[LOOKUP]:.1f}."
    )
