"""What BERT and its kin share: scopes, configs, and the tokenizer of word pieces."""

from __future__ import annotations

from typing import ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError

from ..family import Beside, Config, Family, SideFiles, Variables, check_heads
from ..rules.rule import Architecture, RuleSet
from . import _gelu, _heads
from ._tokenizers import word_pieces

# Set otherwise, Hugging Face's classes have other layers, or look no further than each word.
ENCODER_ALONE = {
    "add_cross_attention": False,
    "is_decoder": False,
    "position_embedding_type": "absolute",
}
ROOT = "(?:module/)?"  # TF-Hub modules
BERT = ROOT + "bert"
# What TAPAS has and BERT has not: a table for each of its features, and heads for them.
TABLES = rf"{BERT}/embeddings/token_type_embeddings_\d+|column_output_weights|output_weights_agg"
# What MobileBERT has and BERT has not.
MOBILE = (
    rf"{BERT}/(?:embeddings/embedding_transformation|encoder/layer_\d+/(?:bottleneck|ffn_layer_\d+)"
    r"|(?:.*/)?FakeLayerNorm)/.*"
)
# The original's four, and the names that Hugging Face's code has for their kin.
ACTIVATIONS = (
    *("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh"),
    *("linear", "relu", "silu", "swish", "tanh"),
)


class BertKin(Family):
    """A family of BERT's kin.

    `pooler` is the name of its pooler's layer, empty without one, `tokenizer` the class of its
    tokenizer, `activations` are what its hidden_act may be.
    """

    fixed = ENCODER_ALONE
    pooler: ClassVar[str] = ""
    tokenizer: ClassVar[str] = "BertTokenizer"
    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    def advice(
        self,
        rules: RuleSet,
        config: Config,
        variables: Variables,
        unknown: Variables,
        asked: Architecture | None,
    ) -> str:
        if not self.pooler:
            return ""
        return _heads.advice(self, self.pooler, rules, config, variables, unknown, asked)

    def check(self, config: Config) -> None:
        check_heads(config, "hidden_size", "num_attention_heads")
        if config["hidden_act"] not in self.activations:
            raise ConfigError(
                f"hidden_act = {config['hidden_act']!r}, known are {', '.join(self.activations)}"
            )
        labels, kinds = len(config.get("id2label") or ()), config.get("architectures", ())
        if any(str(kind).endswith("MultipleChoice") for kind in kinds) and labels != 1:
            raise ConfigError(
                f"{kinds[0]} scores each choice with one row, the checkpoint's head has {labels}"
            )
        if any(str(kind).endswith("QuestionAnswering") for kind in kinds) and labels not in (0, 2):
            raise ConfigError(
                f"{kinds[0]} scores starts and ends, with 2 rows; the checkpoint's head has "
                f"{labels}"
            )
        if "AlbertForPreTraining" in kinds and labels not in (0, 2):
            raise ConfigError(
                f"AlbertForPreTraining has as many labels as its sentence order has, 2, the config "
                f"{labels}: --set num_labels=2 --set id2label=null leaves them out"
            )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        length = config["max_position_embeddings"]
        return word_pieces(checkpoint, beside, config, self.tokenizer, model_max_length=length)

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config.get("hidden_act") != "gelu":
            return ()
        others = "today's original code and bert-for-tf2"
        return (_gelu.exact("hidden_act", "Hugging Face's models and bert4keras", others),)
