"""Create BART models with random weights, and train tokenizers for them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from datasets import DatasetDict
from tokenizers import ByteLevelBPETokenizer
from transformers import BartConfig, BartForConditionalGeneration, BartTokenizer, GenerationConfig

from distill_utils.studies.settings import Study
from distill_utils.system.artefacts import is_current, whole_folder
from distill_utils.system.errors import UserError
from distill_utils.system.fingerprints import code_fingerprint, fingerprint
from distill_utils.system.paths import located

SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # at BART's ids, 0 to 3; <mask> comes last


def train_tokenizer(texts: list[str], vocabulary: int) -> BartTokenizer:
    """Train a byte-level BPE tokenizer with ``vocabulary`` entries and BART's special tokens."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary - 1, special_tokens=SPECIAL_TOKENS, show_progress=False)
    model = json.loads(bpe.to_str())["model"]
    vocab = {**model["vocab"], "<mask>": len(model["vocab"])}
    return BartTokenizer(vocab=vocab, merges=[tuple(merge) for merge in model["merges"]])


def load_tokenizer(source: str) -> BartTokenizer:
    """Load BART's tokenizer from a folder with ``vocab.json`` and ``merges.txt``.

    Raises:
        UserError: if the files do not exist.
    """
    for folder in (Path(source), located(source)):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return BartTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    raise UserError(f"setting 'teacher.tokenizer': {source!r} is no folder with vocab.json and merges.txt")


def new_bart(study: Study, tokenizer: BartTokenizer) -> BartForConditionalGeneration:
    """Create a BART with random weights in the shape of ``[teacher]``.

    The last four keys are BART's fixed
    traits, which a new config omits and CTranslate2's conversion needs.
    """
    t = study.teacher
    c = study.corpus
    needed = max(c.max_source_tokens, c.max_target_tokens, study.generation.max_new_tokens or 0, t.denoising_window + 2)
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=t.d_model,
        encoder_layers=t.encoder_layers,
        decoder_layers=t.decoder_layers,
        encoder_ffn_dim=4 * t.d_model,
        decoder_ffn_dim=4 * t.d_model,
        encoder_attention_heads=t.attention_heads,
        decoder_attention_heads=t.attention_heads,
        max_position_embeddings=t.positions or needed,
        dropout=t.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        normalize_before=False,
        normalize_embedding=True,
        add_final_layer_norm=False,
        static_position_embeddings=False,
    )
    # On the CPU the backward pass of fused attention is slower than that of eager attention.
    config._attn_implementation = "eager" if not torch.cuda.is_available() else "sdpa"
    model = BartForConditionalGeneration(config)
    model.generation_config = generation_config(study, config)
    return model


def generation_config(study: Study, config: BartConfig) -> GenerationConfig:
    beams = study.generation.num_beams or 1
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        forced_eos_token_id=config.forced_eos_token_id,
        **{"early_stopping": beams > 1, **study.generation.arguments(), "num_beams": beams},
    )


def random_teacher(study: Study, corpus: DatasetDict, corpus_fingerprint: str) -> Path:
    """Create an untrained teacher under ``runs/<study>/teacher``, unless it is there, and return its folder."""
    folder = study.folder / "teacher"
    settings = study.settings()
    key = fingerprint(
        "random", settings["teacher"], settings["corpus"], settings["generation"], study.seed,
        corpus_fingerprint, code_fingerprint("models.bart"),
    )  # fmt: skip
    if not is_current(folder, key):
        if study.teacher.tokenizer:
            tokenizer = load_tokenizer(study.teacher.tokenizer)
        else:
            pairs = corpus["train"]
            tokenizer = train_tokenizer([*pairs["document"], *pairs["summary"]], study.teacher.vocabulary)
        torch.manual_seed(study.seed)
        with whole_folder(folder, key) as temporary:
            new_bart(study, tokenizer).save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
    return folder
