"""CANINE (google-research/language, language/canine): the encoder alone, TyDi QA and classifiers.

Variable names are those of the original modeling.py and tydiqa/tydi_modeling.py; tensor names and
shapes those of transformers' modeling_canine.py. The scope of chars_to_molecules is doubled in the
original too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError

from ..config_keys import keys_of
from ..family import Beside, Config, Layout, SideFiles, Told, Variables, same_keys
from ..rules.ops import Pad, Permute
from ..rules.rule import Architecture, Drop, Rule, RuleSet
from . import _gelu
from ._bert_kin import BertKin
from ._builders import dense, layer_norm, output_layer
from ._encoder import HIDDEN, NORM, original_layer, original_layers
from ._heads import with_head
from ._tokenizers import tokenizer_config

CHARS, TARGET = "char_embeddings", "canine.char_embeddings"
POSITIONS, SEGMENTS = f"{CHARS}/char_position_embeddings", f"{CHARS}/segment_embeddings"
BUCKETS = f"{CHARS}/embeddings/HashBucketCodepointEmbedder_"
DOWN = "initial_char_encoder/initial_char_encoder/chars_to_molecules"
FINAL = "final_char_encoder"
STRIDE = "local_transformer_stride"
# One revision of the original makes so many rows, whatever type_vocab_size is.
FIXED_SEGMENTS = 16
MOST_HASHES = 16  # for which both codes have prime numbers
TRAINED_LENGTH = 2048  # of the releases, in characters
PARTS = ("encoder", "pooler")


def convolution(source: str, target: str, width: str, inputs: str) -> tuple[Rule, ...]:
    """TensorFlow's kernel is [width, in, out], PyTorch's weight [out, in, width]."""
    kernel = Rule(
        (f"{source}/conv/kernel",),
        (f"{target}.conv.weight",),
        (Permute((2, 1, 0)),),
        (width, inputs, HIDDEN),
        "encoder",
    )
    bias = Rule((f"{source}/conv/bias",), (f"{target}.conv.bias",), shape=(HIDDEN,), part="encoder")
    return kernel, bias, *layer_norm("encoder", f"{source}/{NORM}", f"{target}.LayerNorm", HIDDEN)


RULES = RuleSet(
    family="canine",
    name="canine",
    counts={"layer": "num_hidden_layers", "hash": "num_hash_functions"},
    rules=(
        Rule(
            (rf"{BUCKETS}(?P<hash>\d+)",),
            (TARGET + ".HashBucketCodepointEmbedder_{hash}.weight",),
            shape=("num_hash_buckets", f"{HIDDEN}/num_hash_functions"),
            part="encoder",
        ),
        # The class has as many positions as buckets, whatever max_position_embeddings is.
        Rule(
            (POSITIONS,),
            (f"{TARGET}.char_position_embeddings.weight",),
            (Pad(0, 0, "num_hash_buckets"),),
            ("max_position_embeddings", HIDDEN),
            "encoder",
        ),
        Rule(
            (SEGMENTS,),
            (f"{TARGET}.token_type_embeddings.weight",),
            shape=("type_vocab_size", HIDDEN),
            part="encoder",
        ),
        *layer_norm("encoder", f"{CHARS}/{NORM}", f"{TARGET}.LayerNorm", HIDDEN),
        *original_layer("initial_char_encoder/layer_0", "canine.initial_char_encoder.layer.0"),
        *convolution(DOWN, "canine.chars_to_molecules", "downsampling_rate", HIDDEN),
        *original_layers("bert", "canine.encoder"),
        *convolution(FINAL, "canine.projection", "upsampling_kernel_size", f"2*{HIDDEN}"),
        *original_layer(f"{FINAL}/layer_0", f"canine.{FINAL}.layer.0"),
        *dense("pooler", "pooler/dense", "canine.pooler.dense", HIDDEN, HIDDEN),
        *output_layer("classifier", "", "classifier", "num_labels"),
        *output_layer("spans", "cls/(?:tydi|squad)/", "qa_outputs", 2),
    ),
    drops=(
        Drop("answer_type_output_(?:weights|bias)", "no class has a head for types of answers"),
        Drop(
            "(?:cls/(?!tydi/|squad/)|autoregressive_decoder/|char_output_).*",
            "a head of pre-training, which no class has",
        ),
    ),
    architectures=(
        Architecture("CanineForSequenceClassification", PARTS, ("classifier",)),
        Architecture("CanineForTokenClassification", PARTS, ("classifier",)),
        Architecture("CanineForMultipleChoice", PARTS, ("classifier",)),
        Architecture("CanineForQuestionAnswering", PARTS, ("spans",)),
        Architecture("CanineModel", ("encoder", "pooler?"), strip="canine."),
    ),
)


def rows(variables: Variables, name: str) -> int | None:
    return next(iter(variables[name].shape), None) if name in variables else None


class Original(Layout):
    name = "original"
    evidence = (rf"{BUCKETS}\d+", r"bert/layer_\d+/attention/.*")

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """The segments that there are, where the original made so many in any case."""
        key, found = "type_vocab_size", rows(variables, SEGMENTS)
        if found != FIXED_SEGMENTS or key in asked or config.get(key, found) == found:
            return Told()
        said = f"{key} = {found}, as the original makes so many in place of {config[key]}"
        return Told({key: found}, (said,))

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError for more positions than the class has, and for tables that lack."""
        positions, buckets = rows(variables, POSITIONS), rows(variables, f"{BUCKETS}0")
        if positions is None or buckets is None:
            return RULES
        tables = [v.shape for k, v in variables.items() if re.fullmatch(rf"{BUCKETS}\d+", k)]
        joined, hidden = sum(shape[-1] for shape in tables), variables[POSITIONS].shape[-1]
        if joined != hidden:
            raise PlanError(
                f"the {len(tables)} tables {BUCKETS}N have {joined} columns in all, and positions "
                f"{hidden}: the checkpoint is not whole"
            )
        if positions > buckets:
            raise PlanError(
                f"{POSITIONS} has {positions} rows, but transformers' CANINE has one for each of "
                f"num_hash_buckets = {buckets}, and fails on longer texts: no class holds it"
            )
        made = with_head(RULES, config, variables)
        if positions == buckets:
            return made
        said = (
            f"{POSITIONS}: rows from {positions} on are zeros, as transformers' CANINE has one for "
            f"each of num_hash_buckets = {buckets}; texts have at most {positions} characters"
        )
        return replace(made, remarks=(*made.remarks, said))


class Canine(BertKin):
    model_type = "canine"
    layouts = (Original(),)
    config_files = ("canine_config.json",)  # the other name, model_config.json, is of any family
    pooler = "canine.pooler.dense"
    defaults: ClassVar = {
        "bos_token_id": 0xE000,
        "eos_token_id": 0xE001,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    labels: ClassVar = {"CanineForMultipleChoice": 1}
    needs = ("num_attention_heads",)

    def translate(self, original: Mapping[str, Any]) -> Config:
        """The original's gelu is the tanh form."""
        known = keys_of(self.model_type)
        given = {key: value for key, value in original.items() if key not in known.original}
        config = same_keys(given, known.aliases)
        if config.get("hidden_act") == "gelu":
            config["hidden_act"] = "gelu_new"
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"hidden_act": "gelu_new", STRIDE: 128}

    def check(self, config: Config) -> None:
        super().check(config)
        if config["num_hash_functions"] > MOST_HASHES:
            raise ConfigError(
                f"num_hash_functions = {config['num_hash_functions']}, at most {MOST_HASHES} are "
                "known"
            )
        if config[STRIDE] < 1:
            raise ConfigError(f"{STRIDE} = {config[STRIDE]}, expected 1 or more")

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """A tokenizer_config.json alone: the tokens are characters."""
        length = min(TRAINED_LENGTH, config["max_position_embeddings"])
        return SideFiles(tokenizer_config("CanineTokenizer", model_max_length=length))

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = []
        if config.get("hidden_act") == "gelu_new":
            said.append(_gelu.tanh("hidden_act", "2e-3"))
        stride, reach = config[STRIDE], config["upsampling_kernel_size"] // 2
        said.append(
            f"{STRIDE} = {stride}: transformers' CANINE weighs {stride} characters that are all "
            "padding alike, the original as it scores them: where such begin less than "
            f"{reach} characters behind a text, its last characters differ by 1e-2 and the others "
            f"by 2e-4; none do where it is padded to the next multiple of {stride} at most"
        )
        return tuple(said)


FAMILY = Canine()
