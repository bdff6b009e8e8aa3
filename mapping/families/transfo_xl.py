"""Transformer-XL (kimiyoung/transformer-xl, tf/): language models over words and characters.

Variable names and shapes are those of the original model.py, tensor names those of transformers
4's modeling_transfo_xl.py; transformers 5 has the model no more. The vocabulary may be cut into
clusters, each with a bias, a width and projections of its own; which there are decides the rules.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, count, islice, takewhile
from operator import le
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Variables, same_keys
from ..rules.ops import Concat, Repeat, Transpose, Unstack
from ..rules.rule import Architecture, Fill, Rule, RuleSet, Tie
from ._tokenizers import is_text, tokenizer_config

LAYER = r"transformer/layer_(?P<layer>\d+)"
TO_LAYER = "transformer.layers.{layer}"
EMBED, SOFTMAX = "transformer/adaptive_embed", "transformer/adaptive_softmax"
TABLE, TO_TABLE = "/lookup_table", "transformer.word_emb.emb_layers.{}.weight"
TO_OUTPUT = "crit.out_layers.{}"
# Projections from a cluster's width to the model's, on the way in and on the way out.
PROJECTION, TO_PROJECTION = "/proj_W", "transformer.word_emb.emb_projs.{}"
OUT_PROJECTION, TO_OUT_PROJECTION = "/proj", "crit.out_projs.{}"
RELATIVE_BIASES = ("r_w_bias", "r_r_bias")
RELEASES = "transformers>=4.30,<4.38"  # from 4.38 on its forward pass fails, from 5 on it is gone


def encoder(source: str, target: str, *shape: str | int) -> Rule:
    """TensorFlow's kernels are [in, out], PyTorch's weights [out, in]."""
    ops = (Transpose(),) if source.endswith("/kernel") else ()
    return Rule((source,), (target,), ops, shape, "encoder")


def dense(source: str, target: str, inputs: str, outputs: str) -> Rule:
    return encoder(f"{LAYER}/{source}/kernel", f"{TO_LAYER}.{target}.weight", inputs, outputs)


def bias(source: str, target: str, size: str) -> Rule:
    return encoder(f"{LAYER}/{source}/bias", f"{TO_LAYER}.{target}.bias", size)


def output(source: str, target: str, *shape: str | int) -> Rule:
    return Rule((source,), (target,), shape=shape, part="lm")


def layer_norm(source: str, target: str) -> tuple[Rule, ...]:
    source, target = f"{LAYER}/{source}/LayerNorm", f"{TO_LAYER}.{target}.layer_norm"
    return (
        encoder(f"{source}/gamma", f"{target}.weight", "d_model"),
        encoder(f"{source}/beta", f"{target}.bias", "d_model"),
    )


LAYERS = (
    # Queries, keys and values in one matrix, on both sides.
    dense("rel_attn/qkv", "dec_attn.qkv_net", "d_model", "3*n_head*d_head"),
    dense("rel_attn/r", "dec_attn.r_net", "d_model", "n_head*d_head"),
    dense("rel_attn/o", "dec_attn.o_net", "n_head*d_head", "d_model"),
    *layer_norm("rel_attn", "dec_attn"),
    dense("ff/layer_1", "pos_ff.CoreNet.0", "d_model", "d_inner"),
    bias("ff/layer_1", "pos_ff.CoreNet.0", "d_inner"),
    dense("ff/layer_2", "pos_ff.CoreNet.3", "d_inner", "d_model"),
    bias("ff/layer_2", "pos_ff.CoreNet.3", "d_model"),
    *layer_norm("ff", "pos_ff"),
)
UNTIED_BIASES = tuple(
    Rule(
        (f"transformer/{name}",),
        (f"{TO_LAYER}.dec_attn.{name}",),
        (Unstack(0, "layer"),),
        ("n_layer", "n_head", "d_head"),
        "encoder",
    )
    for name in RELATIVE_BIASES
)
# transformers' model has these once for all layers, and its state dict in each layer too.
SHARED_BIASES = tuple(
    rule
    for name in RELATIVE_BIASES
    for rule in (
        encoder(f"transformer/{name}", f"transformer.{name}", "n_head", "d_head"),
        Rule(
            (f"transformer/{name}",),
            (f"{TO_LAYER}.dec_attn.{name}",),
            (Repeat("n_layer"), Unstack(0, "layer")),
            ("n_head", "d_head"),
            "encoder",
        ),
    )
)
FREQUENCIES = Fill(
    "transformer.pos_emb.inv_freq",
    ("d_model/2",),
    "frequencies",
    "the sinusoids of the positions, which the original computes each time",
    "encoder",
)


@dataclass(frozen=True)
class Vocabulary:
    """How the vocabulary is cut: the rows and the width of each cluster, one where it is not cut.

    With `div_val = 1` all clusters have one width and lie in one table. `projected` are the tables
    with a projection, `out_projected` the clusters whose output has one of its own.
    """

    rows: tuple[int, ...]
    widths: tuple[int, ...]
    d_model: int
    is_one_table: bool
    projected: frozenset[int]
    out_projected: frozenset[int]

    @property
    def tables(self) -> range:
        return range(1 if self.is_one_table else len(self.rows))

    def table(self, cluster: int) -> int:
        return min(cluster, self.tables[-1])

    def scope(self, table: int) -> str:
        return EMBED if self.is_one_table else f"{EMBED}/cutoff_{table}"

    def is_tied(self, cluster: int) -> bool:
        """Whether the way out shares the projection of the way in.

        The first cluster never does where there are others, which do all or none
        (proj_share_all_but_first).
        """
        others = self.out_projected - {0}
        may_be = cluster > 0 or len(self.rows) == 1
        return may_be and not others and self.table(cluster) in self.projected

    def is_plain(self, cluster: int) -> bool:
        """Whether there is no projection: the model's own width needs none (proj_same_dim)."""
        both = {self.table(cluster)} & self.projected or {cluster} & self.out_projected
        return self.widths[cluster] == self.d_model and not both


def vocabulary(variables: Variables) -> Vocabulary | None:
    """As the variables tell it; None where they are of another model."""

    def present(name: str) -> list[TensorInfo]:
        """The variables of that name in clusters 0, 1 and so on."""
        names = takewhile(variables.__contains__, (name.format(i) for i in count()))
        return [variables[name] for name in names]

    whole = [variables[EMBED + TABLE]] if EMBED + TABLE in variables else []
    tables = whole or present(EMBED + "/cutoff_{}" + TABLE)
    biases = present(SOFTMAX + "/cutoff_{}/b")
    if not tables or any(len(info.shape) != 2 for info in tables):
        return None
    rows = [info.shape[0] for info in tables]
    widths = [info.shape[1] for info in tables]
    if whole and biases:
        rows, widths = [sum(info.shape) for info in biases], widths * len(biases)
    clusters = range(len(rows))
    norm = variables.get("transformer/layer_0/ff/LayerNorm/gamma")
    d_model = sum(norm.shape) if norm else 0
    found = Vocabulary(tuple(rows), tuple(widths), d_model, bool(whole), frozenset(), frozenset())
    return replace(
        found,
        projected=frozenset(i for i in found.tables if found.scope(i) + PROJECTION in variables),
        out_projected=frozenset(
            i for i in clusters if f"{SOFTMAX}/cutoff_{i}{OUT_PROJECTION}" in variables
        ),
    )


# The released model of WikiText-103.
RELEASED = Vocabulary(
    (20000, 20000, 160000, 67735),
    (1024, 256, 64, 16),
    1024,
    is_one_table=False,
    projected=frozenset({0, 1, 2, 3}),
    out_projected=frozenset({0}),
)


def vocabulary_rules(words: Vocabulary) -> RuleSet:
    """The rules, ties and fills of the embeddings and the output, which shares their tables."""
    rules: list[Rule] = []
    ties: list[Tie] = []
    fills: list[Fill] = []

    def projection(source: str, target: str, cluster: int, part: str) -> None:
        width = words.widths[cluster]
        if not words.is_plain(cluster):
            rules.append(Rule((source,), (target,), (Transpose(),), (width, "d_model"), part))
        elif not words.is_one_table:
            reason = "the original projects no cluster of the model's own width (proj_same_dim)"
            fills.append(Fill(target, ("d_model", width), "identity", reason, part))

    for i in words.tables:
        scope, width = words.scope(i), words.widths[i]
        rows = "vocab_size" if words.is_one_table else words.rows[i]
        rules.append(encoder(scope + TABLE, TO_TABLE.format(i), rows, width))
        ties.append(Tie(TO_OUTPUT.format(i) + ".weight", TO_TABLE.format(i), "lm"))
        projection(scope + PROJECTION, TO_PROJECTION.format(i), i, "encoder")

    for i in range(len(words.rows)):
        source, target = f"{SOFTMAX}/cutoff_{i}{OUT_PROJECTION}", TO_OUT_PROJECTION.format(i)
        if words.is_tied(i):
            ties.append(Tie(target, TO_PROJECTION.format(words.table(i)), "lm"))
        else:
            projection(source, target, i, "lm")

    biases = tuple(f"{SOFTMAX}/cutoff_{i}/b" for i in range(len(words.rows)))
    if len(biases) == 1:
        rules.append(output(f"{SOFTMAX}/bias", TO_OUTPUT.format(0) + ".bias", "vocab_size"))
        return RuleSet(tuple(rules), ties=tuple(ties), fills=tuple(fills))
    if words.is_one_table:
        target = TO_OUTPUT.format(0) + ".bias"
        rules.append(Rule(biases, (target,), (Concat(0),), words.rows[:1], "lm"))
    else:
        for i, rows in enumerate(words.rows):
            rules.append(output(biases[i], TO_OUTPUT.format(i) + ".bias", rows))
    others = len(words.rows) - 1
    rules.append(output(f"{SOFTMAX}/cutoff_0/cluster_W", "crit.cluster_weight", others, "d_embed"))
    rules.append(output(f"{SOFTMAX}/cutoff_0/cluster_b", "crit.cluster_bias", others))
    return RuleSet(tuple(rules), ties=tuple(ties), fills=tuple(fills))


def all_rules(words: Vocabulary, untied_biases: bool) -> RuleSet:
    """The whole model's rules."""
    found = vocabulary_rules(words)
    return RuleSet(
        family="transfo-xl",
        name="transfo-xl",
        counts={"layer": "n_layer"},
        rules=(*found.rules, *(UNTIED_BIASES if untied_biases else SHARED_BIASES), *LAYERS),
        ties=found.ties,
        fills=(*found.fills, FREQUENCIES),
        architectures=(
            Architecture("TransfoXLLMHeadModel", ("encoder",), ("lm",)),
            Architecture("TransfoXLModel", ("encoder",), strip="transformer."),
        ),
    )


def _divisor(words: Vocabulary, configured: Any) -> int:
    """By what each cluster's width is the previous one's divided, rounded down."""
    if words.is_one_table:
        return 1
    first, *others = words.widths

    def widths(divisor: int) -> Iterator[int]:
        narrower = accumulate(others, lambda width, _: width // divisor, initial=first)
        return islice(narrower, 1, None)

    def fits(divisor: Any) -> bool:
        return isinstance(divisor, int) and divisor > 1 and list(widths(divisor)) == others

    # The larger it is, the narrower all others are, so the first that is enough is found by halves.
    usual = range(2, first + 2)
    enough = bisect_left(usual, True, key=lambda divisor: all(map(le, widths(divisor), others)))
    candidates = [configured, *usual[enough : enough + 1]]
    divisor: int | None = next(filter(fits, candidates), None)
    if divisor is None:
        raise ConfigError(
            f"clusters of widths {list(words.widths)}: no div_val makes them, and transformers' "
            "Transformer-XL has no other kind"
        )
    return divisor


CARD = f"""\
# Transformer-XL

Converted from TensorFlow by tfreader. transformers 5 has no Transformer-XL; this release runs it:

```sh
pip install '{RELEASES}'
```

```python
from transformers import TransfoXLLMHeadModel

model = TransfoXLLMHeadModel.from_pretrained(".")
```
"""


class Original(Layout):
    name = "original"
    evidence = (
        r"transformer/adaptive_embed/(?:cutoff_0/)?lookup_table",
        r"transformer/layer_\d+/rel_attn/qkv/kernel",
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        """What else the training's arguments alone would tell."""
        words = vocabulary(variables)
        if words is None:
            return {}
        told: Config = {
            "vocab_size": sum(words.rows),
            "cutoffs": list(accumulate(words.rows[:-1])),
            "d_embed": words.widths[0],
            "div_val": _divisor(words, config.get("div_val")),
            # The original has a flag tie_weight, which nothing reads.
            "tie_word_embeddings": True,
        }
        if words.projected:
            told["tie_projs"] = [words.is_tied(i) for i in range(len(words.rows))]
            told["proj_share_all_but_first"] = all(told["tie_projs"][1:])
        biases = variables.get(f"transformer/{RELATIVE_BIASES[0]}")
        if biases is not None and len(biases.shape) in (2, 3):
            told["untie_r"] = len(biases.shape) == 3
            told["n_head"], told["d_head"] = biases.shape[-2:]
        return told

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The rules for the clusters and the relative biases that there are."""
        return all_rules(vocabulary(variables) or RELEASED, config.get("untie_r", True))


class TransfoXL(Family):
    model_type = "transfo-xl"
    layouts = (Original(),)
    aliases = ("transfo_xl", "transformer-xl")
    config_files = ("transfo_xl_config.json", "config.json", "corpus-info.json")
    defaults: ClassVar = {"eos_token_id": 0}
    pads = False

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config, from one of theirs or from the original's corpus-info.json."""
        config = same_keys(original, keys_of(self.model_type).aliases)
        config.pop("dataset", None)
        for key in ("pre_lnorm", "attn_type"):
            if config.pop(key, False):
                raise ConfigError(f"{key}: the original's layers know no such form")
        cutoffs = config.get("cutoffs")
        if isinstance(cutoffs, list) and cutoffs[:1] == [0]:
            config["cutoffs"] = cutoffs[1:-1]  # the original's list has both ends of the vocabulary
        config["layer_norm_epsilon"] = 1e-12  # tf.contrib.layers.layer_norm
        # With same_length, transformers lets a position see one fewer before it: see `remarks`.
        if config.get("same_length", True) and isinstance(config.get("mem_len"), int):
            config["mem_len"] += 1
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        """How the released models were evaluated (tf/sota/wt103.sh)."""
        same_length = config.get("same_length", True)
        return {"clamp_len": 1000, "mem_len": 1601 if same_length else 1600, "same_length": True}

    def remarks(self, config: Config) -> tuple[str, ...]:
        said = [f"transformers 5 has no Transformer-XL: pip install '{RELEASES}' runs the result"]
        if config["layer_norm_epsilon"] == 1e-12:
            said.append(
                "layer_norm_epsilon = 1e-12 as in the original; Hugging Face's default is 1e-5"
            )
        if config["same_length"]:
            said.append(
                f"same_length = true: with mem_len = {config['mem_len']} transformers computes "
                f"what the original does with {config['mem_len'] - 1}, since it masks one position "
                "more"
            )
        return tuple(said)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """A card that says what loads the folder, and the vocabulary.

        The original keeps it in cache.pkl, a pickle, which is not read; as text it is one word a
        line.
        """
        card = {"README.md": CARD.encode()}
        names = ("vocab.txt", "1b_word_vocab.txt")
        # Words of any kind are its vocabulary, so the only file of some name tells too little.
        vocabulary, found = beside.find_vocabulary(names, (), bool)
        if vocabulary is None:
            return SideFiles(card, found)
        words = read_small(vocabulary)
        if not is_text(words):
            return SideFiles(card, (*found, f"{vocabulary}: not UTF-8: no tokenizer written"))
        files = tokenizer_config("TransfoXLTokenizer", lower_case=False)
        return SideFiles({**card, **files, "vocab.txt": words}, found)


FAMILY = TransfoXL()
