"""XLM (facebookresearch/XLM): the .pth files of train.py, with one TransformerModel in them.

Variable names are those of the original xlm/model/transformer.py, config keys the arguments of its
train.py, which it stores as `params`; tensor names those of transformers' modeling_xlm.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import CheckpointNotFoundError, ConfigError, UnsupportedError
from tfreader.files import read_small
from tfreader.paths import AnyPath

from ..family import Beside, Config, Family, Layout, SideFiles, Variables, check_heads
from ..rules.rule import Architecture, Drop, Rule, RuleSet, Tie
from ..sources.pth import PthCheckpoint, TorchFile, is_pth, load
from ._tokenizers import has_accents, has_capitals, merges_of, tokenizer_config

HIDDEN = "emb_dim"
LAYER = r"(?P<layer>\d+)"


def weight(source: str, *shape: int | str, part: str = "encoder", required: bool = True) -> Rule:
    """PyTorch to PyTorch: nothing to transpose, and what is not the head moves one level down."""
    target = source.replace("\\", "").replace(LAYER.replace("\\", ""), "{layer}")
    prefix = "transformer." if part == "encoder" else ""
    return Rule((source,), (prefix + target,), shape=shape, part=part, required=required)


def layer_norm(source: str) -> tuple[Rule, Rule]:
    return weight(rf"{source}\.weight", HIDDEN), weight(rf"{source}\.bias", HIDDEN)


def linear(source: str, outputs: str, inputs: str) -> tuple[Rule, Rule]:
    return weight(rf"{source}\.weight", outputs, inputs), weight(rf"{source}\.bias", outputs)


# The head has its own weight only where it does not share the embeddings'.
PLAIN_HEAD = (
    weight(r"pred_layer\.proj\.weight", "vocab_size", HIDDEN, part="lm", required=False),
    weight(r"pred_layer\.proj\.bias", "vocab_size", part="lm"),
)
# Frequent words and one entry per cluster; the clusters' own matrices depend on the config.
ADAPTIVE_HEAD = (
    weight(r"pred_layer\.proj\.head\.weight", "*", HIDDEN, part="lm"),
    weight(r"pred_layer\.proj\.head\.bias", "*", part="lm"),
)

RULES = RuleSet(
    family="xlm",
    name="xlm",
    counts={"layer": "n_layers"},
    rules=(
        weight(r"embeddings\.weight", "vocab_size", HIDDEN),
        weight(r"position_embeddings\.weight", "max_position_embeddings", HIDDEN),
        weight(r"lang_embeddings\.weight", "n_langs", HIDDEN, required=False),
        *layer_norm("layer_norm_emb"),
        *linear(rf"attentions\.{LAYER}\.q_lin", HIDDEN, HIDDEN),
        *linear(rf"attentions\.{LAYER}\.k_lin", HIDDEN, HIDDEN),
        *linear(rf"attentions\.{LAYER}\.v_lin", HIDDEN, HIDDEN),
        *linear(rf"attentions\.{LAYER}\.out_lin", HIDDEN, HIDDEN),
        *layer_norm(rf"layer_norm1\.{LAYER}"),
        *linear(rf"ffns\.{LAYER}\.lin1", f"4*{HIDDEN}", HIDDEN),
        *linear(rf"ffns\.{LAYER}\.lin2", HIDDEN, f"4*{HIDDEN}"),
        *layer_norm(rf"layer_norm2\.{LAYER}"),
        *PLAIN_HEAD,
    ),
    ties=(Tie("pred_layer.proj.weight", "transformer.embeddings.weight", "lm"),),
    architectures=(
        Architecture("XLMWithLMHeadModel", ("encoder",), ("lm",)),
        Architecture("XLMModel", ("encoder",), strip="transformer."),
    ),
)

# The arguments of train.py that describe the model, and Hugging Face's names for them. Paths,
# commands and schedules of the training are no part of a config.json.
KEYS = {
    "n_words": "vocab_size",
    "share_inout_emb": "tie_word_embeddings",
    "bos_index": "bos_token_id",
    "eos_index": "eos_token_id",
    "pad_index": "pad_token_id",
}
SAME_KEYS = (
    *("emb_dim", "n_layers", "n_heads", "dropout", "attention_dropout", "gelu_activation"),
    *("sinusoidal_embeddings", "use_lang_emb", "n_langs", "lang2id", "id2lang"),
    *("asm", "asm_cutoffs", "asm_div_value", "unk_index", "mask_index"),
    # These only a config.json of Hugging Face's has.
    *("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "lang_id"),
    *("causal", "max_position_embeddings", "layer_norm_eps", "embed_init_std", "init_std"),
    *("is_encoder", "tie_word_embeddings", "finetuning_task", "num_labels", "id2label"),
    *("label2id", "summary_type", "summary_use_proj", "summary_activation"),
    *("summary_proj_to_labels", "summary_first_dropout", "start_n_top", "end_n_top"),
)
HEAD_WEIGHT, ADAPTIVE = "pred_layer.proj.weight", "pred_layer.proj.head.weight"


PLAIN = (bool, int, float, str)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold it, to one level: `params` may be anything that a pickle can."""
    if isinstance(value, Mapping):
        return all(type(part) in PLAIN for item in value.items() for part in item)
    if isinstance(value, list | tuple):
        return all(type(item) in PLAIN for item in value)
    return type(value) in PLAIN


def _is_causal(params: Mapping[str, Any]) -> bool:
    return bool(params["clm_steps"]) and not params.get("mlm_steps")


def _cutoffs(value: Any) -> list[int]:
    """As a list; on train.py's command line they are "8000,20000"."""
    try:
        return [int(cut) for cut in (value.split(",") if isinstance(value, str) else value)]
    except (TypeError, ValueError):
        raise ConfigError(f"asm_cutoffs = {value!r}: expected a list of integers") from None


def _clusters(config: Config, variables: Variables) -> Config:
    """The adaptive softmax: a tail of N words has a matrix of N rows, the head takes the rest."""

    def rows(name: str) -> int:
        return variables[name].shape[0] if name in variables and variables[name].shape else 0

    tails: list[int] = []
    while (name := f"pred_layer.proj.tail.{len(tails)}.1.weight") in variables:
        tails.append(rows(name))
    cutoffs = [rows(ADAPTIVE) - len(tails)]
    for size in tails[:-1]:
        cutoffs.append(cutoffs[-1] + size)
    return {
        "asm_cutoffs": cutoffs,
        "asm_div_value": config.get("asm_div_value", _divisor(variables)),
        "emb_dim": sum(variables[ADAPTIVE].shape[-1:]),
        "vocab_size": cutoffs[-1] + sum(tails[-1:]),
    }


def _divisor(variables: Variables) -> float:
    """By what each tail is narrower than the one before it; train.py's default where none tells."""
    first = variables.get("pred_layer.proj.tail.0.0.weight")
    width = sum(variables[ADAPTIVE].shape[-1:])
    return width / first.shape[0] if first is not None and all(first.shape[:1]) else 4.0


def open_pth(path: AnyPath) -> Checkpoint | None:
    """The model of a .pth file; its vocabulary stays in `contents`."""
    if path.is_dir():
        files = sorted((file for file in path.iterdir() if file.suffix == ".pth"), key=str)
        if not files or (path / "checkpoint").is_file():
            return None
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise CheckpointNotFoundError(f"{path}: which checkpoint? Pass one of {names}")
        (path,) = files
    if not is_pth(path):
        return None
    file = TorchFile(path)
    contents = load(file)
    held = list(contents) if isinstance(contents, dict) else [type(contents).__name__]
    model = contents.get("model") if isinstance(contents, dict) else None
    if not isinstance(model, dict) or not model:
        translation = {"encoder", "decoder"} <= set(map(str, held))
        raise UnsupportedError(
            f"{path}: no XLM language model: expected 'model' with its weights, found "
            f"{', '.join(map(str, held[:8]))}"
            + ("; a translation model has no class in transformers" if translation else ""),
            code="pytorch",
        )
    params = contents.get("params")
    if not isinstance(params, dict):
        params = None
    notes = [f"config: params of {path}" if params else f"{path} has no params: no config in it"]
    if all(isinstance(name, str) and name.startswith("module.") for name in model):
        model = {name.removeprefix("module."): tensor for name, tensor in model.items()}
        notes.append("names begin with 'module.', as of a training on several GPUs: taken off")
    others = [str(key) for key in contents if key not in ("model", "params", *DICTIONARY)]
    if others:
        notes.append(f"training state left out: {', '.join(others)}")
    if params and params.get("clm_steps") and params.get("mlm_steps"):
        notes.append(
            "trained both with and without looking ahead (clm_steps and mlm_steps): causal = "
            "false; --set causal=true for a left-to-right model"
        )
    checkpoint = PthCheckpoint(file, model, contents, params, tuple(notes))
    if not (params or {}).get("share_inout_emb", True) or not _is_shared(model):
        return checkpoint
    notes.append(f"{HEAD_WEIGHT} is embeddings.weight: written once")
    model = {name: tensor for name, tensor in model.items() if name != HEAD_WEIGHT}
    return PthCheckpoint(file, model, contents, params, tuple(notes))


def _is_shared(model: Mapping[str, Any]) -> bool:
    """Whether the head's weight is the embeddings': the same memory, or else the same values."""
    if not {HEAD_WEIGHT, "embeddings.weight"} <= set(model):
        return False
    head, embeddings = model[HEAD_WEIGHT], model["embeddings.weight"]
    if head.shape != embeddings.shape or head.dtype != embeddings.dtype:
        return False
    if (head.data_ptr(), head.stride()) == (embeddings.data_ptr(), embeddings.stride()):
        return True
    return bool(head.equal(embeddings))


DICTIONARY = ("dico_id2word", "dico_word2id", "dico_counts")
SPECIAL = 14  # <s> </s> <pad> <unk> <special0> ... <special9>: xlm/data/dictionary.py


def _vocabulary(ids: Mapping[str, int]) -> dict[str, int]:
    """The words as Hugging Face spells them: "</w>" ends a word, where "@@" said that it goes on.

    Every "@@" goes, and where two words become the same, the later one stays.
    """
    vocabulary = {}
    for word, index in sorted(ids.items(), key=lambda item: item[1]):
        ends = index >= SPECIAL and "@@" not in word
        vocabulary[word + "</w>" if ends else word.replace("@@", "")] = index
    return vocabulary


def _tokenizer_config(
    ids: Mapping[str, int], config: Mapping[str, Any]
) -> tuple[dict[str, bytes], str]:
    """No file says whether text is lower-cased, without accents; a vocabulary's letters do."""
    words = [word for word, index in ids.items() if index >= SPECIAL]
    lower = config.get("do_lower_case", not has_capitals(words) and not has_accents(words))
    files = tokenizer_config(
        "XLMTokenizer",
        do_lowercase_and_remove_accent=lower,
        model_max_length=config["max_position_embeddings"],
        **{key: config[key] for key in ("id2lang", "lang2id") if key in config},
    )
    note = (
        f"tokenizer: do_lowercase_and_remove_accent = {json.dumps(lower)}, as the dictionary's "
        "letters tell (--set do_lower_case=VALUE); Hugging Face's begins a text with <s>, the "
        "original with </s>"
    )
    return files, note


def _tail_width(size: int, divisor: float, tail: int) -> int:
    """How wide the tail of that number is, as torch's AdaptiveLogSoftmaxWithLoss has it."""
    try:
        return int(size // divisor ** (tail + 1))
    except (OverflowError, ZeroDivisionError):  # a divisor that is out of all proportion
        return 0


class Original(Layout):
    name = "original"
    evidence = (
        r"attentions\.\d+\.q_lin\.weight",
        r"layer_norm_emb\.weight",
        r"ffns\.\d+\.lin1\..*",
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        """What the variables tell: language embeddings, and which of the three heads there is."""
        found: Config = {}
        if "lang_embeddings.weight" in variables:
            found["use_lang_emb"] = True
        elif config.get("n_langs", 1) != 1:
            found["use_lang_emb"] = False
        if any(name.startswith("pred_layer.") for name in variables):
            adaptive = ADAPTIVE in variables
            found["asm"] = adaptive
            found["tie_word_embeddings"] = not adaptive and HEAD_WEIGHT not in variables
            if adaptive:
                found |= _clusters(config, variables)
        return found

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The rules of the head that the model has."""
        if ADAPTIVE not in variables:
            return RULES
        told = _clusters(config, variables)
        tails: list[Rule] = []
        for i, (start, end) in enumerate(pairwise([*told["asm_cutoffs"], told["vocab_size"]])):
            width = _tail_width(told["emb_dim"], told["asm_div_value"], i)
            tail = rf"pred_layer\.proj\.tail\.{i}"
            tails.append(weight(rf"{tail}\.0\.weight", width, HIDDEN, part="lm"))
            tails.append(weight(rf"{tail}\.1\.weight", end - start, width, part="lm"))
        unused = Drop(r"pred_layer\.proj\.weight", "the adaptive softmax does not use it")
        kept = tuple(rule for rule in RULES.rules if rule not in PLAIN_HEAD)
        return replace(
            RULES, rules=(*kept, *ADAPTIVE_HEAD, *tails), ties=(), drops=(*RULES.drops, unused)
        )


class XLM(Family):
    model_type = "xlm"
    layouts = (Original(),)
    output_weight = "pred_layer.proj.weight"
    fixed: ClassVar = {"is_encoder": True}
    defaults: ClassVar = {
        "is_encoder": True,
        "layer_norm_eps": 1e-12,
        "n_langs": 1,
        "tie_word_embeddings": True,
        "use_lang_emb": True,
    }
    needs = ("n_heads",)

    def open(self, path: AnyPath) -> Checkpoint | None:
        return open_pth(path)

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from `params` of the .pth, or from an earlier config.json."""
        if original.get("use_memory"):
            raise ConfigError("use_memory: Hugging Face's XLM has no product-key memory layers")
        kept = {**KEYS, **dict.fromkeys(SAME_KEYS)}
        config = {
            new or key: original[key] for key, new in kept.items() if _is_plain(original.get(key))
        }
        if "clm_steps" in original:
            config["causal"] = _is_causal(original)
        if isinstance(config.get("id2lang"), Mapping):
            config["id2lang"] = {str(index): name for index, name in config["id2lang"].items()}
        if config.get("asm"):
            config["tie_word_embeddings"] = False  # as there is no single matrix to tie
            config["asm_cutoffs"] = _cutoffs(config.get("asm_cutoffs", ()))
        else:
            config = {key: value for key, value in config.items() if not key.startswith("asm_")}
        if isinstance(config.get("mask_index"), int):
            config.setdefault("mask_token_id", config["mask_index"])
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        """The arguments' defaults in train.py that the released models keep; they use gelu."""
        return {"gelu_activation": True, "sinusoidal_embeddings": False, "causal": False}

    def check(self, config: Config) -> None:
        check_heads(config, "emb_dim", "n_heads")

    def remarks(self, config: Config) -> tuple[str, ...]:
        notes = []
        if config["causal"]:
            notes.append(
                "causal = true: trained with clm_steps alone; Hugging Face's converter leaves this "
                "out, and its model looks ahead"
            )
        if not config["tie_word_embeddings"]:
            notes.append(
                "tie_word_embeddings = false: the head has its own weights; Hugging Face's "
                "converter leaves this out, and its model loses them"
            )
        return tuple(notes)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """vocab.json from the file's dictionary; merges.txt from the BPE codes lying beside it."""
        if not isinstance(checkpoint, PthCheckpoint):
            return SideFiles({}, ("no dictionary in it: no tokenizer written",))
        ids = checkpoint.contents.get("dico_word2id")
        if ids is None:
            return SideFiles({}, (f"no dico_word2id in {checkpoint.path}: no tokenizer written",))
        if not isinstance(ids, dict) or not all(
            isinstance(word, str) and type(index) is int for word, index in ids.items()
        ):
            raise UnsupportedError(f"{checkpoint.path}: dico_word2id: expected numbers by word")
        vocabulary = _vocabulary(ids)
        files = {"vocab.json": (json.dumps(vocabulary, indent=2) + "\n").encode()}
        notes = [f"vocab.json: {len(vocabulary)} words from dico_word2id"]
        if len(vocabulary) < len(ids):
            notes[0] += f"; {len(ids) - len(vocabulary)} have another's spelling without the '@@'"
        if len(ids) != config["vocab_size"]:
            notes.append(
                f"the dictionary has {len(ids)} words, the model {config['vocab_size']} rows"
            )
        codes = beside.matching("codes*")
        if beside.vocab is not None:
            codes = [beside.vocab]
        if len(codes) != 1:
            names = ", ".join(file.name for file in codes) or "none"
            notes.append(
                f"merges.txt needs one file of BPE codes (codes*) in {beside}, found {names}: name "
                "it with --vocab"
            )
            return SideFiles(files, tuple(notes))
        try:
            files["merges.txt"] = merges_of(read_small(codes[0]), most=3)
        except ValueError as error:
            notes.append(
                f"merges.txt: {codes[0]} are no BPE codes: {error}; name others by --vocab"
            )
            return SideFiles(files, tuple(notes))
        own, note = _tokenizer_config(ids, config)
        return SideFiles(files | own, (*notes, f"merges.txt: {codes[0].name}", note))


FAMILY = XLM()
