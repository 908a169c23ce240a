"""Which precision a training has on which hardware."""

import pytest

from distill_utils.system import environment
from distill_utils.system.environment import training_precision
from distill_utils.system.errors import UserError


@pytest.mark.parametrize(
    ("gpu", "bf16", "wanted", "found"),
    [
        (True, True, "auto", "bf16"), (True, False, "auto", "fp16"), (False, True, "auto", "bf16"), (False, False, "auto", "fp32"),
        (True, True, "fp16", "fp16"), (True, True, "fp32", "fp32"), (False, True, "bf16", "bf16"), (False, False, "fp32", "fp32"),
    ],
)  # fmt: skip
def test_the_fastest_precision_of_the_hardware_is_taken(monkeypatch, gpu, bf16, wanted, found):
    monkeypatch.setattr(environment.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(environment, "bf16_supported", lambda: bf16)
    assert training_precision(wanted, "bart") == found
    assert training_precision(wanted, "t5") == ("fp32" if (wanted, found) == ("auto", "fp16") else found)


@pytest.mark.parametrize(
    ("gpu", "wanted", "needs"), [(True, "bf16", "newer GPU"), (False, "bf16", "AMX"), (False, "fp16", "a CUDA GPU")]
)
def test_what_the_hardware_lacks_is_refused(monkeypatch, gpu, wanted, needs):
    monkeypatch.setattr(environment.torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(environment, "bf16_supported", lambda: False)
    with pytest.raises(UserError, match=f"'distillation.precision' is '{wanted}'.*{needs}.*use 'auto'"):
        training_precision(wanted, "bart")
