"""``distill convert``: pickled weights become safetensors, without running what a pickle may hold."""

import json
import os

import pytest
import torch

from distill_utils.models.bart import train_tokenizer
from distill_utils.models.checkpoint import load_model
from distill_utils.models.convert import convert
from distill_utils.system.errors import UserError
from tests.conftest import distill, tiny_bart
from tests.helpers.hub import Hub

TEXTS = [f"the value {i} of the table is read and kept in a list of {i * 7} values" for i in range(40)]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint as old ones are: pickled weights with the tied ones repeated, settings in config.json alone."""
    folder = tmp_path_factory.mktemp("published")
    tokenizer = train_tokenizer(TEXTS, 300)
    model = tiny_bart(vocabulary=len(tokenizer), positions=64)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_beams": 3, "max_length": 9}))
    return folder, model


def same(folder, model):
    found, tokenizer = load_model(folder)
    ids = tokenizer(TEXTS[3], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(
            found(input_ids=ids, decoder_input_ids=ids).logits, model(input_ids=ids, decoder_input_ids=ids).logits
        )
    return found


def test_weights_settings_and_tokenizer_are_the_same(published, tmp_path):
    folder, model = published
    with pytest.raises(UserError, match=f"distill convert {folder} DIR"):
        load_model(folder)
    found = same(convert(str(folder), tmp_path / "new"), model)
    assert (found.generation_config.num_beams, found.generation_config.max_length) == (3, 9)
    assert {file.suffix for file in (tmp_path / "new").iterdir()} >= {".safetensors", ".json"}
    assert not list((tmp_path / "new").glob("*.bin"))


def test_shards_and_half_precision(published, tmp_path):
    folder, model = published
    shards = tmp_path / "shards"
    shards.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".bin":
            (shards / file.name).write_bytes(file.read_bytes())
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    names = sorted(state)
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        torch.save({name: state[name] for name in part}, shards / f"pytorch_model-0000{number}-of-00002.bin")
    found = load_model(convert(str(shards), tmp_path / "new"))[0]
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name].float()), name
    assert json.loads((tmp_path / "new" / "config.json").read_text())["dtype"] == "float16"


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_code_in_a_pickle_does_not_run(published, tmp_path):
    folder, _ = published
    evil, place = Evil(), tmp_path / "ran"
    evil.place = str(place)
    for name, content in (
        ("code", {"model.shared.weight": evil}),
        ("list", [1, 2]),
        ("numbers", {"a": 1}),
        ("none", {}),
    ):
        other = tmp_path / name
        other.mkdir()
        for file in folder.glob("*.json"):
            (other / file.name).write_bytes(file.read_bytes())
        torch.save(content, other / "pytorch_model.bin")
        code, _, err = distill("convert", str(other), str(tmp_path / f"{name}_new"))
        assert code == 2 and "is not loaded" in err and err.count("\n") == 1, err
        assert not (tmp_path / f"{name}_new").exists()
    assert not place.exists()


def test_what_cannot_be_converted_is_said_in_one_line(published, tmp_path):
    folder, model = published
    with pytest.raises(UserError, match="safetensors need no conversion"):
        convert(str(tmp_path), tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UserError, match="exists; give a new folder"):
        convert(str(folder), tmp_path / "full")
    few = tmp_path / "few"
    few.mkdir()
    for file in folder.glob("*.json"):
        (few / file.name).write_bytes(file.read_bytes())
    state = dict(model.state_dict())
    del state["model.decoder.layers.1.fc1.weight"]
    torch.save(state, few / "pytorch_model.bin")
    with pytest.raises(UserError, match="lack 1 tensors"):
        convert(str(few), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_from_the_hub(published, tmp_path):
    folder, model = published
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    text = tmp_path / "text.txt"
    text.write_text(TEXTS[0])
    with Hub() as hub:
        hub.add("model", "some/pickle", files | {"training_args.bin": b"never read", "rust_model.ot": b"nor this"})
        environment = hub.environment(tmp_path / "home")
        code, _, err = distill("summarize", "some/pickle", str(text), **environment)
        assert code == 2 and "distill convert some/pickle DIR" in err, err
        code, out, err = distill("convert", "some/pickle", str(tmp_path / "new"), **environment)
        assert code == 0 and str(tmp_path / "new") in out, err
        fetched = [path for _, path in hub.requests if "/resolve/" in path]
        assert not any(path.endswith(("training_args.bin", ".ot")) for path in fetched)
    same(tmp_path / "new", model)
