"""Models trained with Hugging Face's TensorFlow classes (TFBertModel and 269 others).

One layout for all of them: a rule of names and values (`_hf_names`), and the few exceptions to it
(`_hf_exceptions`). Which tensors a class has, `_hf_templates` knows. The config is transformers'
own, and kept.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError
from tfreader.files import read_small
from tfreader.system import quoted

from ..config_checks import naming
from ..family import Beside, Config, Family, Layout, Made, SideFiles, Variables
from ..findings import some
from ..rules.ops import Shape, Step
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet
from ._hf_exceptions import LABELED, LABELS, LOSERS, LOST, SIZES
from ._hf_reading import Named, Reading, class_scopes, read
from ._hf_sizes import axes
from ._hf_templates import at, classes, float_keys

PART = "model"
_NUMBER = re.compile(r"(?<=_\._)\d+|(?<=\.)\d+(?=[./]|$)")
_LISTED = re.compile(r"(?:.*/)?\w+_\._\d+/.*")  # a layer of a list


class TFClasses(Layout):
    name = "tf-classes"
    evidence = (r"(?i:tf)\w*/.*",)
    formats = ("safetensors", "sharded safetensors")

    def told_by(self, names: Sequence[str], trained: bool = False) -> tuple[str, ...] | None:
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
        return [(copy.made, one.made) for copy, one in (*reading.doubles, *reading.tied)]

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        if not variables.own:
            return RuleSet((), family=FAMILY.model_type, name=FAMILY.model_type)
        _check_named(variables)
        reading = read(config, variables)
        _check_unique(reading)
        _check_type(reading, config)
        _check_stored(reading, config)
        _check_surplus(reading)
        _check_sizes(reading)
        named = [*reading.named]
        untied, said = _untied(reading, config)
        placed, told = _positions(reading, config)
        named += _decoder_biases(named)
        return RuleSet(
            tuple(_rules(named)),
            architectures=(Architecture(reading.kind, (PART,)),),
            drops=tuple(Drop(re.escape(name), why) for name, why in reading.dropped.items()),
            fills=tuple(
                Fill(
                    f"{one.target.removesuffix('running_mean')}num_batches_tracked",
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
            config=untied | placed,
            remarks=(*said, *told, *_remarks(reading, config)),
        )


def _check_unique(reading: Reading) -> None:
    """Raise PlanError for two variables that are one tensor and differ."""
    for one, other in reading.doubles:
        said = f"{other.name} and {one.name} are both {one.target}, and differ: "
        scopes = [each.name.partition("/")[0] for each in (other, one)]
        if scopes[0] != scopes[1]:
            options = [f"--scope {quoted(scope)}" for scope in scopes]
            raise PlanError(
                f"{said}several models: convert one with {' or '.join(options)}, and "
                f"--architecture {reading.kind}"
            )
        raise PlanError(
            f"{said}leave one out, with --ignore-weights "
            f"{quoted(re.escape(one.info.name))} for the second"
        )


def _check_named(variables: Variables) -> None:
    """Raise PlanError where the file has numbers for its layers' variables, in no told order."""
    if all(name.rpartition("/")[2].isdigit() for name, _ in variables.own):
        raise PlanError(
            "its variables have numbers for names, as .keras and .weights.h5 files of Keras have, "
            "and not those of transformers' classes: load it with the Keras that wrote it, and "
            "save it with save_pretrained, or as an .h5 file"
        )


def _check_type(reading: Reading, config: Config) -> None:
    """Raise PlanError where the config is of another type of model than the class.

    One that no config.json gave has the family's own type, of which `check` tells.
    """
    told = config.get("model_type", FAMILY.model_type)
    own = reading.template.model_type if reading.template else told
    if told not in (own, FAMILY.model_type):
        raise PlanError(
            f"the config is of model type {told}, and {reading.kind} of {own}: pass the model's "
            f"own with --config, or --set model_type={own} where it fits but for that"
        )


def _check_surplus(reading: Reading) -> None:
    """Raise PlanError for tensors that the class has not, with this config."""
    surplus = reading.surplus
    if not surplus:
        return
    keys = next(iter(surplus.values()))
    said = [f"{key} = {json.dumps(at(reading.config, key.split('.')))}" for key in keys]
    # Not of a part's config or of a list, of which one value is not enough.
    is_enough = all(type(value) in (bool, int) and "." not in key for key, value in keys.items())
    needed = " ".join(f"--set {key}={json.dumps(value)}" for key, value in keys.items())
    raise PlanError(
        f"{some([*surplus])}: by the config, with {' and '.join(said)}, {reading.kind} has no such "
        "tensor; pass the model's own with --config"
        + (f", or {needed} where that is wrong" if is_enough and keys else "")
    )


def _check_sizes(reading: Reading) -> None:
    """Raise PlanError for embeddings or a head of another size than the config says."""
    config = reading.config
    names = config.get("id2label")
    labels = len(names) if isinstance(names, dict) else config.get("num_labels", 2)
    sizes = {regex: (key, config.get(key)) for regex, key in SIZES.items()}
    if re.fullmatch(LABELED, reading.kind):
        sizes[LABELS] = "num_labels", labels
    for one in reading.named:
        for regex, (key, told) in sizes.items():
            if type(told) is not int or not re.fullmatch(regex, one.target):
                continue
            rows = one.info.shape[-1:] if one.ops else one.info.shape[:1]  # a kernel's come last
            if rows in ((), (told,)):
                continue
            fix = f"--set {key}={rows[0]} where only that is wrong"
            if key == "num_labels" and isinstance(names, dict):
                fix = f"name as many: {naming(rows[0])}"
            raise PlanError(
                f"{one.target} is for {key} = {rows[0]}, and by the config {key} = {told}: pass "
                f"the model's own with --config, or {fix}"
            )
    _check_axes(reading)


def _check_axes(reading: Reading) -> None:
    """Raise PlanError for a tensor of another shape than the class has with this config."""
    prefix = reading.template.base_model_prefix if reading.template else ""
    for one in reading.named:
        shape = _shape(one)
        for axis, path in axes(reading.kind, prefix, one.target):
            told = at(reading.config, path.split("."))
            if axis >= len(shape) or type(told) is not int or told == shape[axis]:
                continue
            fix = "" if "." in path else f", or --set {path}={shape[axis]} where only that is wrong"
            raise PlanError(
                f"{one.target} has the shape {[*shape]}, and by the config {path} = {told}: pass "
                f"the model's own with --config{fix}"
            )


def _shape(one: Named) -> Shape:
    """The tensor's shape; none of its axes where the operations do not fit, as planning says."""
    shape = one.info.shape
    try:
        for op in one.ops:
            shape = op.shape(shape) if isinstance(op, Step) else shape
    except ValueError:
        return ()
    return shape


def _check_stored(reading: Reading, config: Config) -> None:
    """Raise PlanError where TensorFlow left out the word embeddings, or uses them as the head."""
    lost = [name for name in reading.missing if LOST.fullmatch(name)]
    if lost and config.get("model_type") in LOSERS:
        raise PlanError(
            f"{lost[0]}, the word embeddings, is not in it: TensorFlow's own format loses them for "
            f"TF{reading.kind}, since another weight has the layer's name; tf_model.h5 and a "
            "SavedModel of the same model have them",
            model_type=config["model_type"],
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


def _positions(reading: Reading, config: Config) -> tuple[Config, tuple[str, ...]]:
    """What the config has to say of positions that TensorFlow's class has not; a note."""
    kind = config.get("position_embedding_type")
    is_relative = isinstance(kind, str) and kind.startswith("relative_key")
    if not is_relative or any("distance_embedding" in one.target for one in reading.named):
        return {}, ()
    return {"position_embedding_type": "absolute"}, (
        f"no relative positions in it: TF{reading.kind} computes without, whatever the config says "
        f"({kind}), so config.json says position_embedding_type: absolute",
    )


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
    times = Counter(name for name, _ in {(one.name, one.info.name) for one in named})
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
    pads = False  # which differs by type
    any_type = True

    def classes(self) -> tuple[str, ...]:
        return classes()

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
                "beside tf_model.h5 where save_pretrained wrote that: pass it with --config",
                code="missing-config",
            )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The tokenizer, the preprocessor and the settings of generation, as they are."""
        found = {name: beside.find(name) for name in SIDE_FILES}
        return SideFiles(
            {name: read_small(path, LARGEST) for name, path in found.items() if path is not None}
        )


FAMILY = HuggingFaceTF()
