"""Whether a converted model computes what the original did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers


def check_forward(output: Path, stored: Path, architecture: str, atol: float) -> None:
    """The model loads without a key too few or too many, and computes what TensorFlow did.

    `stored` has the inputs by their names, and the outputs of each class, ARCHITECTURE.NAME.
    """
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    expected = np.load(stored)
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "." not in key}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    keys = [key for key in expected if key.startswith(f"{architecture}.")]
    assert keys
    for key in keys:
        np.testing.assert_allclose(outputs[key.partition(".")[2]], expected[key], atol=atol)


def load_with_epsilon(folder: Path, architecture: str, epsilon: float) -> torch.nn.Module:
    """The model with that epsilon in all norms, for which its class has no key."""
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = epsilon
    return model.eval()
