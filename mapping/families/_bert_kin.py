"""What BERT and its kin share: scopes, configs, and the tokenizer of word pieces."""

from __future__ import annotations

import json
import re
from typing import ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..family import Beside, Config, Family, SideFiles, Variables, check_heads
from ..rules.rule import Architecture, RuleSet
from . import _heads
from ._tokenizers import (
    has_accents,
    has_capitals,
    is_text,
    is_wordpiece,
    tokenizer_config,
    too_many,
    words_of,
)

# Set otherwise, Hugging Face's classes have other layers, or look no further than each word.
ENCODER_ALONE = {
    "add_cross_attention": False,
    "is_decoder": False,
    "position_embedding_type": "absolute",
}
ROOT = "(?:module/)?"  # TF-Hub modules
BERT = ROOT + "bert"
TABLES = rf"{BERT}/embeddings/token_type_embeddings_\d+"  # of TAPAS, which are BERT's but for them
SPECIAL_TOKEN = re.compile(r"\[.*\]|<.*>")
# The original's four, and the names that Hugging Face's code has for their kin.
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "linear", "relu", "silu", "tanh")


class BertKin(Family):
    """A family of BERT's kin; `pooler` is the name of its pooler's layer, empty without one.

    `tokenizer` is the class of its tokenizer.
    """

    fixed = ENCODER_ALONE
    pooler: ClassVar[str] = ""
    tokenizer: ClassVar[str] = "BertTokenizer"

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
        if config["hidden_act"] not in ACTIVATIONS:
            raise ConfigError(
                f"hidden_act = {config['hidden_act']!r}, known are {', '.join(ACTIVATIONS)}"
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
        """vocab.txt and a tokenizer_config.json for it.

        The original release says nowhere in a file whether text is to be lower-cased, which strips
        its accents too; the vocabulary does: it has words that either would change, beside special
        tokens like [CLS] and <S>.
        """
        path, found = beside.find_vocabulary(
            ("vocab.txt",), ("*vocab*.txt", "*.vocab"), is_wordpiece
        )
        if path is None:
            return SideFiles({}, found)
        contents, words = words_of(read_small(path))
        if not is_wordpiece(contents):
            why = "no [UNK] in it" if is_text(contents) else "not UTF-8"
            return SideFiles(
                {}, (f"{path}: {why}: no tokenizer written; --vocab FILE names another",)
            )
        plain = [word for word in words if not SPECIAL_TOKEN.fullmatch(word.strip())]
        accents = has_accents(plain)
        lower, told = config.get("do_lower_case"), "as the config says"
        if lower is None and "do_lower_case" in checkpoint:  # exported by the Garden
            lower, told = bool(checkpoint["do_lower_case"]), "as the module says"
        if lower is None:
            lower = not accents and not has_capitals(plain)
            kinds = "accents, which it would strip" if accents else "capital letters"
            many = "few or no words with accents or" if lower else "many words with"
            told = f"since {path.name} has {many} {kinds}"
        said = f"tokenizer: do_lower_case = {json.dumps(lower)}, {told}; --set do_lower_case=VALUE"
        if accents:
            said += ", with --set strip_accents=false to keep them"
        length = config["max_position_embeddings"]
        more = {
            key: config[key] for key in ("strip_accents", "tokenize_chinese_chars") if key in config
        }
        files = tokenizer_config(
            self.tokenizer, do_lower_case=lower, model_max_length=length, **more
        )
        notes = (*found, said, *too_many(path, len(words), "words", config["vocab_size"]))
        return SideFiles({"vocab.txt": contents, **files}, notes)

    def remarks(self, config: Config) -> tuple[str, ...]:
        if config.get("hidden_act") != "gelu":
            return ()
        return (
            "hidden_act = gelu, in Hugging Face's models and bert4keras the erf form; today's "
            "original code and bert-for-tf2 compute the tanh form, which --set "
            "hidden_act=gelu_new matches",
        )
