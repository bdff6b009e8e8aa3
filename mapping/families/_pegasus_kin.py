"""What PEGASUS and BigBird-Pegasus share: transformers' classes, heads, sentencepiece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..family import Beside, Config, Family, SideFiles, check_heads
from ..rules.rule import Architecture, Fill, Rule, RuleSet, Tie
from ..rules.schema import shown
from ._tokenizers import is_sentencepiece, sentencepieces, tokenizer_config, too_many

SIZE = "d_model"
HEADS = ("encoder_attention_heads", "decoder_attention_heads")
ACTIVATIONS = ("gelu", "gelu_new", "linear", "relu", "silu", "tanh")
OFFSET = 103  # of PEGASUS, for tokens before those of its sentencepiece model
LARGE, LARGE_HEADS = 1024, 16  # d_model of the releases, and their heads


def rule_set(
    family: str, model: str, rules: tuple[Rule, ...], fills: tuple[Fill, ...] = (), *remarks: str
) -> RuleSet:
    """The rules of a summarizer; `model` is what the names of its classes begin with."""
    bias = "the original's logits have no bias"
    return RuleSet(
        family=family,
        name=family,
        counts={"layer": "encoder_layers", "block": "decoder_layers"},
        rules=rules,
        fills=(*fills, Fill("final_logits_bias", (1, "vocab_size"), "zeros", bias, "lm")),
        remarks=remarks,
        ties=(
            Tie("model.encoder.embed_tokens.weight", "model.shared.weight"),
            Tie("model.decoder.embed_tokens.weight", "model.shared.weight"),
            Tie("lm_head.weight", "model.shared.weight", "lm"),
        ),
        architectures=(
            Architecture(f"{model}ForConditionalGeneration", ("model", "lm")),
            Architecture(f"{model}Model", ("model",), strip="model."),
        ),
    )


def same_heads(config: Config) -> Config:
    """Either stack's heads, where the config tells the other's: the original has one number."""
    told = next((config[key] for key in HEADS if key in config), None)
    return {} if told is None else dict.fromkeys(HEADS, told)


class PegasusKin(Family):
    """A family of summarizers.

    `vocabularies` are the usual names of its sentencepiece model, `tokenizer` settings for it.
    """

    fixed: ClassVar = {"is_decoder": False}
    output_weight = "lm_head.weight"
    needs = HEADS
    vocabularies: ClassVar[tuple[str, ...]]
    tokenizer: ClassVar[Mapping[str, Any]] = {}

    def check(self, config: Config) -> None:
        for key in HEADS:
            check_heads(config, SIZE, key)
        if config["activation_function"] not in ACTIVATIONS:
            raise ConfigError(
                f"activation_function = {shown(config['activation_function'])}, known are "
                f"{', '.join(ACTIVATIONS)}"
            )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """spiece.model and a tokenizer_config.json for it."""
        path, found = beside.find_vocabulary(self.vocabularies, ("*.model",), is_sentencepiece)
        if path is None:
            return SideFiles({}, found)
        contents = read_small(path)
        count = len(sentencepieces(path, contents)) + self.tokenizer.get("offset", OFFSET)
        length = config["max_position_embeddings"]
        files = tokenizer_config("PegasusTokenizer", model_max_length=length, **self.tokenizer)
        notes = (*found, *too_many(path, count, "pieces", config["vocab_size"]))
        return SideFiles({"spiece.model": contents, **files}, notes)
