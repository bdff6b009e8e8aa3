"""Names in pieces: text and numbers, and the words that a name is made of.

>>> pieces("block_2/conv").skeleton
'block_#/conv'
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property, lru_cache

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_RANK = re.compile(r"(?i)(conv|convolution|norm|dropout|pool|pooling)_?[123]d")
# What layers are called on either side; one word for all spellings.
_MEANINGS = {
    "conv": "conv convolution convolutional",
    "fc": "fc dense linear fully connected logits logit softmax classifier head",
    "norm": "norm bn batchnorm normalization normalisation batch ln layernorm normalize norms",
    "embed": "embedding embeddings embed emb tok token wte lookup embedder",
    "down": "shortcut downsample proj projection skip",
    "attn": "attention attn self mha",
    "q": "query q",
    "k": "key k",
    "v": "value v val",
    "out": "output out o",
    "in": "input in",
    "layer": "layer layers block blocks unit units cell cells stage stages l h",
    "enc": "encoder enc",
    "dec": "decoder dec",
    "pos": "position positional positions pos wpe",
    "reverse": "reverse backward bw",
    "forward": "forward fw",
    "rnn": "rnn lstm",
    "act": "prelu alphas alpha act",
    "depthwise": "depthwise dw",
    "pointwise": "pointwise pw",
    "ffn": "ffn mlp feedforward intermediate",
    "mean": "mean mu avg",
    "var": "var variance",
    "policy": "policy pi actor",
    "vf": "vf critic",
    "gen": "generator gen g",
    "disc": "discriminator disc d",
    "std": "std stddev sigma",
    "cls": "cls classification class",
    "box": "box bbox boxes regression reg",
}
_CANONICAL = {word: key for key, words in _MEANINGS.items() for word in words.split()}
# Names that TensorFlow gives by itself: their numbers count what was made, whatever for.
AUTOMATIC = re.compile(
    r"(?:dense|conv[123]d(?:_transpose)?|separable_conv[12]d|depthwise_conv2d|lstm|gru|embedding"
    r"|batch_normalization|layer_normalization|fully_connected|Conv|BatchNorm|Variable|linear"
    r"|layer_with_weights-|conv_[123]d|batch_norm|layer_norm|multi_head_attention|prelu)_?#"
)


@dataclass(frozen=True)
class Pieces:
    """A name as text and numbers in turn, text first and last.

    `optional` are the numbers that are not written: a missing `_1` counts as 0.
    """

    texts: tuple[str, ...]
    digits: tuple[str, ...]
    optional: frozenset[int]

    @cached_property
    def skeleton(self) -> str:
        """The name with # for each number."""
        marks = ["?" if i in self.optional else "#" for i in range(len(self.digits))]
        return "".join(t + m for t, m in zip(self.texts, [*marks, ""], strict=True))

    def prefix(self, slot: int) -> str:
        """The name up to the end of the part that a number is in, with # for numbers."""
        end = slot + 1
        while end < len(self.digits) and not set("/.") & set(self.texts[end]):
            end += 1
        return "#".join((*self.texts[:end], re.split("[/.]", self.texts[end])[0]))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The word before each number, in the one spelling that stands for all."""
        return tuple((*words(text)[-1:], "")[0] for text in self.texts[:-1])

    @cached_property
    def sizes(self) -> frozenset[int]:
        """The places of numbers that are the size of a kernel, 3x3."""
        crosses = [i for i, text in enumerate(self.texts) if text == "x"]
        return frozenset(slot for i in crosses for slot in (i - 1, i))

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(text or 0) for text in self.digits)

    def is_automatic(self, slot: int) -> bool:
        """Whether a number is one that TensorFlow gives by itself."""
        text = self.texts[slot].rpartition("/")[2]
        return slot in self.optional or bool(AUTOMATIC.fullmatch(text + "#"))


@lru_cache(100_000)
def pieces(name: str, counted: Collection[str] = frozenset()) -> Pieces:
    """A name in pieces; parts of it that are `counted` have the number 0, or are followed by _N."""
    texts, digits, optional = [""], [], set()
    for part in re.split(r"([/.])", name):
        base, _, end = part.rpartition("_")
        is_numbered = end.isdigit() and base in counted
        head = base if is_numbered else part
        found = re.split(r"(\d+)", head)
        texts[-1] += found[0]
        for number, text in zip(found[1::2], found[2::2], strict=True):
            digits.append(number)
            texts.append(text)
        if is_numbered or part in counted:
            optional.add(len(digits))
            digits.append(end if is_numbered else "")
            texts.append("")
    return Pieces(tuple(texts), tuple(digits), frozenset(optional))


def lettered(name: str) -> str:
    """A name whose layers are counted by letters, as slim's `Conv2d_0b_3x3`, with numbers."""
    return re.sub(r"(?<=_\d)[a-e](?=[_/]|$)", lambda match: f"_{ord(match[0]) - ord('a')}", name)


def counted_parts(names: Collection[str]) -> frozenset[str]:
    """The parts of paths that also occur with _1 behind: `unit` beside `unit_1`."""
    parts = {part for name in names for part in name.split("/")}
    return frozenset(part for part in parts if f"{part}_1" in parts)


@lru_cache(100_000)
def words(name: str) -> tuple[str, ...]:
    """The words of a name, each in the one spelling that stands for all."""
    found = [word.lower() for word in _WORD.findall(_RANK.sub(r"\1", name))]
    return tuple(_CANONICAL.get(word, word) for word in found if not word.isdigit())


# What only says of which kind a layer is tells it from no other of that kind.
_KINDS = {"fc", "conv", "norm", "layer", "rnn", "embed", "act"}
_HEADS = {"logits", "logit", "softmax", "classifier", "head"}


@lru_cache(100_000)
def telling(name: str) -> frozenset[str]:
    """Of the words of a name those that may tell a layer from others of its kind."""
    found = [word.lower() for word in _WORD.findall(_RANK.sub(r"\1", name))]
    spelled = {"head" if word in _HEADS else _CANONICAL.get(word, word) for word in found}
    return frozenset(word for word in spelled if not word.isdigit() and word not in _KINDS)
