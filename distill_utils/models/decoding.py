"""Check a checkpoint's generation settings, and keep those of greedy and beam search."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from functools import cache
from pathlib import Path

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from distill_utils.studies.settings import MOST_LENGTH_PENALTY
from distill_utils.system.artefacts import read_json
from distill_utils.system.errors import UserError

FILE = "generation_config.json"
#: Settings without an effect unless tokens are sampled.
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
#: Beginnings of settings that do not change the summary.
HARMLESS = (
    "_", "output_", "return_dict", "use_cache", "cache_", "compile", "disable_compile", "assistant_", "num_assistant",
    "low_memory", "is_assistant", "max_matching", "target_lookbehind", "do_sample",
)  # fmt: skip
#: Values without an effect, besides None, False and empty ones.
NEUTRAL = {
    "temperature": 1, "top_k": 50, "top_p": 1, "min_p": 0, "typical_p": 1, "epsilon_cutoff": 0, "eta_cutoff": 0,
    "num_beam_groups": 1, "num_return_sequences": 1, "guidance_scale": 1, "diversity_penalty": 0, "penalty_alpha": 0,
}  # fmt: skip
EMPTY = ([], {}, "")
#: Settings of beam search, and their values without an effect.
OF_BEAMS = {"early_stopping": False, "length_penalty": 1}


def check_generation(
    folder: Path, config: PretrainedConfig, positions: int | None, given: Mapping[str, object] | None = None
) -> None:
    """Raise UserError for generation settings that would fail while a checkpoint is loaded or used.

    Args:
        positions: the longest summary of the model; None: any.
        given: the settings; by default those of the checkpoint's file, which transformers has not changed yet.
    """
    values = _written(folder, "config.json") if given is None else given
    for name, (valid, holds) in _rules(config.vocab_size - 1, positions or math.inf):
        value = values.get(name)
        if value is not None and value not in EMPTY and not holds(value):
            raise UserError(f"the generation config in {folder} has {name} = {value!r:.60}; it should be {valid}")


def settle_generation(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep the generation settings that greedy or beam search knows, and say which others would change the summaries.

    A study's summaries are deterministic, are written with the key-value cache and are tensors of token ids.

    Raises UserError for settings with which the checkpoint could not be saved.
    """
    settings = model.generation_config
    kept = {name for name, _ in _rules(0, 0)} - {"num_beam_groups"}
    for name in kept:
        if getattr(settings, name, None) in EMPTY:
            setattr(settings, name, None)
    _find_tokens(folder, model, tokenizer)
    told = _dropped(settings, kept, _written(folder))
    _tidy(settings)
    if told:
        warn_once(
            f"the generation config in {folder} has {', '.join(told)}, which is ignored: summaries are written by greedy or "
            "beam search"
        )
    try:
        settings.validate(strict=True)  # as when it is saved
    except ValueError as error:
        raise UserError(f"the generation config in {folder} is invalid: {' '.join(str(error).split())[:200]}") from None


@cache
def warn_once(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


def _find_tokens(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Take special tokens that the generation config lacks from the model's config or the tokenizer."""
    settings, config = model.generation_config, model.config
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        found = (getattr(place, name, None) for place in (settings, config, tokenizer))
        setattr(settings, name, next((token for token in found if token is not None), None))
    if settings.decoder_start_token_id is None:
        settings.decoder_start_token_id = settings.bos_token_id
    for name, what in (("eos_token_id", "end"), ("decoder_start_token_id", "start")):
        if getattr(settings, name) is None:
            raise UserError(f"the checkpoint in {folder} has no token that summaries {what} with; set {name} in {FILE}")


def _rules(last: int, longest: float) -> Iterator[tuple[str, tuple[str, Callable[[object], bool]]]]:
    """Yield the settings that are taken over, each with its valid values in words and as a function.

    Args:
        last: the last token id.
        longest: the longest summary, in tokens.
    """

    def whole(least: int, most: float = math.inf) -> Callable[[object], bool]:
        return lambda value: type(value) is int and least <= value <= most

    def each(holds: Callable[[object], bool], least: int = 0) -> Callable[[object], bool]:
        return lambda value: isinstance(value, list) and len(value) >= least and all(map(holds, value))

    def pair(first: Callable[[object], bool], second: Callable[[object], bool]) -> Callable[[object], bool]:
        return lambda value: isinstance(value, list) and len(value) == 2 and first(value[0]) and second(value[1])

    def number(value: object) -> bool:
        return type(value) in (int, float) and math.isfinite(value)

    def positive(value: object) -> bool:
        return number(value) and value > 0

    def flag(value: object) -> bool:
        return isinstance(value, bool)

    token, ids = whole(0, last), f"token ids from 0 to {last:,}"
    yield "num_beams", ("1 or more", whole(1))
    yield "num_beam_groups", ("1", whole(1, 1))
    for name in ("max_length", "max_new_tokens"):
        yield name, (f"1 to {longest:,}" if longest < math.inf else "1 or more", whole(1, longest))
    for name in ("min_length", "min_new_tokens", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"):
        yield name, ("0 or more", whole(0))
    yield "early_stopping", ("true, false or 'never'", lambda value: flag(value) or value == "never")
    most = MOST_LENGTH_PENALTY
    yield "length_penalty", (f"a number from -{most} to {most}", lambda value: number(value) and abs(value) <= most)
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        yield name, ("a number above 0", positive)
    for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
        yield name, (f"0 to {last:,}", token)
    for name in ("eos_token_id", "forced_eos_token_id"):
        yield name, (f"0 to {last:,}, or a list of such ids", lambda value: token(value) or each(token, 1)(value))
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        yield name, (f"a list of {ids}", each(token))
    yield "bad_words_ids", (f"a list of lists of {ids}", each(each(token, 1)))
    yield "sequence_bias", (f"a list of pairs of {ids} and a number", each(pair(each(token, 1), number)))
    yield "exponential_decay_length_penalty", ("a list of a length and a factor above 0", pair(whole(0), positive))
    for name in ("remove_invalid_values", "renormalize_logits"):
        yield name, ("true or false", flag)


def _written(folder: Path, instead: str = "") -> dict[str, object]:
    """Return what the file has, also names that transformers does not know; without it, what ``instead`` has."""
    name = FILE if (folder / FILE).is_file() else instead
    return read_json(folder / name) if name else {}


def _dropped(settings: GenerationConfig, kept: Set[str], written: Mapping[str, object]) -> list[str]:
    """Remove the settings that are not taken over, and return the names of those that have an effect."""
    sampled, given = settings.do_sample, {**written, **settings.to_dict()}
    kept = kept | {"_from_model_config", "transformers_version"}
    told = sorted(
        name
        for name, value in given.items()
        if name not in kept and not name.startswith(HARMLESS) and (sampled or name not in SAMPLING)
        if value is not None and value is not False and value not in EMPTY and value != NEUTRAL.get(name)
    )
    for name in settings.to_dict().keys() - kept:
        setattr(settings, name, None)
    settings.do_sample, settings.use_cache = False, True
    if sampled:
        told.insert(0, "do_sample")
    if (settings.num_beams or 1) == 1:
        for name, neutral in OF_BEAMS.items():
            if getattr(settings, name) not in (None, neutral):
                told.append(f"{name} without num_beams")
            setattr(settings, name, None)
    return told


def _tidy(settings: GenerationConfig) -> None:
    """Write the settings as the library's processors take them: penalties as floats, nothing without an effect."""
    ends = [settings.eos_token_id] if isinstance(settings.eos_token_id, int) else settings.eos_token_id
    words, biases = settings.bad_words_ids or [], settings.sequence_bias or []
    settings.bad_words_ids = [
        word for word in words if word not in [[end] for end in ends]
    ] or None  # ends are never bad
    settings.sequence_bias = [[ids, float(bias)] for ids, bias in biases] or None
    for name in ("repetition_penalty", "encoder_repetition_penalty"):
        value = getattr(settings, name)
        setattr(settings, name, None if value in (None, 1) else float(value))
