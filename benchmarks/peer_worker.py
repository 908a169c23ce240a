"""Serve a checkpoint in another library: started by ``benchmarks.peers`` with the Python of that library's environment.

Reads jobs from standard input and answers each on standard output, one JSON object a line. It imports nothing of this project,
which the environment does not have.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import metadata
from pathlib import Path

LIBRARIES = (
    "openvino",
    "optimum-intel",
    "onnxruntime",
    "optimum-onnx",
    "torchao",
    "ctranslate2",
    "torch",
    "transformers",
)


def openvino(checkpoint: str, folder: str, int8: bool):
    from optimum.intel import OVModelForSeq2SeqLM, OVWeightQuantizationConfig

    given = {"quantization_config": OVWeightQuantizationConfig(bits=8)} if int8 else {}
    # By default OpenVINO computes in bfloat16 where the processor can; the other systems do not.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return OVModelForSeq2SeqLM.from_pretrained(checkpoint, export=True, ov_config=exact, **given)


def onnxruntime(checkpoint: str, folder: str, int8: bool):
    from optimum.onnxruntime import ORTModelForSeq2SeqLM

    ORTModelForSeq2SeqLM.from_pretrained(checkpoint, export=True).save_pretrained(folder)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        for file in Path(folder).glob("*.onnx"):
            quantize_dynamic(file, file, weight_type=QuantType.QInt8, per_channel=True)
    return ORTModelForSeq2SeqLM.from_pretrained(folder)


def torchao(checkpoint: str, folder: str, int8: bool):
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    if int8:
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    model.forward = torch.compile(model.forward, dynamic=True)  # meant for it; slower without
    return model


def compiled(checkpoint: str, folder: str, int8: bool):
    """PyTorch with transformers' static cache, which compiles steps itself on accelerators alone."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.generation_config.cache_implementation = "static"
    model.forward = torch.compile(model.forward, dynamic=True)
    return model


class Translator:
    """CTranslate2 as its guide for transformers has it: default threads, whole batches."""

    def __init__(self, checkpoint: str, folder: str, int8: bool) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        converter = ctranslate2.converters.TransformersConverter(checkpoint)
        converter.convert(folder, quantization="int8" if int8 else None, force=True)
        self.translator = ctranslate2.Translator(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def write(self, batch: list[list[int]], settings: dict) -> list[list[int]]:
        least, most = settings.get("min_new_tokens", 0), settings["max_new_tokens"]
        most -= least < most  # the end token, which transformers counts
        results = self.translator.translate_batch(
            [self.tokenizer.convert_ids_to_tokens(ids) for ids in batch], beam_size=settings["num_beams"], min_decoding_length=least,
            max_decoding_length=most, no_repeat_ngram_size=settings.get("no_repeat_ngram_size", 0),
            length_penalty=settings.get("length_penalty", 1.0),
        )  # fmt: skip
        return [self.tokenizer.convert_tokens_to_ids(r.hypotheses[0]) for r in results]


class Generating:
    """A model with transformers' ``generate``."""

    def __init__(self, model) -> None:
        self.model = model

    def write(self, batch: list[list[int]], settings: dict) -> list[list[int]]:
        import torch

        padding, longest = self.model.config.pad_token_id, max(map(len, batch))
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        with torch.inference_mode():
            written = self.model.generate(input_ids=ids, attention_mask=mask, **settings)[:, 1:].tolist()
        return [[token for token in row if token != padding] for row in written]


LOADERS = {"openvino": openvino, "onnxruntime": onnxruntime, "torchao": torchao, "compiled": compiled}


def versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    kind, precision, checkpoint, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print goes to standard error
    try:
        if kind == "ctranslate2":
            system = Translator(checkpoint, folder, precision == "int8")
        else:
            system = Generating(LOADERS[kind](checkpoint, folder, precision == "int8"))
        print(json.dumps({"versions": versions()}), file=answers, flush=True)
        for line in sys.stdin:
            job = json.loads(line)
            written = [system.write(batch, job["settings"]) for batch in job["batches"]]
            print(json.dumps({"written": written}), file=answers, flush=True)
    except Exception as error:
        traceback.print_exc()
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(json.dumps({"error": why}), file=answers, flush=True)


if __name__ == "__main__":
    main()
