"""Whether a model's config.json computes what the plan's would, where no shape tells.

A key that is not there has its class's default. Many an old converter left keys at those that the
original does not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tfreader.errors import ConfigError, RemoteError
from tfreader.files import SMALL, read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath

from ..config_keys._kinds import MAX_LAYERS
from ..families._hf_defaults import defaults, other_names
from ..plan import Plan
from .spellings import has_ties

CONFIG = "config.json"
# Which no output depends on: training, generating, how a model is loaded and what else it returns.
_NO_MATTER = re.compile(
    r"""_name_or_path | _commit_hash | _\w+_implementation\w* | architectures | auto_map
    | transformers_version | (?:torch_)?dtype | use_bfloat16 | torchscript | tokenizer_class
    | finetuning_task | task_specific_params | task_\w+ | label2id | problem_type
    | (?!token_)\w*drop\w* | (?!layer_scale)\w*init(?:ializer)?_\w+ | init_\w+
    | (?!\w*_tokens?$)\w*loss\w*
    | label_smoothing | ctc_\w+ | apply_spec_augment | mask_(?:time|feature|ratio)\w* | freeze_\w+
    | gradient_checkpointing | num_negatives | semantic_\w+ | aggregation_temperature
    | positive_label_weight | cell_selection_preference | use_answer_as_supervision | use_gumbel_\w+
    | average_approximation_function | output_(?:attentions|hidden_states|past|scores|retrieved)
    | return_dict\w* | use_cache | use_mems_\w+ | chunk_size_feed_forward | onnx_export
    | (?:max|min)_(?:new_)?(?:length|tokens) | num_beams | num_beam_groups | \w*no_repeat_ngram_size
    | early_stopping | do_sample | top_[kp] | typical_p | \w+_penalty
    | num_return_sequences | bad_words_ids | (?:begin_)?suppress_tokens | forced_\w+ | prefix
    | remove_invalid_values | out_(?:features|indices) | stage_names | directionality
    | pooler_(?:fc_size|num_\w+|size_per_head|type) | vocab_list | lang2id | id2lang | n_ctx
    | vocab_size | max_position_embeddings | n_positions | dataset\w* | num_(?!aggregation)\w*labels
    | index_\w+ | passages_path
    | use_dummy_dataset | sinusoidal_\w+ | reorder_and_upcast_attn | median_filter_width
    | down_scale_factor | gap_size | net_structure_type | num_memory_blocks""",
    re.VERBOSE,
)
# Which tell of inputs and of what is generated, or what shapes tell too: worth a note.
_WORTH_A_NOTE = re.compile(
    r"\w+_token_id|\w+_index|lang_id|(?:start|end)_n_top|image_size|mem_len|reuse_len|"
    r"depth_multiplier|min_depth|depth_divisible_by"
)
_BY_TOKEN = {
    "eos_token_id": ("clip_text_model", "groupvit_text_model"),
    "mask_token_id": ("esm",),
    "pad_token_id": (
        *("camembert", "esm", "layoutlmv3", "longformer", "mpnet", "roberta"),
        *("roberta-prelayernorm", "speech_to_text", "xglm", "xlm-roberta"),
    ),
}
"""Types that count positions from the padding's number on, or look for another token."""
_BY_LAST = {
    "eos_token_id": ("bart", "mbart"),
    "pad_token_id": ("ctrl", "gpt2", "gpt_neo", "gptj", "mistral", "openai-gpt", "opt"),
}
"""And those whose classes for sequences look for the last token by it."""
_OF_ALL: Mapping[str, Any] = {
    "quantization_config": None,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
}
"""What all classes have by default, of keys that transformers writes only otherwise."""
_PARTS = (
    ("decoder", r"(?:num_)?decoder_\w+|encoder_stride"),
    ("pooler", r"pooler_\w+"),
    ("adapter", r"(?:num_)?adapter_\w+|output_hidden_size"),
    ("auxiliary", r"auxiliary_\w+"),
    ("codevector", r"\w*codevector\w*|contrastive_\w+"),
    ("tdnn", r"tdnn_\w+|xvector_\w+"),
    ("pred_layer", "asm"),
    ("projector", "classifier_proj_size"),
    (
        "output_weights",
        r"max_num_(?:rows|columns)|select_one_column|temperature|average_logits_\w+",
    ),
    ("output_weights", r"allow_empty_column_selection|num_aggregation_labels"),
)
"""Parts by what their tensors' names have, and keys that decide nothing where there is none."""
_HEADS = ("SequenceClassification", "MultipleChoice", "DoubleHeadsModel")
"""Classes with a head that goes by the keys summary_*."""
_T5 = ("t5", "mt5", "umt5")  # each has checkpoints of T5's code
# Close enough to each other that which of them the original computed is often not known.
_GELUS = ("gelu", "gelu_python"), ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_SAME = (*_GELUS, ("silu", "swish"))
_NEAR = sum(_GELUS, ())


def read_config(folder: AnyPath) -> Mapping[str, Any] | None:
    """A model's config.json; None where it has none. Raises ConfigError, RemoteError."""
    path = folder / CONFIG
    if folder.is_file() or not path.is_file():
        return None
    try:
        config = parse_json(read_small(path, SMALL).decode("utf-8"))
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: not an object with keys")
    return config


def differences(
    planned: Mapping[str, Any],
    found: Mapping[str, Any],
    plan: Plan | None = None,
    where: str = "",
) -> Iterator[tuple[str, bool]]:
    """The keys that compute something else, as text, and whether that is wrong for sure.

    Keys that both have are compared, but for those that no output depends on; of those that one of
    both lacks, the ones whose default is known. `plan` tells what the class has, and `where` is the
    path of a part's config.
    """
    model_type = str(planned.get("model_type"))
    known = {**_OF_ALL, **defaults(model_type)}
    planned, found = (_spelled_out(each, model_type) for each in (planned, found))
    for key in dict.fromkeys(("model_type", *planned, *known)):
        ours, theirs = planned.get(key, known.get(key)), found.get(key, known.get(key))
        if isinstance(ours, dict) and ("model_type" in ours or key.endswith("_config")):
            theirs = theirs if isinstance(theirs, dict) else {}
            yield from differences(ours, theirs, plan, f"{where}{key}.")
        elif key == "id2label":
            yield from _of_labels(ours, theirs)
        elif _is_said(key, planned, found, known) and not _are_same(key, ours, theirs):
            if _is_passed_over(key, planned, found, plan):
                continue
            what = f"{where}{key} = {json.dumps(theirs)}"
            if key not in found:
                what = f"no {where}{key}, which means {json.dumps(theirs)}"
            yield (
                f"{what}; the checkpoint's is {json.dumps(ours)}",
                _is_wrong(key, ours, theirs, planned, plan),
            )


def _is_said(
    key: str, planned: Mapping[str, Any], found: Mapping[str, Any], known: Mapping[str, Any]
) -> bool:
    """Whether the values of a key are known of both.

    Null leaves it to the class, but where that is the default of what is no size.
    """
    if known.get(key, 0) is None:
        return not re.fullmatch(r"n_inner|\w*(?:dim|size|heads)", key)
    return all(each[key] is not None if key in each else key in known for each in (planned, found))


def _is_wrong(
    key: str, ours: Any, theirs: Any, planned: Mapping[str, Any], plan: Plan | None
) -> bool:
    """Whether a key that differs is wrong for sure."""
    model_type = planned.get("model_type")
    kind = (plan.architecture if plan else None) or ""
    if key == "model_type":
        return ours not in _T5 or theirs not in _T5
    if key in _BY_TOKEN:
        is_last = kind.endswith("ForSequenceClassification") and model_type in _BY_LAST.get(key, ())
        return is_last or model_type in _BY_TOKEN[key]
    if key == "aggregation_labels":  # names, which count as those of id2label do
        return theirs is not None
    if key.startswith("summary_"):
        is_there = _has(plan, "summary") or planned.get("summary_use_proj") is False
        return kind.endswith(_HEADS) and is_there
    if ours in _NEAR and theirs in _NEAR:  # of TensorFlow's classes, the config is the original's
        return plan is not None and plan.family is not None and plan.family.any_type
    return not _WORTH_A_NOTE.fullmatch(key)


def _has(plan: Plan | None, part: str) -> bool:
    """Whether a part of that name is in the class, as far as that is known."""
    return plan is None or any(part in entry.target for entry in plan.entries)


def _spelled_out(config: Mapping[str, Any], model_type: str) -> Mapping[str, Any]:
    """A config with what its class works out from other keys."""
    names = other_names(model_type)
    made = {names.get(key, key): value for key, value in config.items()}
    kinds = made.get("attention_types")  # GPT-Neo's, of which its class writes what they come to
    if isinstance(kinds, list) and all(map(_is_repeated, kinds)):
        made.setdefault("attention_layers", [kind for each, n in kinds for kind in each * n])
        del made["attention_types"]
    if model_type in _T5:
        kind = str(made.get("feed_forward_proj", "relu"))
        made.setdefault("is_gated_act", kind.startswith("gated-"))
        inner = kind.removeprefix("gated-")
        made.setdefault("dense_act_fn", "gelu_new" if kind == "gated-gelu" else inner)
    if isinstance(rope := made.pop("rope_parameters", None), dict):  # of transformers 5
        made |= {key: rope[key] for key in ("rope_theta", "rope_type") if key in rope}
    made.setdefault("rope_type", "default")
    if "scale_decoder_outputs" in made:  # of T5, beside which transformers 5 writes true always
        made["tie_word_embeddings"] = made.pop("scale_decoder_outputs")
    return made


def _is_passed_over(
    key: str, planned: Mapping[str, Any], found: Mapping[str, Any], plan: Plan | None
) -> bool:
    """Whether a key decides nothing, or nothing of this model."""
    model_type = planned.get("model_type")
    if key == "tie_word_embeddings":  # which these classes set whatever their tensors are
        is_new = str(found.get("transformers_version", "")).startswith("5.")
        is_set = model_type == "vision-encoder-decoder" or (model_type == "mt5" and is_new)
        return is_set or (plan is not None and not has_ties(plan))
    if key == "model_type":
        return not planned.get(key) or not found.get(key)
    if key in ("block_size", "num_random_blocks"):
        return planned.get("attention_type") == found.get("attention_type") == "original_full"
    if key == "temperature" and model_type != "tapas":  # of generating
        return True
    if any(re.fullmatch(keys, key) and not _has(plan, part) for part, keys in _PARTS):
        return True
    return _NO_MATTER.fullmatch(key) is not None


def _is_repeated(kind: Any) -> bool:
    """Whether it is a list of kinds, and how often they are repeated."""
    if not isinstance(kind, list) or len(kind) != 2:
        return False
    return isinstance(kind[0], list) and type(kind[1]) is int and kind[1] < MAX_LAYERS


def _are_same(key: str, ours: Any, theirs: Any) -> bool:
    if key == "layer_scale_init_value":  # of which 0 leaves out what others start
        return bool(ours) == bool(theirs)
    return ours == theirs or any(ours in kinds and theirs in kinds for kinds in _SAME)


def _of_labels(ours: Any, theirs: Any) -> Iterator[tuple[str, bool]]:
    """Labels that have other names: those that a class makes up count for none."""
    named, others = map(_names, (ours, theirs))
    if named and others and named != others:
        yield f"id2label = {json.dumps(theirs)}; the checkpoint's is {json.dumps(ours)}", True
    elif named and not others:
        yield f"no id2label; the checkpoint's is {json.dumps(ours)}", False


def _names(labels: Any) -> Mapping[str, Any]:
    names = {str(key): name for key, name in labels.items()} if isinstance(labels, dict) else {}
    return {} if all(name == f"LABEL_{key}" for key, name in names.items()) else names
