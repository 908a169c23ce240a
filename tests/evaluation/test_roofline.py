"""What hardware allows: operations against PyTorch's own counter, limits against values computed by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distill_utils.evaluation.roofline import Work, limit, measure_bandwidth, measure_matrices, work
from tests.conftest import tiny_bart


def counted(call) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("layers", [(3, 3), (2, 1)])
def test_operations_are_those_that_pytorch_counts(layers):
    model = tiny_bart(layers)
    model.set_attn_implementation("eager")  # the counter does not see into fused kernels
    documents, source, beams = 2, 10, 3
    ids = torch.randint(4, 40, (documents, source))
    needed = work(model.config, documents, source, beams, 0, 4)
    encoder = model.get_encoder()
    keys = (
        documents * source * model.config.decoder_layers * 2 * 2 * model.config.d_model**2
    )  # the decoder's, of the document
    assert needed.encoder_flops == counted(lambda: encoder(ids)) + keys
    states = encoder(ids).last_hidden_state.repeat_interleave(beams, 0)
    rows = documents * beams
    step = counted(lambda: model(encoder_outputs=(states,), decoder_input_ids=torch.full((rows, 1), 2)))
    # This first step makes the document's keys and values, for every beam, and sees one token of its own.
    own = rows * model.config.decoder_layers * 4 * model.config.d_model
    assert needed.step_flops == step - beams * keys - own


def test_bytes_are_weights_and_the_documents_keys_once_and_every_beams_own():
    config = tiny_bart((1, 1), vocabulary=40).config  # width 16, inner width 32
    needed = work(config, documents=2, source_tokens=10, num_beams=3, tokens=8, weight_bytes=4)
    weights = 6 * 16 * 16 + 2 * 16 * 32 + 40 * 16
    assert needed.step_bytes == 4 * weights + 2 * 16 * 4 * (2 * 10 + 6 * 4)
    assert needed.encoder_bytes == 4 * (4 * 16 * 16 + 2 * 16 * 32 + 2 * 16 * 16)
    assert work(config, 2, 10, 3, 8, weight_bytes=1).step_bytes == needed.step_bytes - 3 * weights


def test_the_slower_of_memory_and_matrices_is_the_limit():
    needed = Work(encoder_bytes=100, encoder_flops=1000, step_bytes=50, step_flops=10)
    found = limit(needed, tokens=4, flops_per_s=100, bytes_per_s={"encoder": 100, "step": 10})
    assert found == {"seconds": 10 + 4 * 5, "bound": "memory"}
    assert limit(needed, 4, 1, {"encoder": 100, "step": 10})["bound"] == "matrices"


def test_the_machine_is_measured():
    assert measure_bandwidth(1e5) > 1e6 and measure_bandwidth(1) > 0
    assert all(measure_matrices(kind, size=64) > 1e6 for kind in ("float32", "bfloat16"))
    int8 = measure_matrices("int8", size=64)
    assert int8 is None or int8 > 1e6
