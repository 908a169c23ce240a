"""Make a student from a teacher: copy layers, freeze the encoder, check that the two fit together."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.models.checkpoint import LAYER, check_lengths, checkpoint_folder, load_model
from distill_utils.models.prepared import Prepared
from distill_utils.studies.settings import Study, is_shape, parse_shape
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import fingerprint


def load_student(
    study: Study, student: str, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """A student before training: layers copied from the teacher, or a ready checkpoint.

    Args:
        student: ``"E-D"``, or a checkpoint's folder or id.

    Raises UserError if it cannot be made from the teacher or does not fit it.
    """
    if is_shape(student):
        return make_student(teacher, *parse_shape(student))
    ready, its_tokenizer = load_model(
        checkpoint_folder(student, record=study.hub_record, setting="distillation.student")
    )
    check_pair(teacher, tokenizer, ready, its_tokenizer, student)
    check_lengths(study, ready)
    ready.generation_config = copy.deepcopy(teacher.generation_config)  # all systems write by the same rules
    return ready


def check_pair(
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    student: PreTrainedModel,
    student_tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> None:
    """Refuse a student whose tokens are not the teacher's: the soft loss compares them one by one."""
    ours, theirs = teacher.config.vocab_size, student.config.vocab_size
    if ours != theirs:
        raise UserError(
            f"{name} does not fit its teacher: its vocabulary has {theirs:,} entries, the teacher's {ours:,}"
        )
    vocabularies = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if vocabularies[0] != vocabularies[1]:
        first = min(
            t for t in vocabularies[0].keys() | vocabularies[1].keys() if len({v.get(t) for v in vocabularies}) > 1
        )
        raise UserError(
            f"{name} does not fit its teacher: their tokenizers number tokens differently, {first!r} for one"
        )
    for token in ("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id"):
        theirs, ours = getattr(student.config, token), getattr(teacher.config, token)
        if theirs != ours:
            raise UserError(f"{name} does not fit its teacher: its {token} is {theirs}, the teacher's {ours}")


def check_hidden(teacher: PreTrainedModel, student: PreTrainedModel, name: str) -> None:
    """Refuse a student whose hidden states cannot be compared with its teacher's, layer by layer.

    Raises UserError if it is wider, narrower or deeper.
    """
    ours, theirs = teacher.config, student.config
    if theirs.d_model != ours.d_model:
        raise UserError(f"{name} has states of width {theirs.d_model}, its teacher of {ours.d_model}: no method hidden")
    for part in ("encoder_layers", "decoder_layers"):
        if getattr(theirs, part) > getattr(ours, part):
            raise UserError(f"{name} has more {part.replace('_', ' ')} than its teacher: no method hidden")


def spaced_layers(total: int, kept: int) -> list[int]:
    """Which ``kept`` of ``total`` layers to copy: first and last, and the rest evenly between.

    Layer i is ``i·(total−1)/(kept−1)`` rounded half up; a single layer is the first. It gives the
    published 12→6 (0 2 4 7 9 11) and 12→3 (0 6 11) of Shleifer & Rush 2020 (arXiv 2010.13002).
    """
    if not 1 <= kept <= total:
        raise UserError(f"a student can keep 1 to {total} of its teacher's {total} layers, not {kept}")
    if kept == 1:
        return [0]
    return [(2 * i * (total - 1) + (kept - 1)) // (2 * (kept - 1)) for i in range(kept)]


def supervised_layers(total: int, kept: int) -> list[int]:
    """Whose output each of a student's ``kept`` layers is to reproduce, of its teacher's ``total``.

    A copied layer stands for itself and for the dropped ones up to the next copied one: the last of them is the one
    whose output that next layer was made for. 12→6 gives 1 3 6 8 10 11.
    """
    return [layer - 1 for layer in spaced_layers(total, kept)[1:]] + [total - 1]


def make_student(
    teacher: PreTrainedModel, encoder_layers: int | Sequence[int], decoder_layers: int | Sequence[int]
) -> PreTrainedModel:
    """A smaller model of the teacher's kind whose weights are copies of the teacher's.

    Args:
        teacher: any BART-like model (its layers are named ``…encoder.layers.N.…``).
        encoder_layers, decoder_layers: how many to keep, spaced by :func:`spaced_layers`, or which.

    Returns:
        The student, in eval mode, with the teacher's embeddings and generation settings.

    Raises UserError if the teacher has fewer layers or is of another kind.
    """
    chosen = {
        part: _chosen(teacher, part, wanted)
        for part, wanted in (("encoder", encoder_layers), ("decoder", decoder_layers))
    }
    config = copy.deepcopy(teacher.config)
    config.encoder_layers = config.num_hidden_layers = len(chosen["encoder"])
    config.decoder_layers = len(chosen["decoder"])
    weights = {}
    for name, tensor in teacher.state_dict().items():
        if match := LAYER.match(name):
            prefix, part, layer, rest = match.groups()
            if int(layer) not in chosen[part]:
                continue
            name = f"{prefix}{chosen[part].index(int(layer))}{rest}"
        weights[name] = tensor.detach().clone()
    with torch.device("meta"):
        student = type(teacher)(config)
    student.load_state_dict(weights, assign=True)
    student.tie_weights()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()


def random_weights(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A model of the same shape with the random weights that its kind begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            int(fingerprint("random weights", seed), 16) >> 1
        )  # the teacher may have begun from the seed itself
        fresh = type(model)(copy.deepcopy(model.config))
    fresh.generation_config = copy.deepcopy(model.generation_config)
    return fresh.to(model.device).eval()


def _chosen(teacher: PreTrainedModel, part: str, wanted: int | Sequence[int]) -> list[int]:
    total = getattr(teacher.config, f"{part}_layers", None)
    if total is None or not any(LAYER.match(name) for name, _ in teacher.named_parameters()):
        raise UserError(f"a student can be copied from BART-like models, not from {type(teacher).__name__}")
    if isinstance(wanted, int):
        return spaced_layers(total, wanted)
    layers = list(wanted)
    if not layers or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= total:
        raise UserError(f"{part} layers are given in rising order and lie in 0 to {total - 1}, not {layers}")
    return layers


def check_student(prepared: Prepared) -> None:
    """Refuse students that the study's teacher cannot have."""
    study, (teacher, tokenizer) = prepared.study, prepared.load_teacher()
    student, shapes = study.distillation.student, [*study.evidence.shapes, *study.evidence.longer_shapes]
    if is_shape(student):
        shapes.append(student)
    else:
        load_student(study, student, teacher, tokenizer)
    for shape in shapes:
        encoder, decoder = parse_shape(shape)
        _chosen(teacher, "encoder", encoder)
        _chosen(teacher, "decoder", decoder)


def freeze_encoder(model: PreTrainedModel) -> None:
    """Take the encoder and all embeddings, which both sides share, out of training."""
    model.get_encoder().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    model.get_decoder().embed_positions.requires_grad_(False)


def same_weights(module: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules have the same parameters, compared in the second one's precision."""
    ours, theirs = dict(module.named_parameters()), dict(other.named_parameters())
    return ours.keys() == theirs.keys() and all(torch.equal(p.to(theirs[n]), theirs[n]) for n, p in ours.items())
