"""BERT for sequence generation (google/bertseq2seq on TF-Hub): the encoder and the decoder.

A module holds both. Variable names are those that the modules have, as transformers' converter of
release 4.30 reads them; tensor names and shapes those of transformers'
modeling_bert_generation.py. A module whose stacks share their weights has one, named after the
encoder, with the decoder's attention to the encoder in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError

from ..family import Beside, Config, Layout, SideFiles, Told, Variables
from ..rules.rule import Architecture, Fill, Rule, RuleSet, Tie
from . import _gelu
from ._bert_kin import BERT, BertKin
from ._builders import dense, layer_norm
from ._encoder import HIDDEN, NORM, original_layers
from ._pieces import pieces_files

ENCODER, DECODER = "BertGenerationEncoder", "BertGenerationDecoder"
CROSS, HEAD = "crossattention", "lm_head"
WORDS = "bert.embeddings.word_embeddings.weight"
OF_DECODER = ("is_decoder", "add_cross_attention")
EMBEDDINGS = (
    *(
        Rule(
            (f"{BERT}/embeddings/{name}_embeddings",),
            (f"bert.embeddings.{name}_embeddings.weight",),
            shape=(rows, HIDDEN),
            part="embeddings",
        )
        for name, rows in (("word", "vocab_size"), ("position", "max_position_embeddings"))
    ),
    *layer_norm("embeddings", f"{BERT}/embeddings/{NORM}", "bert.embeddings.LayerNorm", HIDDEN),
)


def cross_attention(stack: str) -> tuple[Rule, ...]:
    """The rules for the attention to the encoder, in the layers of a stack."""
    source = rf"{BERT}/{stack}/layer_(?P<layer>\d+)/attention/encdec"
    target = "bert.encoder.layer.{layer}.crossattention"
    output = f"{target}.output"
    return (
        *(
            rule
            for name in ("query", "key", "value")
            for rule in dense(CROSS, f"{source}/{name}", f"{target}.self.{name}", HIDDEN, HIDDEN)
        ),
        *dense(CROSS, f"{source}_output/dense", f"{output}.dense", HIDDEN, HIDDEN),
        *layer_norm(CROSS, f"{source}_output/{NORM}", f"{output}.LayerNorm", HIDDEN),
    )


class Module(Layout):
    name = "module"
    evidence = (
        rf"{BERT}/embeddings/word_embeddings",
        rf"{BERT}/embeddings/{NORM}/gamma",  # BigBird's is in its encoder
        rf"{BERT}/(?:en|de)coder/layer_\d+/attention/encdec/.*",
    )
    absent = (rf"{BERT}/(?:en|de)coder/layer_\d+/attention/self/{NORM}/.*",)  # pre-norm

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Of either stack; the class is the decoder where the config is one's."""
        has_decoder = not variables or any("bert/decoder/" in name for name in variables)
        stack = "decoder" if has_decoder else "encoder"
        rules = [*EMBEDDINGS, *original_layers(f"{BERT}/encoder", "bert.encoder")]
        if has_decoder:
            rules += original_layers(f"{BERT}/decoder", "bert.encoder", "decoder")
        encoder = Architecture(ENCODER, ("embeddings", "encoder"), strip="bert.")
        decoder = Architecture(DECODER, ("embeddings", stack, CROSS, HEAD))
        kinds = (decoder, encoder) if config.get("is_decoder") else (encoder, decoder)
        return RuleSet(
            family="bert-generation",
            name="bert-generation",
            counts={"layer": "num_hidden_layers"},
            rules=(*rules, *cross_attention(stack)),
            ties=(
                Tie("lm_head.decoder.weight", WORDS, HEAD),
                Tie("lm_head.decoder.bias", "lm_head.bias", HEAD),
            ),
            fills=(Fill("lm_head.bias", ("vocab_size",), "zeros", "the modules have none", HEAD),),
            architectures=kinds,
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """What makes a decoder of transformers' class, or an encoder, whatever the config says."""
        is_one = kind.name == DECODER
        told: Config = {key: is_one for key in OF_DECODER if key not in asked}
        others = [key for key in told if config.get(key, is_one) != is_one]
        said = f"{kind.name}: {' and '.join(others)} = {str(is_one).lower()}, not as in the config"
        return Told(told, (said,) if others else ())


class BertGeneration(BertKin):
    model_type = "bert-generation"
    layouts = (Module(),)
    config_files = ("config.json",)
    output_weight = "lm_head.decoder.weight"
    defaults: ClassVar = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    fixed: ClassVar = {"position_embedding_type": "absolute"}
    needs = ("num_attention_heads",)

    def assume(self, config: Config, variables: Variables) -> Config:
        return {"hidden_act": "gelu"}

    def check(self, config: Config) -> None:
        super().check(config)
        is_one = DECODER in config.get("architectures", ())
        kind = DECODER if is_one else ENCODER
        for key in OF_DECODER:
            if (found := config.get(key, False)) is not is_one:
                raise ConfigError(
                    f"{key} = {json.dumps(found)}: a {kind} with that has other tensors: "
                    f"--set {key}={json.dumps(is_one)}, or choose the other stack with "
                    "--architecture"
                )

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config["hidden_act"] != "gelu":
            return ()
        configs = "Hugging Face's configs of the published models"
        return (_gelu.exact("hidden_act", configs, "the authors' later releases"),)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        name = "spiece.model"
        return pieces_files(beside, config, name, "BertGenerationTokenizer", has_letters=False)


FAMILY = BertGeneration()
