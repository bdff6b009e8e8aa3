"""Make mapping/families/hf_templates.json.xz: the tensors of classes that had a TensorFlow one.

Run by hand, in two environments of its own, neither with TensorFlow:

    python tests/make_hf_templates.py names RAW.json    # transformers==4.57.6, torch==2.13.0
    python tests/make_hf_templates.py pack RAW.json     # the newest transformers, torch

The first builds, on the meta device, the PyTorch class of every `TF*` class that transformers
4.57.6 exports: with its default config, with each flag of it turned, and with the SWITCHES of its
model type. The first of these, and each that has new names in layers, is built again with each
whole number and each list changed that may count layers. What follows the numbers of layers, and
what follows which key, shows in the names. The second adds, per model type, the config keys that
the newest transformers takes for floats alone, and packs. Together they take some ten minutes.

What a template says of its names, and how it is used, is in mapping/families/_hf_templates.py.
"""

import copy
import json
import lzma
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

PACKED = Path(__file__).resolve().parents[1] / "mapping" / "families" / "hf_templates.json.xz"

Config = dict[str, Any]
Names = frozenset[str]
Tokens = tuple[str, ...]
Containers = dict[tuple[int, str], set[int]]  # the numbers, by config and what is before them

# What else than a flag changes the names, per model type; "" for all.
DECODER = {"is_decoder": True, "add_cross_attention": True}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
DISENTANGLED = [
    {"relative_attention": True, "pos_att_type": kinds}
    for kinds in (["c2p"], ["p2c"], ["c2p", "p2c"], ["p2c", "c2p"])
]
SWITCHES: dict[str, list[Config]] = {
    "": [DECODER, *({"num_labels": n} for n in (1, 9, 10))],
    "blip_text_model": [{"is_decoder": False}],
    "convbert": [{"embedding_size": 384}],
    "convnext": [{"layer_scale_init_value": 0}],
    "data2vec-vision": [{"layer_scale_init_value": 0}],
    "deberta": [{"type_vocab_size": 1}, {"embedding_size": 384}, *DISENTANGLED],
    "deberta-v2": [
        {"type_vocab_size": 1},
        {"embedding_size": 384},
        {"conv_kernel_size": 3},
        {"relative_attention": True, "norm_rel_ebd": "layer_norm"},
        *DISENTANGLED,
        *({**kinds, "share_att_key": True} for kinds in DISENTANGLED),
    ],
    "dpr": [{"projection_dim": 8}],
    "electra": [{"embedding_size": 256}],
    "esm": [{"position_embedding_type": "rotary"}, {"emb_layer_norm_before": True}],
    "flaubert": [{"n_langs": 2}, {"n_langs": 2, "use_lang_emb": False}],
    "hubert": [{"feat_extract_norm": "layer"}, STABLE, {**STABLE, "conv_bias": True}],
    "idefics": [
        {"additional_vocab_size": 4},
        {"use_resampler": True, "perceiver_config": {"qk_layer_norms_perceiver": True}},
    ],
    "mobilebert": [{"num_feedforward_networks": 2}],
    "mt5": [{"feed_forward_proj": "relu"}],
    "opt": [{"word_embed_proj_dim": 512}],
    "regnet": [
        {"layer_type": "x"},
        {"downsample_in_first_stage": False, "embedding_size": 128},
    ],
    "resnet": [
        {"layer_type": "basic"},
        {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]},
        {"hidden_sizes": [64, 128, 256, 512]},
    ],
    "roformer": [{"embedding_size": 384}],
    "segformer": [{"sr_ratios": [1, 1, 1, 1]}],
    "t5": [{"feed_forward_proj": "gated-gelu"}],
    "tapas": [{"num_aggregation_labels": 4}],
    "transfo-xl": [
        {"div_val": 1},
        {"d_embed": 512},
        {"div_val": 1, "d_embed": 512},
        {"cutoffs": [20000, 40000], "tie_projs": [False, True, True]},
    ],
    "wav2vec2": [
        {"feat_extract_norm": "layer"},
        STABLE,
        {**STABLE, "conv_bias": True},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.0},
    ],
    "xlm": [{"n_langs": 2}, {"n_langs": 2, "use_lang_emb": False}],
}
# Configs that the class cannot do without.
BASES: dict[str, Config] = {
    "efficientformer": {"hidden_size": 448},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
}
# Of the composite classes, the models that they are made of: one template for each choice.
TEXT = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
DECODERS = ("bert", "gpt2", "roberta", "xlm-roberta", "electra", "rembert", "camembert")
VISION = ("vit", "deit", "swin", "clip_vision_model")
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "EncoderDecoderModel": {"encoder": TEXT, "decoder": DECODERS},
    "VisionEncoderDecoderModel": {"encoder": ("vit", "deit", "swin"), "decoder": DECODERS},
    "VisionTextDualEncoderModel": {"vision_config": VISION, "text_config": TEXT},
    **{
        f"Rag{head}": {"question_encoder": ("dpr",), "generator": ("bart", "t5")}
        for head in ("Model", "SequenceForGeneration", "TokenForGeneration")
    },
}
# Of the flags that all configs share, the one that is turned.
TURNED = ("tie_word_embeddings",)
# Keys that follow from another one, whatever config.json says.
DERIVED = ("is_gated_act", "dense_act_fn", "num_attention_heads", "head_dim", "true_hidden_size")
# Buffers that are computed, which neither a TF file nor later releases' files have.
COMPUTED = re.compile(r"(^|\.)pos_emb\.inv_freq$|position_ids$")
# Tied by their values alone, which a model without values does not show.
TIED = {
    "prompt_encoder.shared_embedding.positional_embedding": (
        "shared_image_embedding.positional_embedding"
    )
}
# Whole numbers that are no numbers of layers.
SIZES = re.compile(
    "_id$|_ids$|size|dim|heads|stride|kernel|beams|top_|bins|bucket|length|width|channels|tokens|"
    "max_|min_|position|n_embd|n_inner|n_head|n_langs|labels|vocab|^d_|aspect|distance|interval"
)


def classes() -> Iterator[str]:
    """The names, without TF, of the PyTorch classes that have a TensorFlow counterpart."""
    import transformers

    for name in sorted(dir(transformers)):
        if not name.startswith("TF") or re.search("Pre[Tt]rained|^TFAuto", name):
            continue
        found = getattr(transformers, name[2:], None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            yield name[2:]


class Tried:
    """The names of a class's tensors with one config; `ties` are the other names of some."""

    def __init__(self, name: str, overrides: Config) -> None:
        import torch
        import transformers
        from transformers.modeling_utils import no_init_weights

        kind = getattr(transformers, name)
        with torch.device("meta"), no_init_weights():
            model = kind(kind.config_class(**copy.deepcopy(overrides)))
            model.tie_weights()  # which goes with the values otherwise
        self.overrides = overrides
        self.config: Config = json.loads(model.config.to_json_string(use_diff=False))
        self.model_type: str = model.config.model_type
        self.prefix: str = kind.base_model_prefix
        same: dict[int, list[str]] = defaultdict(list)
        for tensor, value in model.state_dict(keep_vars=True).items():
            if not COMPUTED.search(tensor):
                same[id(value)].append(tensor)
        tied = re.compile("|".join(model._tied_weights_keys or ["$."]))
        self.ties: dict[str, str] = {}
        for names in same.values():
            own = min(names, key=lambda tensor: (bool(tied.search(tensor)), names.index(tensor)))
            self.ties |= {tensor: own for tensor in names if tensor != own}
        every = frozenset(name for names in same.values() for name in names)
        self.ties |= {alias: own for alias, own in TIED.items() if {alias, own} <= every}
        self.names = every - set(self.ties)

    def shape(self) -> Names:
        return frozenset(re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name) for name in self.names)


def tries(name: str, base: Config, model_type: str) -> list[Tried]:
    """The class with the base config and all that differ from it in what may change the names."""
    first = Tried(name, base)
    found = [first]
    flags = [
        {key: not value}
        for key, value in first.config.items()
        if isinstance(value, bool)
        and key not in DERIVED
        and (key not in shared_keys() or key in TURNED)
    ]
    numbered: set[str] = set()
    others = [*SWITCHES[""], *SWITCHES.get(model_type, []), *of_two_sizes(base)]
    for switch in [{}, *flags, *others]:
        start = attempt(name, {**base, **switch})
        if start is None or (len(switch) == 1 and start.names == first.names):
            continue  # one that goes with others tells when they have no effect
        found.append(start)
        new = {pattern for pattern in start.shape() if "#" in pattern} - numbered
        numbered |= new
        for change in changes(start.config) if new else ():
            changed = attempt(name, {**base, **switch, **change})
            if changed is not None and changed.names != start.names:
                one, other = changed.shape(), start.shape()
                if one <= other or one >= other:
                    found.append(changed)
    return found


def shared_keys() -> Config:
    """The keys of all configs, which config.json has only where they differ from these values."""
    from transformers import PretrainedConfig

    return {
        key: value for key, value in PretrainedConfig().to_dict().items() if key != "model_type"
    }


def attempt(name: str, overrides: Config) -> Tried | None:
    """None if the class does not take that config: a change may not go without another."""
    try:
        return Tried(name, overrides)
    except Exception:
        return None


def changes(config: Config) -> Iterator[Config]:
    """The changes, one at a time, of numbers and lists that may count layers."""
    lengths: set[int] = set()
    for key, value in config.items():
        if type(value) is int and 1 <= value <= 64 and not SIZES.search(key):
            yield from ({key: n} for n in sorted({1, value - 1, value + 1} - {0, value}))
        elif isinstance(value, dict) and "model_type" in value:
            kept = {k: v for k, v in value.items() if k not in ("id2label", "label2id")}
            yield from ({key: {**kept, **change}} for change in changes(value))
        elif isinstance(value, list) and key not in ("architectures", "stage_names"):
            lengths.add(len(value))
            if all(type(item) is int for item in value) and re.search("depth|block", key):
                yield {key: [1] * len(value)}
                for at in range(len(value)):
                    yield {key: [n + (i == at) for i, n in enumerate(value)]}
    for length in sorted(lengths - {0, 1}):
        lists = {
            key: value
            for key, value in config.items()
            if isinstance(value, list)
            and len(value) == length
            and key not in ("architectures", "out_features", "out_indices", "stage_names")
        }
        counts = [
            key
            for key, value in config.items()
            if value == length and re.search("^num_.*(block|stage|conv)", key)
        ]
        for step in (1, -1):
            longer = {k: v + v[-1:] if step > 0 else v[:-1] for k, v in lists.items()}
            yield longer
            yield from ({**longer, key: length + step} for key in counts)


def levels(tried: list[Tried]) -> dict[str, dict[int, list[tuple[Tokens, tuple[int, ...]]]]]:
    """By pattern: per config where it occurs, as (tokens, numbers).

    A number that has the same values wherever its container occurs stays as it is; so does 0 where
    the others have no such name. Every other number becomes {i}.
    """
    found = [(at, tuple(name.split(".")), ()) for at, one in enumerate(tried) for name in one.names]
    place = 0
    while any(len(tokens) > place for _, tokens, _ in found):
        indices: dict[Tokens, dict[tuple[Any, ...], set[int]]] = defaultdict(
            lambda: defaultdict(set)
        )
        for at, tokens, numbers in found:
            if len(tokens) > place and tokens[place].isdecimal():
                indices[tokens[:place]][at, numbers].add(int(tokens[place]))
        varying = {
            key for key, sets in indices.items() if len(set(map(frozenset, sets.values()))) > 1
        }
        found = [
            (at, (*tokens[:place], "{i}", *tokens[place + 1 :]), (*numbers, int(tokens[place])))
            if tokens[:place] in varying and len(tokens) > place and tokens[place].isdecimal()
            else (at, tokens, numbers)
            for at, tokens, numbers in found
        ]
        place += 1
    by_pattern: dict[str, dict[int, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for at, tokens, numbers in found:
        by_pattern[".".join(tokens)][at].append(numbers)
    return by_pattern


def template(tried: list[Tried]) -> dict[str, Any]:
    """The groups of names that occur together, and the ties."""
    occurs = levels(tried)
    containers: Containers = defaultdict(set)
    for pattern, by_config in occurs.items():
        for at, places in by_config.items():
            for numbers in places:
                for depth, number in enumerate(numbers):
                    containers[at, container(pattern, numbers[:depth])].add(number)
    together: dict[Any, list[str]] = defaultdict(list)
    for pattern, by_config in list(occurs.items()):
        where = tuple((at, tuple(sorted(by_config[at]))) for at in sorted(by_config))
        fixed, where = only_first(pattern, by_config, containers) or (pattern, where)
        together[fixed.rpartition("{i}")[0], where].append(fixed)
    groups: list[dict[str, Any]] = []
    presence: list[frozenset[int]] = []
    every = frozenset(range(len(tried)))
    for (prefix, where), patterns in together.items():
        present = [at for at, _ in where]
        group: dict[str, Any] = {"names": sorted(patterns)}
        if prefix:
            group["levels"] = "".join(
                selector(depth, patterns[0], where, containers)
                for depth in range(patterns[0].count("{i}"))
            )
        if len(present) < len(tried):
            group["when"] = condition(tried, set(present))
        groups.append(group)
        presence.append(frozenset(present))
    for group, own in zip(groups, presence, strict=True):
        if group.get("when", "") is None:
            group["or"] = sorted(
                min(other["names"])
                for other, theirs in zip(groups, presence, strict=True)
                if theirs == every - own and other.get("when", "") is None
            )[:1]
    ties = {alias: own for one in tried for alias, own in one.ties.items()}
    return {
        "counts": {
            **counts(tried, containers, {p.partition("{i}")[0] for p in occurs if "{i}" in p}),
            **inner_counts(tried, containers, {p for p in occurs if p.count("{i}") > 1}),
        },
        "groups": sorted(groups, key=lambda group: group["names"]),
        "ties": {general(alias): general(ties[alias]) for alias in sorted(ties)},
    }


def counts(tried: list[Tried], containers: Containers, outer: set[str]) -> dict[str, list[str]]:
    """By outermost container, the path of the config's key that says how many it has.

    It is one that did so in every config, of which some have more than others; a list counts by
    its length.
    """
    found = {}
    flat = [flattened(one.config) for one in tried]
    for prefix in sorted(outer):
        many = {at: len(numbers) for (at, where), numbers in containers.items() if where == prefix}
        paths = [
            path
            for path in flat[0]
            if len(set(many.values())) > 1
            and all(flat[at].get(path) == number for at, number in many.items())
        ]
        if paths:
            found[prefix] = min(paths, key=lambda path: (len(path), path)).split(".")
    return found


def inner_counts(
    tried: list[Tried], containers: Containers, patterns: set[str]
) -> dict[str, list[str]]:
    """As `counts`, by container in a container: a list has the number of each of the outer ones."""
    found = {}
    for outer, between in sorted({tuple(p.split("{i}")[:2]) for p in patterns}):
        many = {
            (at, n): len(containers.get((at, f"{outer}{n}{between}"), ()))
            for (at, where), numbers in list(containers.items())
            if where == outer
            for n in numbers
        }

        def tells(key: str, many: dict[tuple[int, int], int] = many) -> bool:
            for (at, n), number in many.items():
                value = tried[at].config.get(key)
                if isinstance(value, list):
                    value = value[n] if n < len(value) else None
                if type(value) is not int or value != number:
                    return False
            return len(set(many.values())) > 1

        keys = [key for key in tried[0].config if tells(key)]
        if keys:
            found[f"{outer}{{i}}{between}"] = [min(keys, key=lambda key: (len(key), key))]
    return found


def flattened(config: Config, prefix: str = "") -> dict[str, int]:
    """The config's whole numbers, and the lengths of its lists, by path."""
    flat = {}
    for key, value in config.items():
        if type(value) is int:
            flat[prefix + key] = value
        elif isinstance(value, list):
            flat[prefix + key] = len(value)
        elif isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{key}.")
    return flat


def general(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "{i}", name)


def container(pattern: str, numbers: tuple[int, ...]) -> str:
    """What comes before the {i} that follows those with the numbers."""
    pieces = pattern.split("{i}")
    filled = zip(pieces, numbers, strict=False)
    return "".join(f"{piece}{number}" for piece, number in filled) + pieces[len(numbers)]


def only_first(pattern: str, by_config: Any, containers: Containers) -> Any:
    """The pattern with 0 in place of each {i} that is nothing else, and where it is then.

    None if there is no such {i}, or if it never could be anything else.
    """
    pieces = pattern.split("{i}")
    for depth in range(len(pieces) - 1):
        seen = [(at, numbers) for at, places in by_config.items() for numbers in places]
        others = any(
            len(containers[at, container(pattern, numbers[:depth])]) > 1 for at, numbers in seen
        )
        if others and not any(numbers[depth] for _, numbers in seen):
            fixed = "{i}".join(pieces[: depth + 1]) + "0" + "{i}".join(pieces[depth + 1 :])
            left = {
                at: [(*numbers[:depth], *numbers[depth + 1 :]) for numbers in places]
                for at, places in by_config.items()
            }
            where = tuple((at, tuple(sorted(left[at]))) for at in sorted(left))
            return only_first(fixed, left, containers) or (fixed, where)
    return None


def selector(depth: int, pattern: str, where: Any, containers: Containers) -> str:
    """At which numbers of its containers a group is, as in _hf_templates.Group."""
    kinds = set("afl")
    for at, places in where:
        occurs: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for numbers in places:
            occurs[numbers[:depth]].add(numbers[depth])
        for outer, found in occurs.items():
            every = containers[at, container(pattern, outer)]
            if every != set(range(len(every))):
                return "s"
            last = len(every) - 1
            wanted = {"a": every, "f": every - {0}, "l": every - {last}}
            kinds = {kind for kind in kinds if wanted[kind] == found}
    return next((kind for kind in "afl" if kind in kinds), "s")


def condition(tried: list[Tried], present: set[int]) -> Any:
    """The keys and values that say whether a group is there, with what is meant if one is absent.

    {keys: [...], present: [...], absent: [...]}, with the values of the keys; None if neither one
    key nor two tell. `defaults` has what is meant where a config.json has no such key: known
    for those that all configs share, and those that the class has only if they are given.
    """
    base = tried[0].config
    changed = {key for one in tried for key in one.config if one.config[key] != base.get(key)}
    plain = sorted(
        key
        for key in changed - set(DERIVED)
        if (not key.startswith("_") or isinstance(base.get(key), bool))
        and not any(isinstance(one.config.get(key), dict) for one in tried)
    )
    for keys in [*((key,) for key in plain), *((a, b) for a in plain for b in plain if a < b)]:
        told: dict[str, set[bool]] = defaultdict(set)
        for at, one in enumerate(tried):
            # A flag that is false is one that is not there: the few that a class reads if given.
            values = json.dumps(
                [None if one.config.get(key) is False else one.config.get(key) for key in keys]
            )
            told[values].add(at in present)
        if all(len(each) == 1 for each in told.values()):
            by = {
                want: [json.loads(v) for v in sorted(told) if want in told[v]]
                for want in (True, False)
            }
            return {
                "keys": keys,
                "defaults": {
                    key: base.get(key) for key in keys if key in shared_keys() or key not in base
                },
                "present": by[True],
                "absent": by[False],
            }
    return None


def of_two_sizes(config: Config) -> Iterator[Config]:
    """Configs in which the decoder is as wide as the encoder's outputs, or not: no key tells."""
    decoder = config.get("decoder")
    if decoder is not None:
        width = config["encoder"].get("hidden_size") or config["encoder"]["dim"]
        yield {"decoder": {**decoder, "cross_attention_hidden_size": width}}
        key = "n_embd" if "n_embd" in decoder else "hidden_size"
        yield {"decoder": {**decoder, key: 2 * decoder[key]}}


def parts(name: str) -> Iterator[Config]:
    """The base configs of a composite class."""
    from transformers import CONFIG_MAPPING

    for choice in product(*PARTS[name].values()):
        config: Config = {}
        for part, model_type in zip(PARTS[name], choice, strict=True):
            sub = CONFIG_MAPPING[model_type](**(DECODER if part == "decoder" else {}))
            if model_type not in ("bart", "swin", "t5"):
                sub.num_hidden_layers = 3  # to be quick
            config[part] = json.loads(sub.to_json_string(use_diff=False))
        yield config


def make_names(path: str) -> None:
    import transformers

    made: dict[str, Any] = {}
    for name in classes():
        model_type = getattr(transformers, name).config_class.model_type
        templates = []
        for base in parts(name) if name in PARTS else [BASES.get(model_type, {})]:
            tried = tries(name, base, model_type)
            one = template(tried)
            if name in PARTS:
                one["parts"] = {part: base[part]["model_type"] for part in PARTS[name]}
            templates.append(one)
        made[name] = {"type": model_type, "prefix": tried[0].prefix, "templates": templates}
        print(name, len(tried), flush=True)
    Path(path).write_text(json.dumps(made, indent=1))


def float_keys(model_types: set[str]) -> dict[str, list[str]]:
    """Per model type, the keys that the installed transformers takes for floats alone."""
    import dataclasses

    from transformers import CONFIG_MAPPING

    found = {}
    for model_type in sorted(model_types & set(CONFIG_MAPPING)):
        words = {
            field.name: set(re.findall(r"\w+", str(field.type)))  # <class 'float'>, float | None
            for field in dataclasses.fields(CONFIG_MAPPING[model_type])
        }
        found[model_type] = sorted(
            key for key, kinds in words.items() if "float" in kinds and not kinds & {"int", "list"}
        )
    return found


def pack(path: str) -> None:
    """Pack the names and the keys, in the same bytes for the same data."""
    made = json.loads(Path(path).read_text())
    data = {"classes": made, "floats": float_keys({one["type"] for one in made.values()})}
    text = json.dumps(data, separators=(",", ":"), sort_keys=True).encode()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "lp": 0}]
    PACKED.write_bytes(lzma.compress(text, check=lzma.CHECK_CRC32, filters=filters))
    print(f"{len(made)} classes, {len(text)} bytes, packed {PACKED.stat().st_size}")


if __name__ == "__main__":
    {"names": make_names, "pack": pack}[sys.argv[1]](sys.argv[2])
