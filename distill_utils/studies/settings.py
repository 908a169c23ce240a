"""Define every setting of a study with its bounds, default and reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill_utils.system.errors import UserError
from distill_utils.system.paths import home

SHAPE = re.compile(r"([1-9][0-9]{0,3})-([1-9][0-9]{0,3})(?:-([1-9][0-9]{0,4}))?")
SHAPE_FORM = "is written E-D, such as 12-6 (encoder and decoder layers), or E-D-F (and units of a feed-forward layer)"
#: Greater exponents of a summary's length overflow float32.
MOST_LENGTH_PENALTY = 10
#: Seeds are below NumPy's limit.
SEEDS = 2**32


@dataclass(frozen=True)
class Method:
    """How a student is created and trained; all methods share the study's settings."""

    what: str
    trained: bool = True
    #: The student starts from random weights instead of the teacher's.
    random: bool = False
    #: The loss includes the soft loss; the hidden-state loss.
    soft: bool = False
    hidden: bool = False
    #: The soft loss is the generalized Jensen–Shannon divergence.
    interpolated: bool = False
    #: The targets are the teacher's summaries.
    pseudo_labels: bool = False
    #: The first half of the steps is another method's; then the student writes the targets of some batches itself.
    on_policy: bool = False

    @property
    def takes_cached_teacher(self) -> bool:
        """Whether the teacher cache, which has states at the references' tokens, may serve the method."""
        return self.soft and not self.pseudo_labels and not self.on_policy


METHODS = {
    "copy": Method("layers copied from the teacher, not trained", trained=False),
    "scratch": Method("the same shape with random weights, hard loss", random=True),
    "sft": Method("shrink and fine-tune: hard loss"),
    "kd": Method("hard and soft loss", soft=True),
    "pl": Method("hard loss; the teacher's summaries (pseudo-labels) replace references", pseudo_labels=True),
    "kd-pl": Method("hard and soft loss; pseudo-labels as in pl", soft=True, pseudo_labels=True),
    "hidden": Method("kd and the hidden-state loss", soft=True, hidden=True),
    "jsd": Method("kd with a Jensen–Shannon divergence", soft=True, interpolated=True),
    "gkd": Method(
        "jsd on summaries that the student writes itself, after half of the steps as start",
        soft=True,
        interpolated=True,
        on_policy=True,
    ),
}
#: Methods of the first half of the steps of ``gkd``.
STARTS = tuple(name for name, m in METHODS.items() if m.trained and not (m.random or m.on_policy))
TRAINED = tuple(name for name, method in METHODS.items() if method.trained)
#: Inference backends besides ``pytorch-fp32``: a library and the precision of its weights.
RUNTIMES = ("pytorch-bf16", "ctranslate2-float32", "ctranslate2-float16", "ctranslate2-int8")


def _as_tuple(value: object) -> object:
    """Convert a list to a tuple, and a string to a tuple of one."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def _unique(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("should not contain duplicates")
    return values


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from None
    return text


def _no_path(name: str) -> str:
    if name and re.search(r"[/\\\0]|^\.*$", name):
        raise ValueError("should be a name, not a path")
    return name


T = TypeVar("T")
List = Annotated[tuple[T, ...], BeforeValidator(_as_tuple), AfterValidator(_unique)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Shape = Annotated[str, Field(pattern=f"^{SHAPE.pattern}$")]


class Settings(BaseModel):
    """A section of settings; unknown keys and implicit type conversions are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DocstringFilters(Settings):
    """Which docstrings become pairs; ``docstrings.toml`` gives the reason for each value."""

    min_summary_words: NonNegativeInt = 3
    max_summary_words: PositiveInt = 40
    min_details_words: NonNegativeInt = 10
    max_details_words: PositiveInt = 1000
    boilerplate: List[Annotated[str, AfterValidator(_pattern)]] = ()
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1)
    max_pairs_per_summary: PositiveInt = 5


class CorpusSettings(Settings):
    """The source of the pairs, and how many pairs and tokens are used."""

    #: A JSON, CSV or Parquet file, a folder of such files, or a dataset's id on the Hub (owner/name);
    #: empty means the docstrings of installed packages.
    path: str = ""
    #: The configuration of a dataset that has several.
    configuration: Annotated[str, AfterValidator(_no_path)] = ""
    #: For a dataset on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: The columns of a pair's two sides.
    document: str = "document"
    summary: str = "summary"
    #: Keep a document's line breaks, as dialogues with one turn a line need; else it becomes one line.
    line_breaks: bool = False
    #: What precedes every document; T5 was trained with "summarize: ".
    prefix: str = ""
    #: Keep training documents without a summary; the method ``gkd`` with λ = 1 trains on them, too.
    unlabelled: bool = False
    #: Installed packages to take docstrings from; empty means those that ``docstrings/packages.toml`` lists.
    packages: List[str] = ()
    #: At most this many pairs per split, drawn by a hash; 0 means all.
    max_train: NonNegativeInt = 0
    max_validation: NonNegativeInt = 0
    max_test: NonNegativeInt = 0
    max_source_tokens: PositiveInt = 128
    max_target_tokens: PositiveInt = 48
    filters: DocstringFilters = DocstringFilters()


class PhaseSettings(Settings):
    """One phase of teacher training; the learning rate is warmed up, constant, then decayed to 0."""

    steps: PositiveInt = 1000
    #: Pairs per forward pass, over all processes; an optimizer step uses this times the accumulation.
    batch_size: PositiveInt = 64
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 100
    decay_steps: NonNegativeInt = 200
    #: Steps between checkpoints, and between validations if the phase has them.
    evaluation_steps: PositiveInt = 250


class GenerationSettings(Settings):
    """How all systems of a study generate; omitted settings come from the teacher's generation config."""

    num_beams: PositiveInt | None = None
    min_new_tokens: NonNegativeInt | None = None
    max_new_tokens: PositiveInt | None = None
    length_penalty: Annotated[float, Field(ge=-MOST_LENGTH_PENALTY, le=MOST_LENGTH_PENALTY)] | None = None
    no_repeat_ngram_size: NonNegativeInt | None = None
    early_stopping: bool | None = None
    batch_size: PositiveInt = 64

    def arguments(self) -> dict[str, float]:
        """Return the arguments of ``generate`` that are set."""
        return self.model_dump(exclude={"batch_size"}, exclude_none=True)


class TeacherSettings(Settings):
    """The teacher's checkpoint and, for ``distill teacher``, how to train it."""

    #: The first of these folders that contains a checkpoint, or else the last entry, which may be an id
    #: on the Hub (owner/name). Folders are relative to the workspace, or else to the clone; ``distill
    #: teacher`` writes to the first. Empty means random weights.
    path: List[str] = ()
    #: For a teacher on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: For random weights: folder of BART's tokenizer; empty means one trained on the corpus.
    tokenizer: str = ""
    #: For ``distill teacher``: folder or id of the checkpoint to fine-tune; empty means random weights
    #: and a denoising phase first.
    base: str = ""
    encoder_layers: PositiveInt = 6
    decoder_layers: PositiveInt = 6
    d_model: PositiveInt = 256
    attention_heads: PositiveInt = 4
    vocabulary: PositiveInt = 8000
    #: Positions of a model with random weights; 0 means as many as the study's lengths need.
    positions: NonNegativeInt = 0
    #: Train it on the standard library and on further packages, too, which ``distill teacher`` fetches.
    fetch_text: bool = False
    denoising_window: PositiveInt = 64
    #: Dropout of a model with random weights while it is trained.
    dropout: float = Field(0.0, ge=0, lt=1)
    weight_decay: NonNegativeFloat = 0.01
    average_checkpoints: PositiveInt = 1
    denoising: PhaseSettings = PhaseSettings()
    finetuning: PhaseSettings = PhaseSettings()
    #: The generation config that ``distill teacher`` saves with a teacher fine-tuned from ``base``.
    generation: GenerationSettings = GenerationSettings()


class DistillationSettings(Settings):
    """How students are trained; the methods of a study differ only in the loss."""

    #: The student's shape, with layers copied from the teacher: E-D, or E-D-F to keep F units of every feed-forward
    #: layer. Or the folder or id on the Hub of a pretrained student checkpoint.
    student: str = "6-3"
    methods: List[Literal[*METHODS]] = Field(("copy", "sft", "kd"), min_length=1)
    alpha: Fraction = 0.5
    temperature: PositiveFloat = 2.0
    #: Weight of the hidden-state loss of the method ``hidden``, a mean over layers (DistilBART's 3 is for
    #: a sum).
    beta: PositiveFloat = 3.0
    #: The divergence of the methods ``jsd`` and ``gkd`` is near KL(teacher ‖ student) at 0 and near KL(student ‖ teacher) at 1.
    #: Up to the scale it is that of Agarwal et al. 2024 (arXiv 2306.13649) for their β, whose best value on XSum is 0.9.
    interpolation: float = Field(0.5, ge=1e-3, le=1)
    #: Of the method ``gkd``: the method of the first half of its steps, unless the student is pretrained; then the share λ of
    #: the batches whose targets the student samples, and at which temperature. Other batches have references, as in ``jsd``.
    start: Literal[*STARTS] = "sft"
    lmbda: Fraction = 1.0
    sampling_temperature: PositiveFloat = 1.0
    #: Fraction of the training pairs with pseudo-labels in the methods ``pl`` and ``kd-pl``; the others
    #: keep their references.
    pseudo_label_share: float = Field(1.0, gt=0, le=1)
    #: Beams for generating pseudo-labels; 0 means as many as for all summaries.
    pseudo_label_beams: NonNegativeInt = 0
    #: A pseudo-label with less ROUGE-L against its reference, in points, is dropped; the reference stays.
    pseudo_label_rouge: float = Field(0.0, ge=0, le=100)
    #: The teacher's attention scores are divided by this factor while it writes pseudo-labels (PLATE); by random ones
    #: between two factors. 1 is the teacher's own.
    pseudo_label_attention: List[Annotated[float, Field(ge=0.1, le=10)]] = Field((1.0,), min_length=1, max_length=2)
    #: Number of training pairs, drawn by a hash; 0 means all.
    max_pairs: NonNegativeInt = 0
    steps: PositiveInt = 1000
    #: Pairs per forward pass, over all processes; an optimizer step uses this times the accumulation.
    batch_size: PositiveInt = 32
    #: Maximum tokens per forward pass, over all processes, of source and target with padding; batches of
    #: short pairs contain more pairs, up to ``batch_size``. 0 means no limit.
    batch_tokens: NonNegativeInt = 0
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    #: Learning rates of single methods, so that each has its own best; of the others: ``learning_rate``.
    learning_rates: dict[Literal[*TRAINED], PositiveFloat] = Field(default_factory=dict)
    warmup_steps: NonNegativeInt = 50
    #: Do not train encoder and embeddings; applies only if the student keeps all layers and units of the encoder.
    freeze_encoder: bool = True
    #: Validation examples that are summarized, and how often during a training.
    validation_examples: PositiveInt = 200
    validations: NonNegativeInt = 5
    validation_beams: PositiveInt = 1
    #: Of the matrix products. ``auto``: bf16 where the hardware has it, else fp16 on a CUDA GPU, else fp32.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    #: Where the GPU's memory does not hold a batch, compute it in parts: the same training, but for the masks of dropout.
    auto_batch_size: bool = False
    #: Recompute activations in the backward pass: less memory, more time.
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    #: ``states`` caches the teacher's decoder states of the training pairs on disk (2 bytes × width per
    #: target token and layer: the last one, for the method ``hidden`` all that it compares), which pays
    #: off if they are used more than once. Empty: the teacher runs in every step.
    cache_teacher: Literal["", "states"] = ""
    #: Cache the frozen encoder's outputs on disk (2 bytes × width per source token).
    cache_encoder: bool = False


class SpeedSettings(Settings):
    """How speed is measured."""

    documents: PositiveInt = 32
    repeats: PositiveInt = 5
    batch_size: PositiveInt = 32
    #: Inference backends for the teacher and the best student of the main comparison. They are also timed
    #: with summaries of ``tokens`` tokens.
    runtimes: List[Literal[*RUNTIMES]] = ()
    tokens: PositiveInt = 16
    #: Beams and batch sizes to time besides the study's own; with 1 beam, all systems are also timed greedily.
    beams: List[PositiveInt] = ()
    batch_sizes: List[PositiveInt] = ()


class EvidenceSettings(Settings):
    """Ablations: seeds, shapes, α × T sweep, training-set size, budgets of steps; each only if set."""

    #: Number of seeds of each method, counting up from the study's seed.
    seeds: PositiveInt = 1
    #: Shapes other than the study's, and the method that trains them.
    shapes: List[Shape] = ()
    shapes_method: Literal[*TRAINED] = "kd"
    #: α × T sweep of the method ``kd``, with ``sweep_steps`` steps.
    alphas: List[Fraction] = ()
    temperatures: List[PositiveFloat] = ()
    sweep_steps: PositiveInt = 100
    #: Training-set sizes, and the methods that are trained with them.
    pairs: List[PositiveInt] = ()
    pairs_methods: List[Literal[*TRAINED]] = ()
    #: Budgets: the numbers of optimizer steps that each method is trained with on all pairs, and the number of seeds.
    budgets: dict[Literal[*TRAINED], List[PositiveInt]] = Field(default_factory=dict)
    budget_seeds: PositiveInt = 1
    #: The backend that generates the scored summaries. ``ctranslate2-float32`` generates the same ones as
    #: ``pytorch-fp32`` except for ties in the last digits (every evaluation compares some). Speed is
    #: always PyTorch's.
    runtime: Literal["pytorch-fp32", "ctranslate2-float32"] = "pytorch-fp32"
    #: Test pairs that the ablations summarize (the sweep: validation pairs, greedily).
    examples: PositiveInt = 1000


class Study(Settings):
    """All settings of a study and the paths of its outputs; created by :func:`load_study`."""

    #: The name of the output folders: the study's own, or a run's (``--set name=…``).
    name: str
    #: The argument of commands: the name of a shipped study, or the absolute path of the user's own file.
    file: str
    title: str
    seed: int = Field(0, ge=0, lt=SEEDS)
    corpus: CorpusSettings = CorpusSettings()
    teacher: TeacherSettings = TeacherSettings()
    distillation: DistillationSettings = DistillationSettings()
    generation: GenerationSettings = GenerationSettings()
    speed: SpeedSettings = SpeedSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    #: Experiment trackers that trainings and results are logged to.
    report_to: List[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field((), exclude=True)
    #: Suffix of a student's folder if its settings are not the study's (see ``plan``).
    variant: str = Field("", exclude=True)

    @model_validator(mode="after")
    def _check_together(self) -> Study:
        """Check rules that span several settings."""

        def require(holds: object, key: str, rule: str) -> None:
            if not holds:
                raise UserError(f"setting {key!r} {rule}")

        e, t, student = self.evidence, self.teacher, self.distillation.student
        c, d = self.corpus, self.distillation
        halves = "should be at least 2, half of them for the student that gkd starts from"
        require("gkd" not in d.methods or d.steps > 1, "distillation.steps", halves)
        needs = "requires distillation.lmbda = 1: the student writes the targets of documents without a summary"
        require(not c.unlabelled or d.lmbda == 1, "corpus.unlabelled", needs)
        require(not c.unlabelled or c.path, "corpus.unlabelled", "requires corpus.path: every docstring has a summary")
        require(c.document != c.summary, "corpus.summary", "should be another column than the document")
        heads = f"should be a multiple of the {t.attention_heads} attention heads, not {t.d_model}"
        require(t.d_model % t.attention_heads == 0, "teacher.d_model", heads)
        for section, g in (("generation", self.generation), ("teacher.generation", t.generation)):
            if g.min_new_tokens and g.max_new_tokens:
                most = f"should be at most max_new_tokens, {g.max_new_tokens}, not {g.min_new_tokens}"
                require(g.min_new_tokens <= g.max_new_tokens, f"{section}.min_new_tokens", most)
        require(1 not in e.budgets.get("gkd", ()), "evidence.budgets.gkd", halves)
        other = f"should be shapes other than distillation.student, {student}"
        require(student not in e.shapes, "evidence.shapes", other)
        for pair in (("alphas", "temperatures"), ("pairs", "pairs_methods")):
            given, other = sorted(pair, key=lambda key: not getattr(e, key))
            require(not getattr(e, given) or getattr(e, other), f"evidence.{given}", f"requires evidence.{other}")
        return self

    @property
    def folder(self) -> Path:
        """``runs/<study>``: all outputs of a run."""
        return home() / "runs" / self.name

    @property
    def hub_record(self) -> Path:
        """The record of the commits fetched from the Hub."""
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
        return home() / "figures" / self.name

    def student_folder(self, student: str, method: str, seed: int) -> Path:
        name = f"{student_label(student)}-{method}-{seed}"
        return self.folder / "students" / (f"{name}-{self.variant}" if self.variant else name)

    def settings(self) -> dict:
        """Return all settings as plain data."""
        return self.model_dump(mode="json")


def is_shape(student: str) -> bool:
    """Return whether a student is given by its shape (``12-6``, ``12-6-1024``), not by a pretrained checkpoint."""
    return bool(SHAPE.fullmatch(student))


def student_label(student: str) -> str:
    """Return a student's name in tables and folders: its shape, or the last part of its checkpoint's name."""
    return student if is_shape(student) else re.sub(r"[^A-Za-z0-9._-]", "_", Path(student).name)


def parse_shape(text: str) -> tuple[int, int, int | None]:
    """Parse ``"12-6-1024"`` to ``(12, 6, 1024)``: encoder layers, decoder layers, units of a feed-forward layer.

    ``"12-6"``, which keeps all units, gives ``(12, 6, None)``. Raises UserError if the text is not of that form.
    """
    if not (match := SHAPE.fullmatch(text)):
        raise UserError(f"a student's shape {SHAPE_FORM}, not {text!r}")
    return int(match[1]), int(match[2]), int(match[3]) if match[3] else None
