"""XLNet (zihangdai/xlnet): pre-training and classification, regression, RACE and SQuAD checkpoints.

Variable names are those of the original modeling.py, function_builder.py, run_race.py and
run_squad.py; tensor names and shapes those of transformers' modeling_xlnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Variables, same_keys
from ..rules.ops import Repeat, Unstack
from ..rules.rule import Architecture, Drop, Fill, Rule, RuleSet, Tie
from . import _builders
from ._builders import dense
from ._tokenizers import (
    is_sentencepiece,
    pieces_settings,
    sentencepieces,
    tokenizer_config,
    too_many,
)

ENCODER = "model/transformer/"
LAYER = ENCODER + r"layer_(?P<layer>\d+)"
TO_LAYER = "transformer.layer.{layer}"
# The original misspells the scope.
SUMMARY = "model/sequnece_summary/summary"
# One head per task, named after it.
TASK_HEAD = r"model/(?:classification|regression)_(?P<task>[^/]+)/logit"
RACE_HEAD = "logits/dense"
RELATIVE_BIASES = tuple(ENCODER + name for name in ("r_w_bias", "r_r_bias", "r_s_bias"))
LM_WEIGHT = "model/lm_loss/weight"
# The original knows these two and calls the tanh form gelu, transformers the erf form.
ACTIVATIONS = {"gelu": "gelu_new", "gelu_new": "gelu_new", "relu": "relu"}


def layer_norm(part: str, source: str, target: str) -> tuple[Rule, ...]:
    return _builders.layer_norm(part, source, target, "d_model")


def mask_embedding(part: str, required: bool) -> Rule:
    """What a position to predict holds in the query stream: pre-training alone has it."""
    return Rule(
        ("model/transformer/mask_emb/mask_emb",),
        ("transformer.mask_emb",),
        shape=(1, 1, "d_model"),
        part=part,
        required=required,
    )


def per_layer(source: str, shape: tuple[int | str, ...], shared: bool = False) -> Rule:
    """A variable that holds all layers' values, the layer first, or one value for all of them."""
    unstack = Unstack(0, "layer")
    return Rule(
        (source,),
        (f"{TO_LAYER}.rel_attn.{source.removeprefix(ENCODER)}",),
        (Repeat("n_layer"), unstack) if shared else (unstack,),
        shape if shared else ("n_layer", *shape),
        "encoder",
    )


RULES = RuleSet(
    family="xlnet",
    name="xlnet",
    counts={"layer": "n_layer"},
    rules=(
        Rule(
            (ENCODER + "word_embedding/lookup_table",),
            ("transformer.word_embedding.weight",),
            shape=("vocab_size", "d_model"),
            part="encoder",
        ),
        mask_embedding("query stream", required=True),
        mask_embedding("mask_emb", required=False),
        # With untie_r; see `adapt` for the rest.
        *(per_layer(source, ("n_head", "d_head")) for source in RELATIVE_BIASES),
        per_layer(ENCODER + "seg_embed", (2, "n_head", "d_head")),
        # Both sides keep these as [d_model, n_head, d_head]: nothing to transpose.
        Rule(
            (LAYER + "/rel_attn/(?P<name>q|k|v|o|r)/kernel",),
            (TO_LAYER + ".rel_attn.{name}",),
            shape=("d_model", "n_head", "d_head"),
            part="encoder",
        ),
        *layer_norm("encoder", LAYER + "/rel_attn/LayerNorm", TO_LAYER + ".rel_attn.layer_norm"),
        *dense("encoder", LAYER + "/ff/layer_1", TO_LAYER + ".ff.layer_1", "d_model", "d_inner"),
        *dense("encoder", LAYER + "/ff/layer_2", TO_LAYER + ".ff.layer_2", "d_inner", "d_model"),
        *layer_norm("encoder", LAYER + "/ff/LayerNorm", TO_LAYER + ".ff.layer_norm"),
        Rule(
            (LM_WEIGHT,),  # only where the output layer does not share the embeddings
            ("lm_loss.weight",),
            shape=("vocab_size", "d_model"),
            part="lm",
            required=False,
        ),
        Rule(("model/lm_loss/bias",), ("lm_loss.bias",), shape=("vocab_size",), part="lm"),
        *dense("summary", SUMMARY, "sequence_summary.summary", "d_model", "d_model"),
        *dense("classifier", TASK_HEAD, "logits_proj", "d_model", "num_labels"),
        *dense("race", RACE_HEAD, "logits_proj", "d_model", 1),
        *dense("squad", "start_logits/dense", "start_logits.dense", "d_model", 1),
        *dense("squad", "end_logits/dense_0", "end_logits.dense_0", "2*d_model", "d_model"),
        *layer_norm("squad", "end_logits/LayerNorm", "end_logits.LayerNorm"),
        *dense("squad", "end_logits/dense_1", "end_logits.dense_1", "d_model", 1),
        *dense("squad", "answer_class/dense_0", "answer_class.dense_0", "2*d_model", "d_model"),
        *dense("squad", "answer_class/dense_1", "answer_class.dense_1", "d_model", 1, bias=False),
    ),
    ties=(Tie("lm_loss.weight", "transformer.word_embedding.weight", "lm"),),
    fills=(
        Fill(
            "transformer.mask_emb",
            (1, 1, "d_model"),
            "zeros",
            "fine-tuning has no query stream and the checkpoint no mask_emb; only target_mapping, "
            "which fine-tuned models have no use for, reads it",
            "mask_emb",
        ),
    ),
    architectures=(
        Architecture("XLNetLMHeadModel", ("encoder", "query stream"), ("lm",)),
        Architecture(
            "XLNetForSequenceClassification", ("encoder", "mask_emb", "summary?"), ("classifier",)
        ),
        Architecture("XLNetForMultipleChoice", ("encoder", "mask_emb", "summary?"), ("race",)),
        Architecture("XLNetForQuestionAnswering", ("encoder", "mask_emb"), ("squad",)),
        Architecture("XLNetModel", ("encoder", "mask_emb"), strip="transformer."),
    ),
)


def _tasks(variables: Iterable[str]) -> set[str]:
    return {match["task"] for match in map(re.compile(TASK_HEAD).match, variables) if match}


class Original(Layout):
    name = "original"
    evidence = (
        r"model/transformer/word_embedding/lookup_table",
        r"model/transformer/layer_\d+/rel_attn/.*",
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        """What the presence and the rank of variables tell."""
        found: Config = {"tie_word_embeddings": LM_WEIGHT not in variables}
        words = variables.get(ENCODER + "word_embedding/lookup_table")
        bias = next((variables[n] for n in RELATIVE_BIASES if n in variables), None)
        if bias is not None and len(bias.shape) in (2, 3):
            found["untie_r"] = len(bias.shape) == 3
            width = bias.shape[-2] * bias.shape[-1]
            if words is not None and words.shape[-1:] != (width,):
                raise ConfigError(
                    f"{bias.name} {list(bias.shape)} has n_head * d_head = {width}, but "
                    f"{words.name} {list(words.shape)} another d_model: transformers' XLNet has no "
                    "such model"
                )
        segments = variables.get(ENCODER + "seg_embed")
        if segments is not None and segments.shape:
            found["n_layer"] = segments.shape[0]
        tasks = _tasks(variables)
        if len(tasks) == 1 and "finetuning_task" not in config:
            found["finetuning_task"], *_ = tasks
        # The original's --use_summ_proj=False: it drops the tanh along with the projection.
        projected = any(name.startswith(SUMMARY) for name in variables)
        if projected:
            found["summary_use_proj"] = True
        elif tasks or RACE_HEAD + "/kernel" in variables:
            found |= {"summary_use_proj": False, "summary_activation": ""}
        return found

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Without untie_r all layers share each bias; of several tasks' heads one is chosen."""
        made = RULES.rules
        if not config.get("untie_r", True):
            kept = (rule for rule in made if rule.sources[0] not in RELATIVE_BIASES)
            shared = (
                per_layer(name, ("n_head", "d_head"), shared=True) for name in RELATIVE_BIASES
            )
            made = (*kept, *shared)
        others = _tasks(variables) - {config.get("finetuning_task")}
        if len(_tasks(variables)) < 2:
            return replace(RULES, rules=made)
        if others == _tasks(variables):
            raise ConfigError(
                f"heads of several tasks: {', '.join(sorted(others))}; choose with "
                "--finetuning_task_name"
            )
        head = TASK_HEAD.replace(
            "(?P<task>[^/]+)", f"(?:{'|'.join(map(re.escape, sorted(others)))})"
        )
        drop = Drop(head + "/.*", f"head of another task than {config['finetuning_task']}")
        return replace(RULES, rules=made, drops=(drop,))


class XLNet(Family):
    model_type = "xlnet"
    layouts = (Original(),)
    # The release's, and what the original's training scripts write beside their checkpoints.
    config_files = ("xlnet_config.json", "config.json")
    output_weight = "lm_loss.weight"
    defaults: ClassVar = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "ff_activation": "gelu_new",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 5,
        "summary_activation": "tanh",
        "summary_use_proj": True,
    }
    pads = False

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from xlnet_config.json, which has the same keys but for n_token."""
        config = same_keys(original, keys_of(self.model_type).aliases)
        if config.get("vocab_size") == -1:  # as brightmart/xlnet_zh has it
            del config["vocab_size"]
        activation = config.get("ff_activation", "gelu")
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"ff_activation = {activation!r}, but the original code knows only gelu and relu: "
                "this config belongs to another model"
            )
        if "ff_activation" in config:
            config["ff_activation"] = ACTIVATIONS[activation]
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        """The defaults of the original's run_classifier.py, run_race.py and run_squad.py."""
        match config.get("architectures"):
            case ["XLNetForSequenceClassification" | "XLNetForMultipleChoice"]:
                return {"summary_type": "last"}
            case ["XLNetForQuestionAnswering"]:
                return {"start_n_top": 5, "end_n_top": 5}
        return {}

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = []
        if config.get("ff_activation") == "gelu_new":
            said.append(
                "ff_activation = gelu_new: the original's gelu is the tanh form, where Hugging "
                "Face's copies say gelu (the erf form); it is also the released models' choice "
                "where no config file gives it, and --set ff_activation=relu the original's other "
                "one"
            )
        if not config.get("untie_r", True):
            said.append(
                "untie_r = false: the layers share r_w_bias, r_r_bias and r_s_bias; transformers "
                "has no such form, so every layer gets a copy (fine-tuning there unties them)"
            )
        return tuple(said)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """spiece.model and a tokenizer_config.json for it.

        No file says whether the original lower-cased its text (--uncased); the vocabulary does.
        """
        path, found = beside.find_vocabulary(("spiece.model",), ("*.model",), is_sentencepiece)
        if path is None:
            return SideFiles({}, found)
        contents = read_small(path)
        pieces = sentencepieces(path, contents)
        settings, said = pieces_settings(path, pieces, config)
        files = tokenizer_config("XLNetTokenizer", **settings)
        notes = (*found, said, *too_many(path, len(pieces), "pieces", config["vocab_size"]))
        return SideFiles({"spiece.model": contents, **files}, notes)


FAMILY = XLNet()
