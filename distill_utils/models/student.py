"""Create a student from a teacher: copy layers or parts of them, freeze the encoder, check that the two are compatible."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.data.reading import record_reading
from distill_utils.models.checkpoint import (
    LAYER,
    check_lengths,
    checkpoint_folder,
    depth,
    inner_width,
    load_model,
    with_shape,
)
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study, is_shape, parse_shape
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint

#: Families (``model_type``) whose layers can be copied; the tests copy, train and compare a model of each.
FAMILIES = ("bart", "mbart", "pegasus", "t5", "mt5")
#: T5's table of relative positions.
POSITIONS = "relative_attention_bias"
#: The weights of a feed-forward layer that have a row, and a column, for each of its units.
UNIT_ROWS, UNIT_COLUMNS = re.compile(r"\.(fc1|wi|wi_0|wi_1)\.weight$"), re.compile(r"\.(fc2|wo)\.weight$")


def load_student(
    study: Study, student: str, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """Create an untrained student from the teacher's layers, or load a pretrained student checkpoint.

    Args:
        student: ``"E-D"`` or ``"E-D-F"``, or a checkpoint's folder or id.

    Raises UserError if the teacher has too few layers, or the checkpoint is not compatible with it.
    """
    if is_shape(student):
        made = make_student(teacher, *parse_shape(student))
        record_reading(made.config, study.corpus)
        return made
    folder = checkpoint_folder(student, record=study.hub_record, setting="distillation.student")
    pretrained, its_tokenizer = load_model(folder)
    check_pair(teacher, tokenizer, pretrained, its_tokenizer, student)
    check_lengths(study, pretrained)
    pretrained.generation_config = copy.deepcopy(teacher.generation_config)  # the same for all systems
    record_reading(pretrained.config, study.corpus)
    return pretrained


def check_pair(
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    student_tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> None:
    """Raise UserError unless student and teacher have the same vocabulary and special tokens.

    The soft loss compares their logits token by token.
    """
    bad = f"{name} does not fit its teacher"
    ours, theirs = teacher.config.vocab_size, student.config.vocab_size
    if ours != theirs:
        raise UserError(f"{bad}: its vocabulary has {theirs:,} entries, the teacher's {ours:,}")
    a, b = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if a != b:
        first = min(token for token in a.keys() | b.keys() if a.get(token) != b.get(token))
        raise UserError(f"{bad}: their tokenizers assign different ids, for example to {first!r}")
    for token in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
        theirs, ours = getattr(student.config, token, None), getattr(teacher.config, token, None)
        if theirs != ours:
            raise UserError(f"{bad}: its {token} is {theirs}, the teacher's {ours}")


def check_hidden(teacher: PreTrainedModel, student: PreTrainedModel, name: str) -> None:
    """Raise UserError if the student has another width than its teacher, or more layers.

    The method ``hidden`` compares their hidden states layer by layer.
    """
    ours, theirs = teacher.config, student.config
    if theirs.d_model != ours.d_model:
        width = f"hidden states of width {theirs.d_model}, its teacher of {ours.d_model}"
        raise UserError(f"{name} has {width}: the method hidden cannot train it")
    if type(theirs) is not type(ours):
        raise UserError(
            f"{name} is a {theirs.model_type}, its teacher a {ours.model_type}: the method hidden cannot train it"
        )
    for part, layers in depth(theirs).items():
        if layers > depth(ours)[part]:
            raise UserError(f"{name} has more {part} layers than its teacher: the method hidden cannot train it")


def spaced_layers(total: int, kept: int) -> list[int]:
    """Return the ``kept`` of ``total`` layers to copy: the first, the last and the rest evenly spaced.

    Layer i is ``i·(total−1)/(kept−1)`` rounded half up; a single layer is the first. This gives the
    published 12→6 (0 2 4 7 9 11) and 12→3 (0 6 11) of Shleifer & Rush 2020 (arXiv 2010.13002).
    """
    if not 1 <= kept <= total:
        raise UserError(f"a student can keep 1 to {total} of its teacher's {total} layers, not {kept}")
    if kept == 1:
        return [0]
    return [(2 * i * (total - 1) + (kept - 1)) // (2 * (kept - 1)) for i in range(kept)]


def supervised_layers(total: int, kept: int) -> list[int]:
    """Return the teacher layer whose output each of the student's ``kept`` layers should match.

    A copied layer replaces itself and the dropped ones up to the next copied one, which was trained on the
    output of the last of them. 12→6 gives 1 3 6 8 10 11.
    """
    return [layer - 1 for layer in spaced_layers(total, kept)[1:]] + [total - 1]


def make_student(
    teacher: PreTrainedModel,
    encoder_layers: int | Sequence[int],
    decoder_layers: int | Sequence[int],
    width: int | None = None,
) -> PreTrainedModel:
    """Create a smaller model of the teacher's class from copies of the teacher's layers.

    Args:
        teacher: a model of one of :data:`FAMILIES`.
        encoder_layers, decoder_layers: the number to keep, spaced by :func:`spaced_layers`, or their indices.
        width: how many units to keep of each feed-forward layer (:func:`strongest_units`); None: all.

    Returns:
        The student, in eval mode, with the teacher's embeddings and generation config.

    Raises UserError if the teacher has fewer layers, is not as wide, or is of another family.
    """
    chosen = _chosen(teacher, encoder_layers, decoder_layers, width)
    config = with_shape(teacher.config, len(chosen["encoder"]), len(chosen["decoder"]), width)
    state = teacher.state_dict()
    if width is not None:
        state = _narrowed(state, width)
    weights = {}
    for name, tensor in state.items():
        if match := LAYER.match(name):
            prefix, part, layer, rest = match.groups()
            if POSITIONS in rest:  # T5's first layer has them for all
                name = f"{prefix}0{rest}"
            elif int(layer) not in chosen[part]:
                continue
            else:
                name = f"{prefix}{chosen[part].index(int(layer))}{rest}"
        weights[name] = tensor.detach().clone()
    with torch.device("meta"):
        student = type(teacher)(config)
    student.load_state_dict(weights, assign=True)
    own = student.get_output_embeddings().weight
    student.tie_weights()
    if teacher.get_output_embeddings().weight is not teacher.get_input_embeddings().weight:
        student.get_output_embeddings().weight = own  # as in T5 1.1, whose config says that it is tied
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()


def strongest_units(inward: Sequence[torch.Tensor], outward: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the units of a feed-forward layer that can change its output most, in their order.

    A unit's strength is the norm of its outgoing weights times the norm of its incoming ones, for a gated layer of both
    kinds of incoming ones.

    Args:
        inward: the incoming weights, of shape (units, width of the model) each.
        outward: the outgoing weights, of shape (width of the model, units).

    Returns:
        ``kept`` indices, ascending.
    """
    strength = outward.float().norm(dim=0)
    for weights in inward:
        strength = strength * weights.float().norm(dim=1)
    return strength.topk(kept).indices.sort().values


def _narrowed(state: Mapping[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Return a model's tensors with only the strongest units of every feed-forward layer."""
    layers: dict[str, list[str]] = {}  # the beginning of a layer's names, and its incoming weights
    for name in state:
        if LAYER.match(name) and (match := UNIT_ROWS.search(name)):
            layers.setdefault(name[: match.start()], []).append(name)
    narrowed = dict(state)
    for name in state:
        beginning = name[: match.start()] if (match := UNIT_COLUMNS.search(name)) else None
        if beginning not in layers:
            continue
        units = strongest_units([state[own] for own in layers[beginning]], state[name], width)
        narrowed[name] = state[name].index_select(1, units)
        for own in layers[beginning]:
            for tensor in (own, own.removesuffix("weight") + "bias"):
                if tensor in state:
                    narrowed[tensor] = state[tensor].index_select(0, units)
    return narrowed


def random_weights(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return a model of the same shape with its class's random initialization."""
    with torch.random.fork_rng(devices=[]):
        # Not the seed itself, which a teacher may have been initialized from.
        torch.manual_seed(int(fingerprint("random weights", seed), 16) >> 1)
        fresh = type(model)(copy.deepcopy(model.config))
    fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh.to(model.device).eval()


def _chosen(
    teacher: PreTrainedModel, encoder: int | Sequence[int], decoder: int | Sequence[int], width: int | None = None
) -> dict[str, list[int]]:
    kind = teacher.config.model_type
    if kind not in FAMILIES:
        raise UserError(f"students can be created from teachers of the types {', '.join(FAMILIES)}, not {kind}")
    most = inner_width(teacher.config)
    if width is not None and not 1 <= width < most:
        raise UserError(
            f"a student can keep 1 to {most - 1:,} of the {most:,} units of its teacher's feed-forward layers, not {width:,}; "
            "to keep them all, write its shape without this number"
        )
    chosen = {}
    for part, wanted in (("encoder", encoder), ("decoder", decoder)):
        total = depth(teacher.config)[part]
        layers = spaced_layers(total, wanted) if isinstance(wanted, int) else list(wanted)
        if not layers or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= total:
            raise UserError(f"{part} layers should be in rising order from 0 to {total - 1}, not {layers}")
        chosen[part] = layers
    shallow = len(chosen["encoder"]) < len(chosen["decoder"])
    if shallow and hasattr(teacher.config, "num_decoder_layers"):  # its cache has as many layers as the encoder
        raise UserError(f"transformers cannot generate with a {kind} that has fewer encoder than decoder layers")
    return chosen


def check_student(prepared: Prepared) -> None:
    """Raise UserError if a student of the study cannot be created from its teacher."""
    study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
    student, shapes = study.distillation.student, list(study.evidence.shapes)
    if is_shape(student):
        shapes.append(student)
    else:
        load_student(study, student, teacher, tokenizer)
    for shape in shapes:
        _chosen(teacher, *parse_shape(shape))


def keeps_encoder(student: PreTrainedModel, teacher: PreTrainedModel) -> bool:
    """Return whether the student's encoder has the teacher's shape, so that it can stay frozen."""
    ours, theirs = student.get_encoder().state_dict(), teacher.get_encoder().state_dict()
    return {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}


def freeze_encoder(model: PreTrainedModel) -> None:
    """Freeze the encoder and all embeddings, which encoder and decoder share; an output projection of its own is trained."""
    model.get_encoder().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    if positions := getattr(model.get_decoder(), "embed_positions", None):  # T5's are part of its attention
        positions.requires_grad_(False)


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Return whether two modules have the same parameters, compared in the second one's precision."""
    ours, theirs = dict(module.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(p.to(theirs[n]), theirs[n]) for n, p in ours.items())
