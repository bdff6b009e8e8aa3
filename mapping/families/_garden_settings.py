"""What the files beside a Garden's checkpoint say of its encoder.

The Garden's trainer writes params.yaml, Keras describes a SavedModel's layers (keras_metadata.py).
Either tells sizes that no variable does, and settings that change what is computed and not what the
variables are called. The keys are those of official/nlp/configs (encoders.py, bert.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfreader.errors import ConfigError
from tfreader.paths import AnyPath

from ..config_keys import class_keys
from ..family import Beside, Config, Told
from ..keras_metadata import METADATA, SAVED_MODEL, KerasObject, keras_objects
from ._garden import NEXT_SENTENCE

PARAMS = "params.yaml"
# Both spellings of a setting, the encoder's and the layer's: what Hugging Face calls it.
KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "embedding_width": "embedding_size",
    "initializer_range": "initializer_range",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "hidden_activation": "hidden_act",
    "inner_activation": "hidden_act",
    "intermediate_activation": "hidden_act",
    "dropout_rate": "hidden_dropout_prob",
    "output_dropout": "hidden_dropout_prob",
    "attention_dropout_rate": "attention_probs_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "norm_epsilon": "layer_norm_eps",
}
# Settings without a variable that only have one value in Hugging Face's classes.
FIXED: dict[str, Any] = {
    "norm_first": False,
    "use_query_residual": True,
    "use_bias": True,
    "attention_axes": None,
    "diff_q_kv_att_layer_norm": False,
    "cls_token_idx": 0,
}
# Of the encoder's settings, those that choose what it returns, the one that variables tell, and
# those of token dropping, a way to train a BERT.
HARMLESS = {
    "embedding_size",
    "token_allow_list",
    "token_deny_list",
    "token_keep_k",
    "token_loss_beta",
    "token_loss_init_value",
    "output_range",
    "return_all_encoder_outputs",
    "return_attention_scores",
}
MEANINGS = {
    "norm_first": "layers normalise before attention (pre-norm), where BERT does behind it",
    "cls_token_idx": "the pooler takes another token than the first",
}
# The Garden's own activations by their registered names; `gelu` alone is Keras' erf form.
ACTIVATIONS = {"Text>gelu": "gelu_new", "swish": "silu", "Text>simple_swish": "silu"}
ENCODERS = re.compile(r"Text>(?:Bert|Albert|AlbertTransformer|Transformer)Encoder(?:V2)?")
OTHER_ENCODERS = re.compile(
    r"Text>(?!.*Block)\w*(?:Encoder|Scaffold|XLNetBase)\w*|FNet|SparseMixer"
)
LAYERS = ("Text>TransformerEncoderBlock", "Text>Transformer", "Text>CompiledTransformer")
ATTENTIONS = ("MultiHeadAttention", "CachedAttention")
POOLERS = ("pooler_transform", "pooler_dense")
TYPES = ("bert", "bert_v2", "albert")
# What may lie between an encoder and a classifier on it, or beside both.
TRANSPARENT = ("InputLayer", "Dropout", "KerasLayer", "Functional", "Model")


@dataclass(frozen=True)
class Said:
    """A setting, and the file and object that say it."""

    where: str
    key: str
    value: Any


def from_settings(
    beside: Beside, config: Config, classifier: Sequence[str], *, may_be_pre_norm: bool
) -> Told:
    """The config keys that files beside the checkpoint give, and what is assumed without them.

    `config` is what is known already; `classifier` are the names of a layer on the encoder that is
    none of the Garden's. Raises ConfigError where a file tells of a model that is neither BERT nor
    ALBERT, or contradicts the config.
    """
    said = [Said("the config", key, value) for key, value in config.items() if key in FIXED]
    path = beside.find(PARAMS)
    of_params = list(_of_params(path, config.get("finetuning_task"))) if path is not None else []
    notes = [
        f"{each.where}: nothing here knows {each.key}; if that changes what the model computes, "
        "the result is wrong"
        for each in _unknown(of_params)
    ]
    said += of_params
    path = beside.find(METADATA, SAVED_MODEL)
    objects = keras_objects(path) if path is not None else []
    for each in objects:
        said += _of_object(f"{path}: {each.name or each.class_name}", each)
    notes += _on_classifier(str(path), objects, classifier) if classifier else []
    found = _agreed(said)
    number = found.get("num_hidden_layers")
    if number and config.get("num_hidden_layers", number.value) != number.value:
        raise ConfigError(
            f"num_hidden_layers = {config['num_hidden_layers']!r} in the config, but "
            f"{number.where} says {number.value!r}: correct one of them"
        )
    if may_be_pre_norm and not _of_norms(said):
        notes.append(
            "norm_first is taken to be false, as BERT has it: no file beside the checkpoint tells, "
            "and an encoder that normalises first (pre-norm) has the same variables; --config "
            f"{PARAMS} names the trainer's file where it lies elsewhere"
        )
    return Told({key: setting.value for key, setting in found.items()}, tuple(notes))


def read_params(text: str) -> Config | None:
    """Hugging Face's keys from the text of a params.yaml that the user named, and norm_first.

    None where it is none. Raises ConfigError where it tells of another model, or of no encoder.
    """
    if re.search(r"^task:", text, re.MULTILINE) is None:
        return None
    from ._params_yaml import parse_yaml  # yaml takes its time, and most configs are JSON

    said = list(_of_model(_section(parse_yaml(text), "task", "model"), "", None))
    if not said:
        raise ConfigError("a params.yaml of the Model Garden, but without task.model.encoder")
    others = {each.key: each.value for each in (*_unknown(said), *_of_norms(said))}
    return others | {key: setting.value for key, setting in _agreed(said).items()}


def _agreed(said: Sequence[Said]) -> dict[str, Said]:
    """The settings by Hugging Face's keys. Raises ConfigError for those that no class has."""
    found: dict[str, Said] = {}
    for setting in said:
        _check_fixed(setting)
        key, value = KEYS.get(setting.key), setting.value
        if key == "hidden_act":
            value = _activation(value)
        if key is None or value is None:
            continue
        kind = class_keys("albert")[key]  # which has all of bert's
        if not kind.fits(value):
            raise ConfigError(f"{setting.where}: {setting.key} = {value!r}, expected {kind.words}")
        other = found.setdefault(key, Said(setting.where, setting.key, value))
        if other.value != value:
            raise ConfigError(
                f"{other.where}: {other.key} = {other.value!r}, but {setting.where}: "
                f"{setting.key} = {value!r}; Hugging Face's config has one {key} for all layers"
            )
    return found


def _unknown(said: Sequence[Said]) -> list[Said]:
    return [each for each in said if each.key not in {*KEYS, *FIXED, *HARMLESS}]


def _of_norms(said: Sequence[Said]) -> list[Said]:
    return [each for each in said if each.key == "norm_first"]


def _check_fixed(said: Said) -> None:
    if said.key in FIXED and said.value != FIXED[said.key]:
        meaning = f": {MEANINGS[said.key]}" if said.key in MEANINGS else ""
        raise ConfigError(
            f"{said.where}: {said.key} = {said.value!r}{meaning}. Hugging Face's classes compute "
            f"with {FIXED[said.key]!r} alone, so the result would be another model"
        )


def _activation(value: Any) -> str | None:
    """Hugging Face's name of a serialised activation; None where it was a nameless function."""
    if isinstance(value, Mapping):
        value = value.get("registered_name") or value.get("config") or value.get("class_name")
    if not isinstance(value, str) or value.startswith("<"):
        return None
    return ACTIVATIONS.get(value, value.rpartition(">")[2])


def _of_params(path: AnyPath, task: str | None) -> Iterator[Said]:
    from ._params_yaml import read_yaml  # most checkpoints have none, and yaml takes its time

    return _of_model(_section(read_yaml(path), "task", "model"), f"{path}: ", task)


def _of_model(data: Mapping[str, Any], file: str, task: str | None) -> Iterator[Said]:
    """The settings of the section task.model; `file` is what a message begins with.

    `task` is the name of the head chosen. Raises ConfigError.
    """
    # Of ELECTRA only the discriminator's encoder can be told apart by a scope, and converted.
    encoder = _section(data, "encoder") or _section(data, "discriminator_encoder")
    kind = encoder.get("type") or next((key for key in encoder if key in TYPES), None)
    where = f"{file}encoder.{kind}"
    if kind is None:
        return
    own = _section(encoder, str(kind))
    if kind not in TYPES and "token_keep_k" not in own:
        raise ConfigError(f"{where}: an encoder other than {', '.join(TYPES)}, of no class here")
    # The trainer looks names up among the Garden's activations, whose gelu is the tanh form.
    for key, value in own.items():
        yield Said(where, str(key), f"Text>{value}" if value == "gelu" else value)
    of_words = data.get("mlm_activation")
    if of_words is not None and of_words != own.get("hidden_activation", of_words):
        raise ConfigError(
            f"{file}mlm_activation = {of_words!r}, hidden_activation = "
            f"{own['hidden_activation']!r}: Hugging Face's classes have one for both; for a class "
            "without masked words, take mlm_activation out of the file"
        )
    listed = data.get("cls_heads")
    for head in _used(listed, task) if isinstance(listed, list) else ():
        place = f"{file}head {head.get('name')}"
        yield Said(place, "cls_token_idx", head.get("cls_token_idx", 0))
        activation = head.get("activation", "tanh")
        if activation != "tanh":
            raise ConfigError(
                f"{place}: activation = {activation!r}, where BERT's pooler has tanh: no class "
                "computes the same; where the head is not wanted, take it out of the file and "
                "leave its variables out with --ignore REGEX"
            )


def _used(listed: Sequence[Any], task: str | None) -> list[Mapping[str, Any]]:
    """The heads for sentences whose pooler may be the model's; see _garden.chosen_heads."""
    heads = [head for head in listed if isinstance(head, Mapping) and head.get("inner_dim") != 0]
    for name in (task, NEXT_SENTENCE):
        if chosen := [head for head in heads if name is not None and head.get("name") == name]:
            return chosen
    return heads


def _section(data: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, Mapping) else {}


def _of_object(where: str, each: KerasObject) -> Iterator[Said]:
    """The settings of an encoder, a layer of one, or a head."""
    kind = each.class_name.rpartition(">")[2]
    if OTHER_ENCODERS.fullmatch(each.class_name) and not ENCODERS.fullmatch(each.class_name):
        raise ConfigError(f"{where}: a {kind}, which is no class here")
    if each.name == "self_attention" and kind not in ATTENTIONS:
        raise ConfigError(f"{where}: attention by {kind}, where BERT has MultiHeadAttention")
    activation = each.config.get("activation", "tanh")
    if each.name in POOLERS and _activation(activation) != "tanh":
        raise ConfigError(f"{where}: activation = {activation!r}, where BERT's pooler has tanh")
    keys: tuple[str, ...] = ()
    if ENCODERS.fullmatch(each.class_name):
        # What the layers say of their activation is exact, what an encoder says is not.
        keys = ("num_layers", "num_attention_heads", "norm_first")
    elif each.class_name in LAYERS:
        keys = tuple(each.config)
    elif kind == "ClassificationHead":
        keys = ("cls_token_idx",)
    yield from (Said(where, key, each.config[key]) for key in keys if key in each.config)


def _on_classifier(path: str, objects: list[KerasObject], names: Sequence[str]) -> list[str]:
    """Notes on a layer that is taken for a classifier; ConfigError where it is none."""
    shown = names[0]
    likely = [o for o in objects if o.path in names] or [o for o in objects if o.name in names]
    layer = likely[0] if likely else None
    if layer is None or layer.input_shape is None:
        return [
            f"{shown} is taken for a classifier of what BERT pools: no file beside the checkpoint "
            "tells; --architecture BertForTokenClassification where it is applied to each token"
        ]
    if len(layer.input_shape) != 2:
        raise ConfigError(f"{path}: {shown} is applied to each token, not to what BERT pools")
    nearby = [o for o in objects if o.path and "/" not in o.path and o.path != layer.path]
    for other in nearby if layer.path and "/" not in layer.path else ():
        if other.class_name not in TRANSPARENT and not ENCODERS.fullmatch(other.class_name):
            raise ConfigError(
                f"{path}: beside {shown} there is {other.name} ({other.class_name}): not what a "
                "class of transformers computes"
            )
    activation = _activation(layer.config.get("activation", "linear"))
    if activation in ("linear", "identity"):
        return []
    if activation in ("sigmoid", "softmax", "log_softmax"):
        return [f"{shown}: the original applies {activation} to the logits that this model gives"]
    raise ConfigError(f"{path}: {shown} has the activation {activation}, a classifier has none")
