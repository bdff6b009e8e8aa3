"""Make tests/data/gpt: a tiny first GPT as OpenAI released it, with a forward pass in numpy.

The original's files are plain numpy arrays, so nothing but numpy is needed. The output is
committed.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parent / "data" / "gpt"
VOCAB, POSITIONS, SIZE, HEADS, LAYERS, SHARDS = 23, 12, 12, 3, 2, 4


def norm(x, g, b):
    deviation = x - x.mean(-1, keepdims=True)
    return deviation / np.sqrt(np.square(deviation).mean(-1, keepdims=True) + 1e-5) * g + b


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(x, w, b):
    batch, length, _ = x.shape
    split = np.split(x @ w[0] + b, 3, -1)
    query, key, value = (y.reshape(batch, length, HEADS, -1).transpose(0, 2, 1, 3) for y in split)
    scores = query @ key.transpose(0, 1, 3, 2) / math.sqrt(SIZE // HEADS)
    scores = np.where(np.tri(length, dtype=bool), scores, -1e9)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    context = weights / weights.sum(-1, keepdims=True) @ value
    return context.transpose(0, 2, 1, 3).reshape(x.shape)


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    random = np.random.default_rng(4)
    parameters, names = [], ["model/we:0"]

    def parameter(*shape, around=0.0):
        parameters.append((around + random.normal(0, 0.2, shape)).astype(np.float32))
        return parameters[-1]

    places, words = parameter(POSITIONS, SIZE), parameter(VOCAB, SIZE)
    ids = random.integers(0, VOCAB, (2, 9))
    x = words[ids] + places[: ids.shape[1]]
    for layer in range(LAYERS):

        def conv1d(name, inputs, outputs, layer=layer):
            names.extend(f"model/h{layer}/{name}/{part}:0" for part in "wb")
            return parameter(1, inputs, outputs), parameter(outputs)

        def scale(name, layer=layer):
            names.extend(f"model/h{layer}/{name}/{part}:0" for part in "gb")
            return parameter(SIZE, around=1.0), parameter(SIZE)

        attended = attention(x, *conv1d("attn/c_attn", SIZE, 3 * SIZE))
        w, b = conv1d("attn/c_proj", SIZE, SIZE)
        x = norm(x + attended @ w[0] + b, *scale("ln_1"))
        w, b = conv1d("mlp/c_fc", SIZE, 4 * SIZE)
        inner = gelu(x @ w[0] + b)
        w, b = conv1d("mlp/c_proj", 4 * SIZE, SIZE)
        x = norm(x + inner @ w[0] + b, *scale("ln_2"))
    flat = np.concatenate([values.ravel() for values in parameters])
    for i, shard in enumerate(np.array_split(flat, SHARDS)):
        np.save(DATA / f"params_{i}.npy", shard)
    shapes = [list(values.shape) for values in parameters]
    (DATA / "params_shapes.json").write_text(json.dumps(shapes))
    names += ["model/clf/w:0", "model/clf/b:0"]  # listed in the release, without values
    (DATA / "parameters_names.json").write_text(json.dumps(names))
    np.savez_compressed(DATA / "forward.npz", input_ids=ids, logits=x @ words.T)


if __name__ == "__main__":
    main()
