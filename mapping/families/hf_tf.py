"""Models trained with Hugging Face's TensorFlow classes (TFBertModel and 269 others).

One layout for all of them: a rule of names and values (`_hf_names`), and the few exceptions to it
(`_hf_exceptions`). Which tensors a class has, `_hf_templates` knows. The config is transformers'
own, and kept.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError
from tfreader.files import read_small

from ..family import Beside, Config, Family, Layout, Made, SideFiles, Variables
from ..findings import some
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet
from ._hf_exceptions import LOSERS, LOST
from ._hf_reading import Named, Reading, class_scopes, read
from ._hf_templates import float_keys

PART = "model"
_NUMBER = re.compile(r"(?<=_\._)\d+|(?<=\.)\d+(?=[./]|$)")
_LISTED = re.compile(r"(?:.*/)?\w+_\._\d+/.*")  # a layer of a list


class TFClasses(Layout):
    name = "tf-classes"
    evidence = (r"(?i:tf)\w*/.*",)
    formats = ("safetensors", "sharded safetensors")

    def told_by(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """A scope named like a class; else a layer of a list, but not with such a scope inside."""
        scoped = [name for name in names if name[:2].lower() == "tf"]
        if scoped and (scopes := class_scopes(scoped)):
            return (next(name for name in scoped if name.partition("/")[0] in scopes),)
        listed = next(filter(_LISTED.fullmatch, names), None)
        if listed is None or class_scopes(part + "/" for part in listed.split("/")):
            return None
        return (listed,)

    def copies(self, config: Config, variables: Variables) -> Sequence[tuple[Made, Made]]:
        """Embeddings stored again by the head, and heads that PyTorch's class has tied to them."""
        reading = read(config, variables)
        first: dict[str, Named] = {}
        pairs = [
            (one.made, other.made)
            for one in reading.named
            if (other := first.setdefault(one.target, one)) is not one
        ]
        return [*pairs, *((alias.made, one.made) for alias, one in reading.tied)]

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        if not variables.own:
            return RuleSet((), family=FAMILY.model_type, name=FAMILY.model_type)
        reading = read(config, variables)
        _check_unique(reading)
        _check_stored(reading, config)
        named = [*reading.named]
        untied, said = _untied(reading, config)
        named += _decoder_biases(named)
        return RuleSet(
            tuple(_rules(named)),
            architectures=(Architecture(reading.kind, (PART,)),),
            drops=tuple(Drop(re.escape(name), why) for name, why in reading.dropped.items()),
            fills=tuple(
                Fill(
                    re.sub("running_mean$", "num_batches_tracked", one.target),
                    (),
                    "zeros",
                    "TensorFlow does not count them",
                    dtype="int64",
                )
                for one in named
                if one.target.endswith("running_mean")
            ),
            family=FAMILY.model_type,
            name=FAMILY.model_type,
            needs=tuple(reading.missing),
            config=untied,
            remarks=(*said, *_remarks(reading, config)),
        )


def _check_unique(reading: Reading) -> None:
    """Raise PlanError for two variables that are one tensor and differ."""
    first: dict[str, Named] = {}
    for one in reading.named:
        other = first.setdefault(one.target, one)
        if other is one:
            continue
        said = f"{other.name} and {one.name} are both {one.target}, and differ: "
        scopes = [each.name.partition("/")[0] for each in (other, one)]
        if scopes[0] != scopes[1]:
            options = [f"--scope {shlex.quote(scope)}" for scope in scopes]
            raise PlanError(
                f"{said}several models: convert one with {' or '.join(options)}, and "
                f"--architecture {reading.kind}"
            )
        raise PlanError(
            f"{said}leave one out, with --ignore-weights "
            f"{shlex.quote(re.escape(one.info.name))} for the second"
        )


def _check_stored(reading: Reading, config: Config) -> None:
    """Raise PlanError where TensorFlow left out the word embeddings, or uses them as the head."""
    lost = [name for name in reading.missing if LOST.fullmatch(name)]
    if lost and config.get("model_type") in LOSERS:
        raise PlanError(
            f"{lost[0]}, the word embeddings, is not in it: TensorFlow's own format loses them for "
            f"TF{reading.kind}, since another weight has the layer's name; tf_model.h5 and a "
            "SavedModel of the same model have them"
        )
    heads = [name for name in reading.missing if reading.is_tied(name)]
    if heads and config.get("tie_word_embeddings") is False:
        raise PlanError(
            f"{some(heads)}: not in it, though tie_word_embeddings = false asks for it: where "
            "TensorFlow's class has no head of its own but uses the embeddings, "
            "--set tie_word_embeddings=true says so"
        )


def _untied(reading: Reading, config: Config) -> tuple[Config, tuple[str, ...]]:
    """What the config has to say where a head is not the embeddings that it is tied to; a note."""
    own = [alias.target for alias, _ in reading.tied]
    if not own:
        return {}, ()
    keys: Config = {"tie_word_embeddings": False}
    if config.get("model_type") == "transfo-xl":
        keys |= {"tie_weight": False, "tie_projs": [False] * (len(config.get("cutoffs", ())) + 1)}
    if all(config.get(key) == value for key, value in keys.items()):
        return keys, ()
    return keys, (f"{some(own)}: not the embeddings, so config.json says {', '.join(keys)}: false",)


def _decoder_biases(named: Iterable[Named]) -> Iterator[Named]:
    """The bias of a head for masked words once more, as a class whose head is untied has it."""
    targets = {one.target for one in named}
    for one in named:
        head = one.target.removesuffix("predictions.bias")
        decoder = f"{head}predictions.decoder."
        if head != one.target and f"{decoder}weight" in targets:
            yield one._replace(target=f"{decoder}bias")


def _rules(named: Sequence[Named]) -> Iterator[Rule]:
    """A rule for each kind of tensor, whatever the numbers in its name."""
    times = Counter(one.name for one in {(one.name, one.info.name): one for one in named}.values())
    made: dict[tuple[str, str], None] = {}
    for one in named:
        name = one.name if times[one.name] == 1 else one.info.name
        source, target = _numbered(name, one.target)
        if (source, target) in made:
            continue
        made[source, target] = None
        numpy = one.info.dtype.numpy
        is_index = numpy is not None and np.issubdtype(numpy, np.integer)
        dtype = "int64" if is_index else None
        yield Rule((source,), (target,), one.ops, part=PART, required=False, dtype=dtype)


def _numbered(name: str, target: str) -> tuple[str, str]:
    """A regex of names and its target, with groups for the numbers that both have."""
    numbers = _NUMBER.findall(name)
    if numbers != [level for level in target.split(".") if level.isdigit()]:
        return re.escape(name), target
    between = _NUMBER.split(name)
    groups = [f"(?P<n{i}>\\d+)" for i in range(len(numbers))]
    source = "".join(
        re.escape(text) + group for text, group in zip(between, [*groups, ""], strict=True)
    )
    places = iter(range(len(numbers)))
    parts = (f"{{n{next(places)}}}" if p.isdigit() else p for p in target.split("."))
    return source, ".".join(parts)


def _remarks(reading: Reading, config: Config) -> Iterator[str]:
    named = config.get("architectures")
    if isinstance(named, list) and named and named[0] != reading.kind:
        yield f"{reading.kind}, by its variables; the config says {named[0]}"
    if reading.template is None:
        yield (
            f"{reading.kind}: not among the classes whose tensors are known here, so whether all "
            "are there could not be checked"
        )


# What belongs to a model beside its weights, and loads as it is.
SIDE_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "target_vocab.json",
    "merges.txt",
    "bpe.codes",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    "normalizer.json",
)
LARGEST = 64 << 20  # bytes of a side file


class HuggingFaceTF(Family):
    model_type = "hf-tf"
    layouts = (TFClasses(),)
    config_files = ("config.json",)
    any_type = True

    def translate(self, original: Mapping[str, Any]) -> Config:
        return {k: v for k, v in original.items() if k not in ("dtype", "torch_dtype")}

    def written(self, config: Config) -> Config:
        floats = float_keys(str(config["model_type"]))
        whole = {key for key in floats if type(config.get(key)) is int}
        try:
            return {**config, **{key: float(config[key]) for key in config if key in whole}}
        except OverflowError:
            names = ", ".join(sorted(whole))
            raise ConfigError(f"{names}: more than a number can be in a config.json") from None

    def check(self, config: Config) -> None:
        if config["model_type"] == self.model_type:
            raise ConfigError(
                "no config.json: sizes such as the number of heads are in no variable; it lies "
                "beside tf_model.h5 where save_pretrained wrote that: pass it with --config"
            )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The tokenizer, the preprocessor and the settings of generation, as they are."""
        found = {name: beside.find(name) for name in SIDE_FILES}
        return SideFiles(
            {name: read_small(path, LARGEST) for name, path in found.items() if path is not None}
        )


FAMILY = HuggingFaceTF()
