"""Combine Muon for weight matrices with AdamW for all other parameters."""

from __future__ import annotations

import torch
from torch import nn


class MuonWithAdamW(torch.optim.Optimizer):
    """Optimize the matrices inside layers with ``torch.optim.Muon`` and all else with ``torch.optim.AdamW``.

    Muon (Jordan et al. 2024) orthogonalizes the momentum of each matrix; embeddings, norms and biases use AdamW.
    Muon's updates are scaled to match AdamW's RMS (Liu et al. 2025, arXiv 2502.16982), so both use the same
    learning rate. Frozen parameters are skipped.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                (matrices if parameter.ndim == 2 and ".layers." in name else others).append(parameter)
        self._parts: list[torch.optim.Optimizer] = []
        if matrices:
            self._parts.append(
                torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share_groups()

    def _share_groups(self) -> None:
        # The scheduler modifies these groups in place.
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure is not None else None
        for part in self._parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()
