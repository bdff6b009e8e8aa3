"""Funnel-Transformer (laiguokun/Funnel-Transformer): pre-training and fine-tuned checkpoints.

Variable names are those of the original tensorflow/modeling.py, ops.py and pretrain.py; tensor
names and shapes those of transformers' modeling_funnel.py. Layers are numbered through all blocks,
and on into the decoder: which block a layer is in tells the config alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError

from ..config_checks import shown
from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Told, Variables, same_keys
from ..rules.ops import Concat, Op, Reshape, Transpose
from ..rules.rule import Architecture, Drop, Rule, RuleSet
from . import _gelu
from ._bert_kin import ACTIVATIONS
from ._builders import dense, layer_norm
from ._tokenizers import word_pieces

D_MODEL, HEADS, WIDTH = "d_model", ("n_head", "d_head"), "n_head*d_head"
WORDS = "model/input/word_embedding/lookup_table"
LAYER = re.compile(r"model/(?P<stack>encoder|decoder)/layer_(?P<layer>\d{1,9})/.*")
SUMMARY = "model/sequnece_summary/summary"  # the original misspells the scope
TASK = r"model/(?P<task>[^/]+)/logit"  # of classifier.py, after the task or --cls_scope
USUAL_BLOCKS, USUAL_DECODER = (4, 4, 4), 2
# What only models have that transformers' class is not.
OTHERS = {
    "model/encoder/input_projection/kernel": "a projection between embeddings and layers, of "
    "another size (d_embed, d_model)",
    "model/input/position_embedding/lookup_table": "embeddings of positions and segments in place "
    "of relative ones (rel_attn_type null)",
}
# Heads that no class has: by what they are told, what is left out, and why.
LEFT_OUT = {
    "model/end_logits/dense_0/kernel": (
        "model/(?:start|end)_logits/.*",
        "ends of answers that depend on the starts (conditional_end), which no class of "
        "transformers has: the result is FunnelModel",
    ),
    "model/answer_class/dense_0/kernel": (
        "model/answer_class/.*",
        "whether a question has an answer, which no class of transformers tells: left out",
    ),
    "model/lm_proj/dense/kernel": (
        "model/lm_(?:proj|loss)/.*",
        "a layer and a norm before the words' scores, which transformers' FunnelForMaskedLM lacks: "
        "the head is left out",
    ),
}
CONDITIONAL_END, *_ = LEFT_OUT
ENCODER_ALONE = "--architecture FunnelBaseModel takes the encoder, which is the same in both"
DEPTH = r"(\d{1,4})(?:x(\d{1,4}))?"
# Keys of the original's that its code or this module reads, but for what is in RENAMED.
READ = ("block_size", "d_embed", "ff_activation", "init", "pooling_size", "rel_attn_type")
RENAMED = {
    "dropact": "activation_dropout",
    "dropatt": "attention_dropout",
    "dropout": "hidden_dropout",
    "init_range": "initializer_range",
    "init_std": "initializer_std",
}
GELU = "gelu_new"  # the original's is the tanh form
FF_ACTIVATIONS = {"gelu": GELU, "relu": "relu", "tanh": "tanh"}
ATTENTIONS = {"factorized": "factorized", "rel_shift": "relative_shift"}  # equal in value


def layer_rules(part: str, source: str, target: str) -> Iterator[Rule]:
    """The rules of a layer, whose attention has heads as an axis; linear layers of PyTorch not."""
    attention, made = f"{source}/rel_attn", f"{target}.attention"

    def rule(name: str, tensor: str, shape: tuple[int | str, ...], *ops: Op) -> Rule:
        return Rule((f"{attention}/{name}",), (f"{made}.{tensor}",), ops, shape, part)

    kernel, joined = (D_MODEL, *HEADS), Reshape((D_MODEL, WIDTH))
    yield rule("(?P<name>q|k|v)/kernel", "{name}_head.weight", kernel, joined, Transpose())
    yield rule("(?P<name>k|v)/bias", "{name}_head.bias", HEADS, Reshape((WIDTH,)))
    output = Reshape((WIDTH, D_MODEL))
    yield rule("o/kernel", "post_proj.weight", (*HEADS, D_MODEL), output, Transpose())
    yield rule("o/bias", "post_proj.bias", (D_MODEL,))
    yield rule("r/kernel", "r_kernel", kernel)
    yield rule("(?P<name>r_w_bias|r_r_bias|r_s_bias)", "{name}", HEADS)
    yield rule("seg_embed", "seg_embed", (2, *HEADS))
    yield from layer_norm(part, f"{attention}/layer_norm", f"{made}.layer_norm", D_MODEL)
    inner, forward = f"{source}/ff", f"{target}.ffn"
    yield from dense(part, f"{inner}/layer_1", f"{forward}.linear_1", D_MODEL, "d_inner")
    yield from dense(part, f"{inner}/layer_2", f"{forward}.linear_2", "d_inner", D_MODEL)
    yield from layer_norm(part, f"{inner}/layer_norm", f"{forward}.layer_norm", D_MODEL)


def model_rules(blocks: Iterable[int], decoder: int) -> Iterator[Rule]:
    """The rules of embeddings, of the blocks' layers, and of so many layers of the decoder."""
    words, norm = "funnel.embeddings.word_embeddings.weight", "funnel.embeddings.layer_norm"
    yield Rule((WORDS,), (words,), shape=("vocab_size", D_MODEL), part="encoder")
    yield from layer_norm("encoder", "model/input/layer_norm", norm, D_MODEL)
    targets = [f"encoder.blocks.{b}.{i}" for b, size in enumerate(blocks) for i in range(size)]
    targets += [f"decoder.layers.{i}" for i in range(decoder)]
    for number, target in enumerate(targets):
        part, _, _ = target.partition(".")
        yield from layer_rules(part, f"model/{part}/layer_{number}", f"funnel.{target}")


def squad_rules() -> Iterator[Rule]:
    """A layer for starts and one for ends, which PyTorch's joins."""
    scopes = "model/start_logits/dense", "model/end_logits/dense"
    kernels, biases = (tuple(f"{s}/{name}" for s in scopes) for name in ("kernel", "bias"))
    yield Rule(kernels, ("qa_outputs.weight",), (Concat(1), Transpose()), (D_MODEL, 1), "squad")
    yield Rule(biases, ("qa_outputs.bias",), (Concat(0),), (1,), "squad")


BINARY = "discriminator_predictions"
HEADS_RULES = (
    *dense("binary", "model/binary_proj/dense", f"{BINARY}.dense", D_MODEL, D_MODEL),
    Rule(
        ("model/binary_loss/weight",),
        (f"{BINARY}.dense_prediction.weight",),
        (Reshape((1, D_MODEL)),),
        (D_MODEL,),
        "binary",
    ),
    Rule(("model/binary_loss/bias",), (f"{BINARY}.dense_prediction.bias",), (), (1,), "binary"),
    *dense("summary", SUMMARY, "classifier.linear_hidden", D_MODEL, D_MODEL),
    *dense("race", "model/race/logits", "classifier.linear_out", D_MODEL, 1),
)
WHOLE = ("encoder", "decoder")
ARCHITECTURES = (
    Architecture("FunnelForPreTraining", WHOLE, ("binary",)),
    Architecture("FunnelForSequenceClassification", ("encoder", "summary"), ("classifier",)),
    Architecture("FunnelForMultipleChoice", ("encoder", "summary"), ("race",)),
    Architecture("FunnelForQuestionAnswering", WHOLE, ("squad",)),
)
MODELS = (
    Architecture("FunnelModel", WHOLE, strip="funnel."),
    Architecture("FunnelBaseModel", ("encoder",), strip="funnel."),
)


def _layers(stack: str, variables: Iterable[str]) -> set[int]:
    """The numbers of a stack's layers."""
    found = filter(None, map(LAYER.fullmatch, variables))
    return {int(match["layer"]) for match in found if match["stack"] == stack}


def _tasks(variables: Iterable[str]) -> set[str]:
    kernel = re.compile(f"{TASK}/kernel")
    return {match["task"] for match in map(kernel.fullmatch, variables) if match}


def _blocks(config: Config, layers: Collection[int]) -> list[int]:
    """How many layers each block has, by the config. Raises PlanError where it has not as many."""
    sizes, repeats, number = config.get("block_sizes"), config.get("block_repeats"), max(layers) + 1
    if sizes is None or repeats is None:
        raise PlanError(
            f"nothing in it tells which of its {number} layers are a block (block_sizes), and how "
            "often each of a block is run (block_repeats)\nPass --config net_config.json, or both, "
            "such as --set block_sizes=[4,4,4] --set block_repeats=[1,1,1]"
        )
    if len(sizes) != len(repeats) or not sizes or min(*sizes, *repeats) < 1:
        raise PlanError(
            f"block_sizes = {shown(sizes)} and block_repeats = {shown(repeats)}: expected as many "
            "numbers in both, from 1 on"
        )
    if sum(sizes) != number:
        raise PlanError(
            f"block_sizes = {shown(sizes)} are {sum(sizes)} layers, but the checkpoint has {number}"
            f" (layer 0 to {number - 1}): correct the config, or the checkpoint is incomplete"
        )
    return list(sizes)


class Original(Layout):
    name = "original"
    evidence = (WORDS, r"model/encoder/layer_\d+/rel_attn/.*")

    def describe(self, config: Config, variables: Variables) -> Config:
        """The layers of the decoder, which classifiers lack, and the only task."""
        found: Config = {}
        if decoder := _layers("decoder", variables):
            found["num_decoder_layers"] = len(decoder)
        tasks = _tasks(variables)
        if len(tasks) == 1 and "finetuning_task" not in config:
            found["finetuning_task"], *_ = tasks
        return found

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """A rule for each layer, by the config's blocks; of several tasks' heads one is chosen.

        Raises PlanError for models that transformers' class is not and without blocks, ConfigError
        where a task is to be chosen.
        """
        for name, what in OTHERS.items():
            if name in variables:
                raise PlanError(f"{name}: {what}, which no class of transformers has")
        layers, decoder = _layers("encoder", variables), _layers("decoder", variables)
        rules = [*HEADS_RULES]
        if layers:
            # One layer of a decoder that is not there: classes that need it miss it.
            lacking = min(config.get("num_decoder_layers", 1), 1)
            rules += model_rules(_blocks(config, layers), len(decoder) or lacking)
        else:
            rules += model_rules(USUAL_BLOCKS, USUAL_DECODER)
        left_out = {name: said for name, said in LEFT_OUT.items() if name in variables}
        drops = [Drop("generator/.*", "the generator of pre-training")]
        drops += [Drop(source, "head of no class") for source, _ in left_out.values()]
        if CONDITIONAL_END not in variables:
            rules += squad_rules()
        tasks, head = _tasks(variables), TASK
        if len(tasks) > 1:
            task = config.get("finetuning_task")
            if task not in tasks:
                raise ConfigError(
                    f"heads of several tasks: {', '.join(sorted(tasks))}; choose with "
                    "--finetuning_task_name"
                )
            head = f"model/{re.escape(task)}/logit"
            others = "|".join(map(re.escape, sorted(tasks - {task})))
            drops.append(Drop(f"model/(?:{others})/logit/.*", f"head of another task than {task}"))
        rules += dense("classifier", head, "classifier.linear_out", D_MODEL, "num_labels")
        return RuleSet(
            family="funnel",
            name="funnel",
            rules=tuple(rules),
            drops=tuple(drops),
            architectures=(*ARCHITECTURES, *(MODELS if decoder or not layers else MODELS[::-1])),
            remarks=tuple(f"{name}: {said}" for name, (_, said) in left_out.items()),
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """Raises PlanError for classes that compute something else than the checkpoint's model."""
        if "squad" in kind.heads and CONDITIONAL_END in variables:
            raise PlanError(f"{CONDITIONAL_END}: {LEFT_OUT[CONDITIONAL_END][1]}")
        repeats = config.get("block_repeats") or [1]
        if "decoder" in kind.parts and repeats[0] > 1:
            raise PlanError(
                f"block_repeats = {shown(repeats)}: {kind.name} adds another hidden state to its "
                f"decoder's input than the first block's last, 2 off in a small model; "
                f"{ENCODER_ALONE}"
            )
        if "decoder" in kind.parts and (times := _depth("decoder_size", config, "1")[0][1]) > 1:
            raise PlanError(
                f"decoder_size = {shown(config['decoder_size'])}: the original runs each layer of "
                f"its decoder {times} times, {kind.name} once; {ENCODER_ALONE}"
            )
        if "decoder" in kind.parts and len(repeats) == 1:
            raise PlanError(
                f"only one block: the original has no decoder then, while {kind.name} adds the "
                f"block's output to itself; {ENCODER_ALONE}"
            )
        return Told()


def _depth(key: str, original: Mapping[str, Any], default: str = "") -> list[tuple[int, int]]:
    """The layers of each block and how often each is run, of `4_4x2`. Raises ConfigError."""
    value = original.get(key, default)
    if not re.fullmatch(f"{DEPTH}(?:_{DEPTH})*", str(value)):
        raise ConfigError(f"{key} = {shown(value)}, expected sizes such as 4_4x2_4x2")
    return [(int(size), int(times or 1)) for size, times in re.findall(DEPTH, str(value))]


class Funnel(Family):
    model_type = "funnel"
    layouts = (Original(),)
    config_files = ("net_config.json",)
    defaults: ClassVar = {
        "attention_type": "factorized",
        "layer_norm_eps": 1e-8,
        "truncate_seq": True,
    }
    needs = ("block_sizes", "block_repeats")
    refused: ClassVar = {
        "FunnelForMaskedLM": "the original's head for masked words, and that of its generator, has "
        "a layer and a norm before the scores, which this class lacks; without a head it is "
        "FunnelModel",
        "FunnelForTokenClassification": "the original's code has no head for labels of tokens",
    }

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config from net_config.json, or from one of theirs.

        `decoder_size` stays until it is known whether the class has a decoder. Raises ConfigError
        for models that no class of transformers is.
        """
        kept = {RENAMED.get(key, key): v for key, v in original.items() if key not in READ}
        config = same_keys(kept, keys_of(self.model_type).aliases)
        if "block_size" in original:
            depths = _depth("block_size", original)
            config["block_sizes"] = [size for size, _ in depths]
            config["block_repeats"] = [times for _, times in depths]
        elif "block_sizes" in config:
            config.setdefault("block_repeats", [1] * len(config["block_sizes"]))
        if "decoder_size" in original:
            (config["num_decoder_layers"], _), *_ = _depth("decoder_size", original)
        for key, known, name in (
            ("ff_activation", FF_ACTIVATIONS, "hidden_act"),
            ("rel_attn_type", ATTENTIONS, "attention_type"),
        ):
            value = original.get(key)
            if value is not None and (not isinstance(value, str) or value not in known):
                raise ConfigError(f"{key} = {shown(value)}, known are {', '.join(known)}")
            if value is not None:
                config[name] = known[value]
        if (size := original.get("pooling_size", 2)) != 2:
            raise ConfigError(
                f"pooling_size = {shown(size)}: transformers' Funnel pools two positions to one"
            )
        width = config.get(D_MODEL, original.get("d_embed"))
        if (size := original.get("d_embed", width)) != width:
            raise ConfigError(
                f"d_embed = {shown(size)}, d_model = {shown(width)}: transformers' "
                "Funnel has one size for both, and no projection between them"
            )
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        return {
            "hidden_act": GELU,
            "pool_q_only": True,
            "pooling_type": "mean",
            "separate_cls": True,
        }

    def written(self, config: Config) -> Config:
        return super().written({k: v for k, v in config.items() if k != "decoder_size"})

    def check(self, config: Config) -> None:
        if config["separate_cls"] is not True:
            raise ConfigError(
                "separate_cls = false: the original keeps positions and segments out of the first "
                "token's scores all the same, transformers' Funnel does not (0.25 off in a small "
                "model), so no conversion is right"
            )
        for key, known in (
            ("hidden_act", ACTIVATIONS),
            ("pooling_type", ("mean", "max")),
            ("attention_type", tuple(ATTENTIONS.values())),
        ):
            if config[key] not in known:
                raise ConfigError(f"{key} = {shown(config[key])}, known are {', '.join(known)}")
        (kind,) = config["architectures"]
        if kind == "FunnelForPreTraining" and not config["hidden_act"].startswith("gelu"):
            raise ConfigError(
                f"hidden_act = {config['hidden_act']!r}: the original's head for replaced words "
                "has gelu all the same, transformers' FunnelForPreTraining has not; "
                "--architecture FunnelModel leaves the head out"
            )
        labels = len(config.get("id2label") or ())
        if kind == "FunnelForQuestionAnswering" and labels not in (0, 2):
            raise ConfigError(
                f"{kind} scores starts and ends, with 2 rows, the config has {labels} labels: "
                "--set id2label=null leaves them out"
            )

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = []
        if config["hidden_act"] == "gelu":
            said.append(_gelu.asked("hidden_act"))
        joined = 1 << len(config["block_sizes"]) - 1
        if joined > 1:
            said.append(
                "padding: where a text has not a multiple of "
                f"{joined} tokens after the first, pooling joins its last with padding; "
                "transformers hides the pair from attention, the original does not (0.06 off in a "
                "small model)"
            )
        return tuple(said)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """vocab.txt, which the release calls vocab.uncased.txt, and a tokenizer_config.json."""
        names = ("vocab.uncased.txt", "vocab.txt")
        return word_pieces(checkpoint, beside, config, "FunnelTokenizer", names, "<unk>")


FAMILY = Funnel()
