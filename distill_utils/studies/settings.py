"""Define every setting of a study, with its bounds, its default and the reason for it."""

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

SHAPE = re.compile(r"([1-9][0-9]{0,3})-([1-9][0-9]{0,3})")
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
TRAINED = tuple(name for name, method in METHODS.items() if method.trained)
#: What a summarizer runs in besides ``pytorch-fp32``: a library and the precision of its weights.
RUNTIMES = ("pytorch-bf16", "ctranslate2-float32", "ctranslate2-float16", "ctranslate2-int8")


def _as_tuple(value: object) -> object:
    """TOML has lists where the settings have tuples; a string alone is a list of one."""
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value


def _unique(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("should not name anything twice")
    return values


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"should be a regular expression ({error})") from None
    return text


def _no_path(name: str) -> str:
    if name and re.search(r"[/\\\0]|^\.*$", name):
        raise ValueError("should be a name, no path")
    return name


T = TypeVar("T")
List = Annotated[tuple[T, ...], BeforeValidator(_as_tuple), AfterValidator(_unique)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Shape = Annotated[str, Field(pattern=f"^{SHAPE.pattern}$")]


class Settings(BaseModel):
    """A section: every key is known, and a string is no number, a float no integer, a boolean neither."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DocstringFilters(Settings):
    """Which docstrings become pairs. The reasons stand beside the values in the study file."""

    min_summary_words: NonNegativeInt = 3
    max_summary_words: PositiveInt = 40
    min_details_words: NonNegativeInt = 10
    max_details_words: PositiveInt = 1000
    boilerplate: List[Annotated[str, AfterValidator(_pattern)]] = ()
    near_duplicate_jaccard: float = Field(0.8, gt=0, le=1)
    max_pairs_per_summary: PositiveInt = 5


class CorpusSettings(Settings):
    """Where the pairs come from and how much of each is read."""

    #: A JSONL, CSV or Parquet file, a folder of such files, or a dataset's id on the Hub (owner/name);
    #: empty means the docstrings of installed packages.
    path: str = ""
    #: For a dataset that has several configurations: which.
    configuration: Annotated[str, AfterValidator(_no_path)] = ""
    #: For a dataset on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: The columns that hold the two sides of a pair.
    document: str = "document"
    summary: str = "summary"
    #: Installed packages to take docstrings from; empty means those that ``docstrings_packages.txt`` lists.
    packages: List[str] = ()
    #: At most this many pairs per split, drawn by a hash; 0 means all.
    max_train: NonNegativeInt = 0
    max_validation: NonNegativeInt = 0
    max_test: NonNegativeInt = 0
    max_source_tokens: PositiveInt = 128
    max_target_tokens: PositiveInt = 48
    filters: DocstringFilters = DocstringFilters()


class PhaseSettings(Settings):
    """One phase of teacher training: the learning rate rises, stays, and falls to 0 over the last steps."""

    steps: PositiveInt = 1000
    #: Pairs per forward pass, over all processes; an optimizer step sees this times the accumulation.
    batch_size: PositiveInt = 64
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 100
    decay_steps: NonNegativeInt = 200
    #: A checkpoint (and a validation, where there is one) every so many steps.
    evaluation_steps: PositiveInt = 250


class GenerationSettings(Settings):
    """How summaries are written; every system of a study uses the same.

    What is left out is the teacher's: the values in its checkpoint's generation config.
    """

    num_beams: PositiveInt | None = None
    min_new_tokens: NonNegativeInt | None = None
    max_new_tokens: PositiveInt | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: NonNegativeInt | None = None
    early_stopping: bool | None = None
    batch_size: PositiveInt = 64

    def arguments(self) -> dict[str, float]:
        """What ``generate`` is called with: the settings that are not left to the checkpoint."""
        return self.model_dump(exclude={"batch_size"}, exclude_none=True)


class TeacherSettings(Settings):
    """The teacher's checkpoint and, for ``distill teacher``, how to train it."""

    #: Where the checkpoint is: the first of these that is a folder with one, or else the last, which may
    #: be an id on the Hub (owner/name). Folders are relative to the repository, and ``distill teacher``
    #: writes to the first. None at all means random weights.
    path: List[str] = ()
    #: For a teacher on the Hub: branch, tag or commit; empty means its main branch.
    revision: str = ""
    #: For random weights: folder of BART's tokenizer; empty means one trained on the corpus.
    tokenizer: str = ""
    #: What ``distill teacher`` starts from: folder or id of a checkpoint; empty means random weights and
    #: denoising first.
    base: str = ""
    encoder_layers: PositiveInt = 6
    decoder_layers: PositiveInt = 6
    d_model: PositiveInt = 256
    attention_heads: PositiveInt = 4
    vocabulary: PositiveInt = 8000
    #: Of a model with random weights; 0 means as many as the study's texts need.
    positions: NonNegativeInt = 0
    denoising_window: PositiveInt = 64
    weight_decay: NonNegativeFloat = 0.01
    average_checkpoints: PositiveInt = 1
    denoising: PhaseSettings = PhaseSettings()
    finetuning: PhaseSettings = PhaseSettings()
    #: What ``distill teacher`` writes into the generation config of a teacher that it fine-tunes from ``base``.
    generation: GenerationSettings = GenerationSettings()


class DistillationSettings(Settings):
    """How students are trained; all methods of a study share all of it but the loss."""

    #: The student's shape, E-D, whose layers are copied from the teacher; or a pretrained student: a
    #: checkpoint's folder or id on the Hub.
    student: str = "6-3"
    methods: List[Literal[*METHODS]] = Field(("copy", "sft", "kd"), min_length=1)
    alpha: Fraction = 0.5
    temperature: PositiveFloat = 2.0
    #: Weight of the hidden states' part, of the method ``hidden`` alone; it is a mean over layers
    #: (DistilBART's 3 is for a sum).
    beta: PositiveFloat = 3.0
    #: λ of the divergence of the method ``jsd``: near 0 the KL divergence from the teacher, near 1 that
    #: from the student.
    interpolation: float = Field(0.5, ge=1e-3, le=1)
    #: The part of the training pairs whose summaries the methods ``pl`` and ``kd-pl`` replace; the
    #: others keep their references.
    pseudo_label_share: float = Field(1.0, gt=0, le=1)
    #: Beams that pseudo-labels are searched with; 0: as many as all summaries.
    pseudo_label_beams: NonNegativeInt = 0
    #: Train on so many of the training pairs, drawn by a hash; 0: on all.
    max_pairs: NonNegativeInt = 0
    steps: PositiveInt = 1000
    #: Pairs per forward pass, over all processes; an optimizer step sees this times the accumulation.
    batch_size: PositiveInt = 32
    #: Most tokens of a forward pass, over all processes, source and target with their padding; batches
    #: of short pairs then hold more of them, up to ``batch_size``. 0: no such bound.
    batch_tokens: NonNegativeInt = 0
    gradient_accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    warmup_steps: NonNegativeInt = 50
    #: Encoder and embeddings are not trained; only where the student keeps the whole encoder.
    freeze_encoder: bool = True
    #: Validation examples that are summarized, and how many times in a training; 0 times: never.
    validation_examples: PositiveInt = 200
    validations: NonNegativeInt = 5
    validation_beams: PositiveInt = 1
    #: Autocast to bfloat16 where the hardware multiplies it.
    bf16: bool = True
    #: Compute activations again in the backward pass instead of keeping them: less memory, more time.
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    #: ``states``: the teacher's last decoder states for the training pairs are computed once and kept on
    #: disk, which pays where they are used more than once: two bytes × width a token. Empty: the teacher
    #: runs in every step.
    cache_teacher: Literal["", "states"] = ""
    #: The frozen encoder's outputs are computed once and kept on disk: two bytes × width × source tokens.
    cache_encoder: bool = False


class SpeedSettings(Settings):
    """How speed is measured."""

    documents: PositiveInt = 32
    repeats: PositiveInt = 5
    batch_size: PositiveInt = 32
    #: What the teacher and the best student of the main comparison also run in; none: nothing of what
    #: follows. They are timed with summaries of ``tokens`` tokens, too, over these beams and batch sizes.
    runtimes: List[Literal[*RUNTIMES]] = ()
    tokens: PositiveInt = 16
    beams: List[PositiveInt] = (1, 2, 4, 6)
    batch_sizes: List[PositiveInt] = (8,)


class EvidenceSettings(Settings):
    """Ablations: seeds, shapes, α × T sweep, training-set size, longer training; each only where it is set."""

    #: The methods are trained with so many seeds, from the study's on.
    seeds: PositiveInt = 1
    #: Shapes other than the study's, and the method that trains them.
    shapes: List[Shape] = ()
    shapes_method: Literal[*TRAINED] = "kd"
    #: α × T of the method ``kd``, over fewer steps.
    alphas: List[Fraction] = ()
    temperatures: List[PositiveFloat] = ()
    sweep_steps: PositiveInt = 100
    #: How much data it takes: training pairs, and the methods that are given so few.
    pairs: List[PositiveInt] = ()
    pairs_methods: List[Literal[*TRAINED]] = ()
    #: A training longer than is comfortable, on all pairs and with one seed: methods, and shapes beside
    #: the study's own.
    longer_steps: NonNegativeInt = 0
    longer_methods: List[Literal[*TRAINED]] = ()
    longer_shapes: List[Shape] = ()
    #: What writes the summaries that are scored. ``ctranslate2-float32`` writes the same ones as
    #: ``pytorch-fp32`` but for ties in the last digits (every evaluation compares some). Speeds are
    #: PyTorch's all the same.
    runtime: Literal["pytorch-fp32", "ctranslate2-float32"] = "pytorch-fp32"
    #: Test pairs that the students of these groups summarize (the sweep's greedily, from the validation split).
    examples: PositiveInt = 1000


class Study(Settings):
    """All settings of one study and where its artefacts lie.

    Made by :func:`load_study`, never by hand.
    """

    #: Of the folders that hold its artefacts: the study's own, or another one given to a run (``--set name=…``).
    name: str
    #: What commands take for it: the name of a shipped study, or the absolute path of the user's own file.
    file: str
    title: str
    seed: int = Field(0, ge=0, lt=SEEDS)
    corpus: CorpusSettings = CorpusSettings()
    teacher: TeacherSettings = TeacherSettings()
    distillation: DistillationSettings = DistillationSettings()
    generation: GenerationSettings = GenerationSettings()
    speed: SpeedSettings = SpeedSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    #: What sets a student's folder apart whose settings are not the study's (see ``plan``).
    variant: str = Field("", exclude=True)

    @model_validator(mode="after")
    def _check_together(self) -> Study:
        """Check what spans several settings."""

        def require(holds: object, key: str, rule: str) -> None:
            if not holds:
                raise UserError(f"setting {key!r} {rule}")

        e, t, student = self.evidence, self.teacher, self.distillation.student
        require(
            self.corpus.document != self.corpus.summary, "corpus.summary", "should be another column than the document"
        )
        heads = f"should be a multiple of the {t.attention_heads} attention heads, not {t.d_model}"
        require(t.d_model % t.attention_heads == 0, "teacher.d_model", heads)
        for section, g in (("generation", self.generation), ("teacher.generation", t.generation)):
            if g.min_new_tokens and g.max_new_tokens:
                most = f"should be at most max_new_tokens, {g.max_new_tokens}, not {g.min_new_tokens}"
                require(g.min_new_tokens <= g.max_new_tokens, f"{section}.min_new_tokens", most)
        for key in ("shapes", "longer_shapes"):
            other = f"should be shapes other than distillation.student, {student}"
            require(student not in getattr(e, key), f"evidence.{key}", other)
        for pair in (("alphas", "temperatures"), ("pairs", "pairs_methods"), ("longer_steps", "longer_methods")):
            given, other = sorted(pair, key=lambda key: not getattr(e, key))
            require(not getattr(e, given) or getattr(e, other), f"evidence.{given}", f"goes with evidence.{other}")
        both = "goes with no speed.runtimes: what they change is told by PyTorch's own summaries"
        require(e.runtime == "pytorch-fp32" or not self.speed.runtimes, "evidence.runtime", both)
        return self

    @property
    def folder(self) -> Path:
        """``runs/<study>``: everything a run makes."""
        return home() / "runs" / self.name

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
        return home() / "figures" / self.name

    def student_folder(self, student: str, method: str, seed: int) -> Path:
        name = f"{student_label(student)}-{method}-{seed}"
        return self.folder / "students" / (f"{name}-{self.variant}" if self.variant else name)

    def settings(self) -> dict:
        """All settings as plain data."""
        return self.model_dump(mode="json")


def is_shape(student: str) -> bool:
    """Whether a student is named by its shape (``12-6``), not by a ready checkpoint."""
    return bool(SHAPE.fullmatch(student))


def student_label(student: str) -> str:
    """A student's name in tables and folders: its shape, or the last part of its checkpoint's name."""
    return student if is_shape(student) else re.sub(r"[^A-Za-z0-9._-]", "_", Path(student).name)


def parse_shape(text: str) -> tuple[int, int]:
    """``"12-6"`` → ``(12, 6)``: encoder and decoder layers.

    Raises UserError if it is not of that form or has a count of 0.
    """
    if not (match := SHAPE.fullmatch(text)):
        raise UserError(f"a student's shape is written E-D, such as 12-6 (encoder and decoder layers), not {text!r}")
    return int(match[1]), int(match[2])
