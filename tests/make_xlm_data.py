"""Make the tiny XLM models of tests/data/xlm: run it with a Python that has torch.

Two models with the original's variable names and the original's arithmetic, written here anew:
a causal one of two languages, and one with an adaptive softmax as a GPU of 2019 left it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

DATA = Path(__file__).parent / "data" / "xlm"
MAX_POSITIONS = 24
PARAMS = {
    "dump_path": "./dumped/test/1",
    "command": "python train.py --exp_name test",
    "emb_dim": 8,
    "n_layers": 2,
    "n_heads": 2,
    "dropout": 0.1,
    "attention_dropout": 0.2,
    "gelu_activation": True,
    "share_inout_emb": True,
    "sinusoidal_embeddings": False,
    "use_lang_emb": True,
    "use_memory": False,
    "asm": False,
    "langs": ["en"],
    "id2lang": {0: "en"},
    "lang2id": {"en": 0},
    "n_langs": 1,
    "clm_steps": [],
    "mlm_steps": [("en", None)],
    "bos_index": 0,
    "eos_index": 1,
    "pad_index": 2,
    "unk_index": 3,
    "mask_index": 5,
    "pred_probs": torch.tensor([0.8, 0.1, 0.1]),
    "mask_scores": np.arange(4) > 1,
    "lambda_mlm_config": None,
    "pairs": {("en", "fr"): 0.5},
}
WORDS = ["<s>", "</s>", "<pad>", "<unk>"] + [f"<special{i}>" for i in range(10)]
WORDS += ["the", "ca@@", "t", "c@@at", "cat", "s", "at", "on", "@@ma", "dog", "Ça"]
WORDS += ["x@@@@", "x@@", "中@@"]


def weights(params: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Seeded weights under the names of the original's TransformerModel."""
    random = torch.Generator().manual_seed(seed)
    dim, words = params["emb_dim"], params["n_words"]
    model: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int, mean: float = 0.0) -> None:
        model[name] = mean + 0.3 * torch.randn(*shape, generator=random)

    def norm(name: str) -> None:
        add(f"{name}.weight", dim, mean=1.0)
        add(f"{name}.bias", dim)

    add("position_embeddings.weight", MAX_POSITIONS, dim)
    if params["n_langs"] > 1:
        add("lang_embeddings.weight", params["n_langs"], dim)
    add("embeddings.weight", words, dim)
    norm("layer_norm_emb")
    for i in range(params["n_layers"]):
        for part in ("q_lin", "k_lin", "v_lin", "out_lin"):
            add(f"attentions.{i}.{part}.weight", dim, dim)
            add(f"attentions.{i}.{part}.bias", dim)
        norm(f"layer_norm1.{i}")
        add(f"ffns.{i}.lin1.weight", 4 * dim, dim)
        add(f"ffns.{i}.lin1.bias", 4 * dim)
        add(f"ffns.{i}.lin2.weight", dim, 4 * dim)
        add(f"ffns.{i}.lin2.bias", dim)
        norm(f"layer_norm2.{i}")
    if not params["asm"]:
        model["pred_layer.proj.weight"] = model["embeddings.weight"]
        add("pred_layer.proj.bias", words)
        return model
    cutoffs = [*params["asm_cutoffs"], words]
    add("pred_layer.proj.head.weight", cutoffs[0] + len(cutoffs) - 1, dim)
    add("pred_layer.proj.head.bias", cutoffs[0] + len(cutoffs) - 1)
    for i in range(len(cutoffs) - 1):
        width = int(dim // params["asm_div_value"] ** (i + 1))
        add(f"pred_layer.proj.tail.{i}.0.weight", width, dim)
        add(f"pred_layer.proj.tail.{i}.1.weight", cutoffs[i + 1] - cutoffs[i], width)
    return model


def forward(
    w: dict[str, torch.Tensor],
    params: dict[str, Any],
    x: torch.Tensor,
    lengths: torch.Tensor,
    langs: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and scores of every place: norms after the sums, queries scaled first."""

    def linear(name: str, values: torch.Tensor) -> torch.Tensor:
        return values @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, values: torch.Tensor) -> torch.Tensor:
        mean = values.mean(-1, keepdim=True)
        variance = ((values - mean) ** 2).mean(-1, keepdim=True)
        values = (values - mean) / torch.sqrt(variance + 1e-12)
        return values * w[f"{name}.weight"] + w[f"{name}.bias"]

    batch, length = x.shape
    heads, dim = params["n_heads"], params["emb_dim"]
    places = torch.arange(length)
    mask = places < lengths[:, None]
    allowed = mask[:, None, None, :]
    if causal:
        allowed = (places[None, :] <= places[:, None])[None, None]
    h = w["embeddings.weight"][x] + w["position_embeddings.weight"][places]
    if langs is not None:
        h = h + w["lang_embeddings.weight"][langs]
    h = norm("layer_norm_emb", h) * mask[..., None]
    for i in range(params["n_layers"]):
        q, k, v = (
            linear(f"attentions.{i}.{part}", h).view(batch, length, heads, -1).transpose(1, 2)
            for part in ("q_lin", "k_lin", "v_lin")
        )
        scores = (q / (dim / heads) ** 0.5) @ k.transpose(2, 3)
        chances = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
        context = (chances @ v).transpose(1, 2).reshape(batch, length, dim)
        h = norm(f"layer_norm1.{i}", h + linear(f"attentions.{i}.out_lin", context))
        inner = linear(f"ffns.{i}.lin1", h)
        inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
        h = norm(f"layer_norm2.{i}", h + linear(f"ffns.{i}.lin2", inner)) * mask[..., None]
    if not params["asm"]:
        return h, linear("pred_layer.proj", h)
    cut = params["asm_cutoffs"][0]
    head = F.log_softmax(linear("pred_layer.proj.head", h), -1)
    parts = [head[..., :cut]]
    for i in range(len(params["asm_cutoffs"])):
        down, up = (w[f"pred_layer.proj.tail.{i}.{j}.weight"] for j in (0, 1))
        tail = F.log_softmax(h @ down.T @ up.T, -1)
        parts.append(tail + head[..., cut + i, None])
    return h, torch.cat(parts, -1)


def save(folder: Path, name: str, params: dict[str, Any], seed: int, on_gpu: bool) -> None:
    params = {**PARAMS, "n_words": len(WORDS), **params}
    model = weights(params, seed)
    random = torch.Generator().manual_seed(seed + 1)
    x = torch.randint(14, len(WORDS), (2, 7), generator=random)
    lengths = torch.tensor([7, 4])
    x[1, 4:] = params["pad_index"]
    langs = torch.tensor([[0], [1]]).expand(2, 7) if params["n_langs"] > 1 else None
    causal = bool(params["clm_steps"])
    hidden, scores = forward(model, params, x, lengths, langs, causal)
    state: dict[str, Any] = {
        "epoch": 3,
        "best_metrics": {"valid_en_mlm_ppl": np.float64(7.5)},
        "model": {f"module.{key}" if on_gpu else key: value for key, value in model.items()},
        "dico_id2word": dict(enumerate(WORDS)),
        "dico_word2id": {word: i for i, word in enumerate(WORDS)},
        "dico_counts": dict.fromkeys(WORDS, 1),
        "params": params,
    }
    if on_gpu:
        state["model_optimizer"] = {
            "state": {i: {"exp_avg": torch.zeros(3)} for i in range(2)},
            "param_groups": [{"lr": 1e-4, "params": [0, 1]}],
        }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    torch.save(state, file, _use_new_zipfile_serialization=not on_gpu)
    if on_gpu:  # what torch wrote for a tensor on a GPU: the storage's class and its place
        data = file.read_bytes().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
        file.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    arrays = {"input_ids": x, "lengths": lengths, "hidden": hidden, "scores": scores}
    if langs is not None:
        arrays["langs"] = langs
    np.savez(folder / "io.npz", **{key: value.numpy() for key, value in arrays.items()})


def main() -> int:
    languages = {"langs": ["en", "fr"], "id2lang": {0: "en", 1: "fr"}, "n_langs": 2}
    languages |= {"lang2id": {"en": 0, "fr": 1}}
    steps = {"clm_steps": [("en", None), ("fr", None)], "mlm_steps": []}
    save(DATA / "causal", "best-valid_en_clm_ppl.pth", {**languages, **steps}, 1, False)
    (DATA / "causal" / "codes_enfr").write_text("c a 9\nca t</w> 7\nt h 5\nth e</w> 4\n")
    adaptive = {"asm": True, "asm_cutoffs": [12, 20], "asm_div_value": 2.0}
    save(DATA / "adaptive", "checkpoint.pth", {**adaptive, "share_inout_emb": False}, 2, True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
