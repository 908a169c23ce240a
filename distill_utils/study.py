"""A study: a TOML file and overrides enter, checked settings and the paths of its artefacts leave.

The code never asks which study it is running; whatever differs between studies is a setting here.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import operator
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from distill_utils.docstrings import DocstringFilters
from distill_utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
STUDIES = Path(__file__).parent / "studies"
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,99}")
SHAPE = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")
#: Seeds are below this: what NumPy takes.
SEEDS = 2**32


@dataclass(frozen=True)
class Method:
    """What a method of making a student does; all of them share the study's settings."""

    what: str
    trained: bool = True
    #: Its weights are random instead of the teacher's.
    random: bool = False
    #: Its loss has the soft part, and the hidden states' part.
    soft: bool = False
    hidden: bool = False
    #: Its soft part is the generalized Jensen–Shannon divergence.
    interpolated: bool = False
    #: Its targets are the teacher's summaries.
    pseudo_labels: bool = False


METHODS = {
    "copy": Method("layers copied from the teacher, not trained", trained=False),
    "scratch": Method("the same shape with random weights, hard loss", random=True),
    "sft": Method("shrink and fine-tune: hard loss"),
    "kd": Method("hard and soft loss", soft=True),
    "pl": Method(
        "hard loss; the teacher's own summaries (pseudo-labels) take the place of references", pseudo_labels=True
    ),
    "kd-pl": Method("hard and soft loss; pseudo-labels as in pl", soft=True, pseudo_labels=True),
    "hidden": Method("kd and the hidden states' part", soft=True, hidden=True),
    "jsd": Method("kd with a Jensen–Shannon divergence", soft=True, interpolated=True),
}


@dataclass(frozen=True)
class CorpusSettings:
    """Where the pairs come from and how much of each is read."""

    #: A JSONL, CSV or Parquet file, a folder of such files, or a dataset's id on the Hub (owner/name);
    #: empty means the docstrings of installed packages.
    path: str = ""
    #: For a dataset that has several configurations: which.
    configuration: str = ""
    #: For a dataset on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: The columns that hold the two sides of a pair.
    document: str = "document"
    summary: str = "summary"
    #: Packages to take docstrings from; none means all that requirements.lock pins.
    packages: tuple[str, ...] = ()
    #: At most this many pairs per split, drawn by a hash; 0 means all.
    max_train: int = 0
    max_validation: int = 0
    max_test: int = 0
    max_source_tokens: int = 128
    max_target_tokens: int = 48
    filters: DocstringFilters = field(default_factory=DocstringFilters)


@dataclass(frozen=True)
class PhaseSettings:
    """One phase of teacher training: the learning rate rises, stays, and falls to 0 over the last steps."""

    steps: int = 1000
    #: Pairs per forward pass, over all processes; an optimizer step sees this times the accumulation.
    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_steps: int = 200
    #: A checkpoint (and a validation, where there is one) every so many steps.
    evaluation_steps: int = 250


@dataclass(frozen=True)
class GenerationSettings:
    """How summaries are written; every system of a study uses the same.

    What is left out is the teacher's: the values in its checkpoint's generation config.
    """

    num_beams: int | None = None
    min_new_tokens: int | None = None
    max_new_tokens: int | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    early_stopping: bool | None = None
    batch_size: int = 64

    def arguments(self) -> dict[str, float]:
        """What ``generate`` is called with: the settings that are not left to the checkpoint."""
        settings = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        del settings["batch_size"]
        return settings


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher's checkpoint and, for ``distill teacher``, how to train it."""

    #: Where the checkpoint is: the first of these that is a folder with one, or else the last, which may
    #: be an id on the Hub (owner/name). Folders are relative to the repository, and ``distill teacher``
    #: writes to the first. None at all means random weights.
    path: tuple[str, ...] = ()
    #: For a teacher on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: For random weights: folder of BART's tokenizer; empty means one trained on the corpus.
    tokenizer: str = ""
    #: What ``distill teacher`` starts from: folder or id of a checkpoint; empty means random weights and
    #: denoising first.
    base: str = ""
    encoder_layers: int = 6
    decoder_layers: int = 6
    d_model: int = 256
    attention_heads: int = 4
    vocabulary: int = 8000
    #: Of a model with random weights; 0 means as many as the study's texts need.
    positions: int = 0
    denoising_window: int = 64
    weight_decay: float = 0.01
    average_checkpoints: int = 1
    denoising: PhaseSettings = field(default_factory=PhaseSettings)
    finetuning: PhaseSettings = field(default_factory=PhaseSettings)
    #: What ``distill teacher`` writes into the generation config of a teacher that it fine-tunes from ``base``.
    generation: GenerationSettings = field(default_factory=GenerationSettings)


@dataclass(frozen=True)
class DistillationSettings:
    """How students are trained; all methods of a study share all of it but the loss."""

    #: The student's shape, E-D, whose layers are copied from the teacher; or a ready student: a
    #: checkpoint's folder or id on the Hub.
    student: str = "6-3"
    methods: tuple[str, ...] = ("copy", "sft", "kd")
    alpha: float = 0.5
    temperature: float = 2.0
    #: Weight of the hidden states' part, of the method ``hidden`` alone; it is a mean over layers (DistilBART's 3 is for a sum).
    beta: float = 3.0
    #: λ of the divergence of the method ``jsd``: near 0 the KL divergence from the teacher, near 1 that from the student.
    interpolation: float = 0.5
    #: The part of the training pairs whose summaries the methods ``pl`` and ``kd-pl`` replace; the others keep their references.
    pseudo_label_share: float = 1.0
    #: Beams that pseudo-labels are searched with; 0: as many as all summaries.
    pseudo_label_beams: int = 0
    #: Train on so many of the training pairs, drawn by a hash; 0: on all.
    max_pairs: int = 0
    steps: int = 1000
    #: Pairs per forward pass, over all processes; an optimizer step sees this times the accumulation.
    batch_size: int = 32
    #: Most tokens of a forward pass, over all processes, source and target with their padding; batches of short pairs
    #: then hold more of them, up to ``batch_size``. 0: no such bound.
    batch_tokens: int = 0
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    #: Encoder and embeddings are not trained; only where the student keeps the whole encoder.
    freeze_encoder: bool = True
    #: Validation examples that are summarized, and how many times in a training; 0: none.
    validation_examples: int = 200
    validations: int = 5
    validation_beams: int = 1
    #: Autocast to bfloat16 where the hardware multiplies it.
    bf16: bool = True
    #: Compute activations again in the backward pass instead of keeping them: less memory, more time.
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    #: ``states``: the teacher's last decoder states for the training pairs are computed once and kept on disk, which pays
    #: where they are used more than once: two bytes × width a token. Empty: the teacher runs in every step.
    cache_teacher: str = ""
    #: The frozen encoder's outputs are computed once and kept on disk: two bytes × width × source tokens.
    cache_encoder: bool = False


#: What a summarizer runs in besides ``pytorch-fp32``: a library and the precision of its weights.
RUNTIMES = ("pytorch-bf16", "ctranslate2-float32", "ctranslate2-float16", "ctranslate2-int8")


@dataclass(frozen=True)
class SpeedSettings:
    """How speed is measured."""

    documents: int = 32
    repeats: int = 5
    batch_size: int = 32
    #: What the teacher and the best student of the main comparison also run in (:data:`RUNTIMES`); none: nothing of what follows. They are
    #: timed with summaries of ``tokens`` tokens, too, over these beams and batch sizes.
    runtimes: tuple[str, ...] = ()
    tokens: int = 16
    beams: tuple[int, ...] = (1, 2, 4, 6)
    batch_sizes: tuple[int, ...] = (8,)


@dataclass(frozen=True)
class EvidenceSettings:
    """Further students, to tell luck from difference and to see what size, α, T and data do; without any of these, none."""

    #: The methods are trained with so many seeds, from the study's on.
    seeds: int = 1
    #: Shapes other than the study's, and the method that trains them.
    shapes: tuple[str, ...] = ()
    shapes_method: str = "kd"
    #: α × T of the method ``kd``, over fewer steps.
    alphas: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    sweep_steps: int = 100
    #: How much data it takes: training pairs, and the methods that are given so few.
    pairs: tuple[int, ...] = ()
    pairs_methods: tuple[str, ...] = ()
    #: A training longer than is comfortable, on all pairs and with one seed: methods, and shapes beside the study's own.
    longer_steps: int = 0
    longer_methods: tuple[str, ...] = ()
    longer_shapes: tuple[str, ...] = ()
    #: What writes the summaries that are scored: ``pytorch-fp32``, or ``ctranslate2-float32``, which writes the same ones but for
    #: ties in the last digits (every evaluation compares some). Speeds are PyTorch's all the same.
    runtime: str = "pytorch-fp32"
    #: Test pairs that the students of these groups summarize (the sweep's greedily, from the validation split).
    examples: int = 1000


@dataclass(frozen=True)
class Study:
    """All settings of one study and where its artefacts lie.

    Made by :func:`load_study`, never by hand.
    """

    #: Of the folders that hold its artefacts: the study's own, or another one given to a run (``--set name=…``).
    name: str
    #: Of its file.
    file: str
    title: str
    seed: int = 0
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    speed: SpeedSettings = field(default_factory=SpeedSettings)
    evidence: EvidenceSettings = field(default_factory=EvidenceSettings)
    #: What sets a student's folder apart whose settings are not the study's (see ``plan``).
    variant: str = ""

    @property
    def folder(self) -> Path:
        """``runs/<study>``: everything a run makes."""
        return ROOT / "runs" / self.name

    @property
    def hub_record(self) -> Path:
        """Which commits of the Hub's repositories this run uses."""
        return self.folder / "hub.json"

    @property
    def corpus_folder(self) -> Path:
        return self.folder / "corpus"

    @property
    def evaluations_folder(self) -> Path:
        return self.folder / "evaluations"

    @property
    def notebooks_folder(self) -> Path:
        return self.folder / "notebooks"

    @property
    def results_file(self) -> Path:
        return self.folder / "results.json"

    @property
    def figures_folder(self) -> Path:
        return ROOT / "figures" / self.name

    def student_folder(self, student: str, method: str, seed: int) -> Path:
        name = f"{student_label(student)}-{method}-{seed}"
        return self.folder / "students" / (f"{name}-{self.variant}" if self.variant else name)

    def settings(self) -> dict:
        """All settings as plain data."""
        settings = json.loads(json.dumps(dataclasses.asdict(self)))
        del settings["variant"]
        return settings


def located(path: str | Path) -> Path:
    """A path of a study file, which is relative to the repository unless it is absolute."""
    return ROOT / path


def is_shape(student: str) -> bool:
    """Whether a student is named by its shape (``12-6``), not by a ready checkpoint."""
    return bool(SHAPE.fullmatch(student))


def student_label(student: str) -> str:
    """A student's name in tables and folders: its shape, or the last part of its checkpoint's name."""
    return student if is_shape(student) else re.sub(r"[^A-Za-z0-9._-]", "_", Path(student).name)


def parse_shape(text: str) -> tuple[int, int]:
    """``"12-6"`` → ``(12, 6)``: encoder and decoder layers.

    Raises:
        UserError: not of that form, or a count of 0.
    """
    match = SHAPE.fullmatch(text)
    if not match or not all(layers := (int(match[1]), int(match[2]))):
        raise UserError(f"a student's shape is written E-D, such as 12-6 (encoder and decoder layers), not {text!r}")
    return layers


def fingerprint(*parts: object) -> str:
    """A short hash of plain data, for telling whether something was made from the same things."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def code_fingerprint(*modules: str) -> str:
    """A hash of the named modules' sources (of all of them by default): what other code made is not reused."""
    folder = Path(__file__).parent
    names = modules or sorted(path.stem for path in folder.glob("*.py"))
    return fingerprint(*[(name, (folder / f"{name}.py").read_text("utf-8")) for name in names])


# -- reading and checking ------------------------------------------------------------------------------


def study_names() -> list[str]:
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def study_titles() -> dict[str, str]:
    """Name → what it is, or what is wrong with its file."""
    titles = {}
    for name in study_names():
        try:
            titles[name] = str(_read(name).get("title", "without a title"))
        except UserError as error:  # the other studies are as good as before
            titles[name] = str(error)
    return titles


def load_study(name: str, overrides: Mapping[str, object] | None = None) -> Study:
    """Read ``studies/<name>.toml`` (over the study that its ``like`` names), apply overrides such as ``{"distillation.temperature": 4}``, check.

    The override ``name`` gives a run folders of its own under ``runs/`` and ``figures/``.

    Raises:
        UserError: an unknown study or key, a value of the wrong type or outside its range.
    """
    if name not in study_names():
        raise UserError(f"there is no study {name!r}; the studies are: {', '.join(study_names())}")
    data = _read(name)
    for dotted, value in (overrides or {}).items():
        *sections, key = dotted.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"unknown setting {dotted!r}: {section!r} is a value, not a section")
        target[key] = value
    if "corpus.path" in (overrides or {}) and "title" not in overrides:
        data["title"] = f"{Path(str(overrides['corpus.path'])).name}, with the settings of {name}"
    if "file" in data:
        raise UserError("unknown setting 'file': a study is named by its file")
    if "variant" in data:
        raise UserError("unknown setting 'variant': variants are made by [evidence]")
    study = _build(Study, {"name": name, "file": name, **data}, "")
    if not NAME.fullmatch(study.name) or (study.name != name and study.name in study_names()):
        raise UserError(
            f"setting 'name' names a run's folders: at most 100 small letters, digits and _, and no other study's name, not {study.name!r}"
        )
    _check_ranges(study)
    return study


def _read(name: str, above: tuple[str, ...] = ()) -> dict:
    """A study's file over the study that it is like; ``above`` are the studies that are like this one."""
    file = STUDIES / f"{name}.toml"
    try:
        data = tomllib.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not UTF-8 text; save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{file} is not TOML: {error}") from None
    if "like" not in data:
        return data
    like = data.pop("like")
    if like in (name, *above):
        raise UserError(f"{file} is like {like!r}, which leads back to itself; take 'like' out of one of them")
    if like not in study_names():
        raise UserError(f"{file} is like {like!r}, and there is no such study; there are: {', '.join(study_names())}")
    return _merged(_read(like, (name, *above)), data)


def _merged(base: Mapping, own: Mapping) -> dict:
    return {
        **base,
        **{
            k: _merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
            for k, v in own.items()
        },
    }


def parse_override(text: str) -> tuple[str, object]:
    """``key=value`` from the command line; the value is TOML, or else a plain string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UserError(f"--set takes key=value, such as distillation.temperature=4, not {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key.strip(), value


def _build(cls: type, data: Mapping, prefix: str):
    """A settings dataclass from plain data, every key known and every type right."""
    types_ = typing.get_type_hints(cls)
    for key in data:
        if key not in types_:
            close = difflib.get_close_matches(key, types_, n=1)
            hint = f"; did you mean {prefix + close[0]!r}?" if close else f"; there are: {', '.join(types_)}"
            raise UserError(f"unknown setting {prefix + key!r}{hint}")
    values = {key: _convert(types_[key], value, prefix + key) for key, value in data.items()}
    missing = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory and f.name not in values]
    if missing:
        raise UserError(f"setting {prefix + missing[0]!r} is missing")
    return cls(**values)


def _convert(kind: type, value: object, name: str):
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"setting {name!r} is a section of settings, not {value!r}")
        return _build(kind, value, name + ".")
    if isinstance(kind, types.UnionType):  # X | None: TOML cannot say None, it leaves the setting out
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        return None if value is None else _convert(kind, value, name)
    if typing.get_origin(kind) is tuple:
        (item, _), words = typing.get_args(kind), {str: "strings", int: "whole numbers", float: "numbers"}
        value = [value] if isinstance(value, str) else value
        try:
            return tuple(_convert(item, v, name) for v in value)
        except (TypeError, UserError):
            raise UserError(f"setting {name!r} takes a list of {words[item]}, not {value!r}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}[kind]
        raise UserError(f"setting {name!r} takes {wanted}, not {value!r}")
    return value


def _check_ranges(study: Study) -> None:
    d = study.distillation

    def require(holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise UserError(f"setting {key!r} {rule}, not {operator.attrgetter(key)(study)!r}")

    require(study.seed < SEEDS, "seed", f"must be below {SEEDS}")
    require(
        not re.search(r"[/\\\0]|^\.*$", study.corpus.configuration or "x"), "corpus.configuration", "is a name, no path"
    )
    require(study.corpus.document != study.corpus.summary, "corpus.summary", "must be another column than the document")
    require(0 <= d.alpha <= 1, "distillation.alpha", "must lie in [0, 1]")
    require(0 < d.temperature < float("inf"), "distillation.temperature", "must be above 0")
    require(0 < d.beta < float("inf"), "distillation.beta", "must be above 0")
    require(d.learning_rate > 0, "distillation.learning_rate", "must be above 0")
    require(1e-3 <= d.interpolation <= 1, "distillation.interpolation", "must lie in [0.001, 1]")
    require(0 < d.pseudo_label_share <= 1, "distillation.pseudo_label_share", "must lie in (0, 1]")
    for key in ("distillation.methods", "evidence.pairs_methods", "evidence.longer_methods"):
        require(set(operator.attrgetter(key)(study)) <= set(METHODS), key, f"takes methods from {', '.join(METHODS)}")
    e = study.evidence
    trained = [name for name, method in METHODS.items() if method.trained]
    known = f"takes {', '.join(RUNTIMES)}"
    require(set(study.speed.runtimes) <= set(RUNTIMES), "speed.runtimes", known)
    for key in ("speed.beams", "speed.batch_sizes"):
        require(all(n >= 1 for n in operator.attrgetter(key)(study)), key, "takes whole numbers from 1")
    writers = ("pytorch-fp32", "ctranslate2-float32")
    require(e.runtime in writers, "evidence.runtime", f"is one of {', '.join(writers)}")
    both = "goes with no speed.runtimes: what they change is told by PyTorch's own summaries"
    require(e.runtime == "pytorch-fp32" or not study.speed.runtimes, "evidence.runtime", both)
    require(e.shapes_method in trained, "evidence.shapes_method", f"is one of {', '.join(trained)}")
    for key in ("evidence.pairs_methods", "evidence.longer_methods"):
        require(set(operator.attrgetter(key)(study)) <= set(trained), key, "takes methods that train")
    require(all(0 <= a <= 1 for a in e.alphas), "evidence.alphas", "must lie in [0, 1]")
    require(all(0 < t < float("inf") for t in e.temperatures), "evidence.temperatures", "must be above 0")
    require(all(p > 0 for p in e.pairs), "evidence.pairs", "must be at least 1")
    for key in ("evidence.shapes", "evidence.longer_shapes"):
        shapes = operator.attrgetter(key)(study)
        require(d.student not in shapes, key, "are shapes other than distillation.student")
        for shape in shapes:
            parse_shape(shape)
    for key in ("distillation.methods", *(f"evidence.{f.name}" for f in dataclasses.fields(e))):
        values = operator.attrgetter(key)(study)
        require(not isinstance(values, tuple) or len(set(values)) == len(values), key, "must not name anything twice")
    for one, other in (("alphas", "temperatures"), ("pairs", "pairs_methods"), ("longer_steps", "longer_methods")):
        given = [bool(getattr(e, name)) for name in (one, other)]
        require(
            given[0] == given[1],
            f"evidence.{one if given[0] else other}",
            f"goes with evidence.{other if given[0] else one}",
        )
    require(d.cache_teacher in ("", "states"), "distillation.cache_teacher", "takes states or nothing")
    require(bool(d.methods), "distillation.methods", "needs at least one method")
    require(
        0 < study.corpus.filters.near_duplicate_jaccard <= 1,
        "corpus.filters.near_duplicate_jaccard",
        "must lie in (0, 1]",
    )
    at_least_one = [
        "corpus.max_source_tokens",
        "corpus.max_target_tokens",
        "corpus.filters.max_pairs_per_summary",
        "teacher.encoder_layers",
        "teacher.decoder_layers",
        "teacher.d_model",
        "teacher.attention_heads",
        "teacher.vocabulary",
        "teacher.denoising_window",
        "teacher.average_checkpoints",
        "teacher.denoising.steps",
        "teacher.denoising.batch_size",
        "teacher.denoising.evaluation_steps",
        "teacher.denoising.gradient_accumulation_steps",
        "teacher.finetuning.gradient_accumulation_steps",
        "teacher.finetuning.steps",
        "teacher.finetuning.batch_size",
        "teacher.finetuning.evaluation_steps",
        "distillation.steps",
        "distillation.batch_size",
        "distillation.gradient_accumulation_steps",
        "distillation.validation_examples",
        "distillation.validation_beams",
        "evidence.seeds",
        "evidence.sweep_steps",
        "evidence.examples",
        "speed.documents",
        "speed.repeats",
        "speed.batch_size",
        "speed.tokens",
    ]
    generation = ("num_beams", "max_new_tokens", "batch_size")
    at_least_one += [f"{section}.{key}" for section in ("generation", "teacher.generation") for key in generation]
    at_least_zero = [
        "seed",
        "corpus.max_train",
        "corpus.max_validation",
        "corpus.max_test",
        "teacher.positions",
        "distillation.warmup_steps",
        "distillation.batch_tokens",
        "distillation.validations",
        "distillation.max_pairs",
        "distillation.pseudo_label_beams",
        "evidence.longer_steps",
        "teacher.denoising.warmup_steps",
        "teacher.denoising.decay_steps",
        "teacher.finetuning.warmup_steps",
        "teacher.finetuning.decay_steps",
    ]
    generation = ("min_new_tokens", "no_repeat_ngram_size")
    at_least_zero += [f"{section}.{key}" for section in ("generation", "teacher.generation") for key in generation]
    for lowest, keys, rule in ((1, at_least_one, "must be at least 1"), (0, at_least_zero, "must not be negative")):
        for key in keys:
            value = operator.attrgetter(key)(study)
            require(value is None or value >= lowest, key, rule)
    for section, g in (("generation", study.generation), ("teacher.generation", study.teacher.generation)):
        if g.min_new_tokens and g.max_new_tokens:
            shortest = f"{section}.min_new_tokens"
            require(g.min_new_tokens <= g.max_new_tokens, shortest, f"must not pass {g.max_new_tokens}, the most")
    heads = study.teacher.attention_heads
    require(study.teacher.d_model % heads == 0, "teacher.d_model", f"must be a multiple of the {heads} attention heads")
    if not d.student or ("/" not in d.student and not Path(d.student).is_dir()):
        parse_shape(d.student)
    for pattern in study.corpus.filters.boilerplate:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"corpus.filters.boilerplate has {pattern!r}, which is no regular expression: {error}"
            ) from None
