"""ConvBERT (yitu-opensource/ConvBert): either half of pre-training, tagging and SQuAD checkpoints.

Variable names are those of the original model/modeling.py, which has ELECTRA's around its own
layers; tensor names and shapes those of transformers' modeling_convbert.py. All sizes are in the
shapes, the number of heads too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar

from tfreader.errors import ConfigError, PlanError

from ..family import Config, Layout, Told, Variables
from ..rules.ops import Permute, Reshape, Transpose
from ..rules.rule import Architecture, Drop, Rule, RuleSet, Tie
from ._builders import dense, layer_norm
from ._electra_kin import (
    DISCRIMINATOR,
    EMBEDDING,
    FIRST_LAYER,
    GENERATOR,
    GENERATOR_HEAD,
    MLM,
    RTD,
    ElectraKin,
    Half,
    Size,
    check_answers,
    generator_of,
    generators,
    tasks,
)
from ._encoder import HIDDEN, NORM, original_embeddings

MODEL = "ConvBert"
USUAL = Half(DISCRIMINATOR, DISCRIMINATOR)
INNER, KERNEL, GROUPS = "intermediate_size", "conv_kernel_size", "num_groups"
HEADS = "num_attention_heads"
# Half of the heads attend, and the convolution stands for as many: each half makes half the size.
ATTENDING = f"{HIDDEN}/2"


def layer_rules(part: str, source: str, target: str, is_grouped: bool) -> Iterator[Rule]:
    """The rules for all layers below a scope; `is_grouped` says that the inner ones have groups."""
    inner = f"{source}/attention/self"
    attention, conv = f"{target}.attention.self", f"{inner}/conv_attn_key"
    for name in ("query", "key", "value"):
        yield from dense(part, f"{inner}/{name}", f"{attention}.{name}", HIDDEN, ATTENDING)
    # A separable convolution: a filter for each channel, [width, in, 1] where PyTorch has [in, 1,
    # width], and then one of width 1, [1, in, out] where PyTorch has [out, in, 1].
    to_conv = f"{attention}.key_conv_attn_layer"
    made, ops = f"{to_conv}.depthwise.weight", (Permute((1, 2, 0)),)
    yield Rule((f"{conv}/depthwise_kernel",), (made,), ops, (KERNEL, HIDDEN, 1), part)
    made, sizes = f"{to_conv}.pointwise.weight", (1, HIDDEN, ATTENDING)
    yield Rule((f"{conv}/pointwise_kernel",), (made,), (Transpose(),), sizes, part)
    bias = Reshape((-1, 1))
    yield Rule((f"{conv}/bias",), (f"{to_conv}.bias",), (bias,), (ATTENDING,), part)
    weights = f"{HEADS}/2*{KERNEL}"
    made = f"{attention}.conv_kernel_layer"
    yield from dense(part, f"{inner}/conv_attn_kernel", made, ATTENDING, weights)
    taken = f"{attention}.conv_out_layer"
    yield from dense(part, f"{inner}/conv_attn_point", taken, HIDDEN, ATTENDING)
    for name, inputs, outputs in (
        ("attention/output", HIDDEN, HIDDEN),
        ("intermediate", HIDDEN, INNER),
        ("output", INNER, HIDDEN),
    ):
        scope, to = f"{source}/{name}", f"{target}.{name.replace('/', '.')}"
        if is_grouped and name != "attention/output":
            yield from grouped(part, f"{scope}/g_dense", f"{to}.dense", inputs, outputs)
        else:
            yield from dense(part, f"{scope}/dense", f"{to}.dense", inputs, outputs)
        if name != "intermediate":
            yield from layer_norm(part, f"{scope}/{NORM}", f"{to}.LayerNorm", HIDDEN)


def grouped(part: str, source: str, target: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    """A layer of groups, which has [groups, in, out] on both sides."""
    shape = (GROUPS, f"{inputs}/{GROUPS}", f"{outputs}/{GROUPS}")
    return (
        Rule((f"{source}/kernel",), (f"{target}.weight",), shape=shape, part=part),
        Rule((f"{source}/bias",), (f"{target}.bias",), shape=(outputs,), part=part),
    )


def half_rules(scope: str, is_projected: bool, is_grouped: bool) -> Iterator[Rule]:
    """The rules for a model's embeddings and layers below a scope."""
    embeddings, layers = Half(scope, scope).parts
    yield from original_embeddings(embeddings, "convbert.embeddings", EMBEDDING, embeddings)
    if is_projected:
        source, target = f"{scope}/embeddings_project", "convbert.embeddings_project"
        yield from dense(layers, source, target, EMBEDDING, HIDDEN)
    source = layers + r"/layer_(?P<layer>\d+)"
    yield from layer_rules(layers, source, "convbert.encoder.layer.{layer}", is_grouped)


def heads_of(half: Half, variables: Variables) -> int | None:
    """The number of heads, by the shapes of a half's first layer; None where those do not fit.

    The convolution's kernel, of known width, has one row of weights for each head that attends.
    Raises PlanError where these are not half of all heads, as transformers' class has it.
    """
    scope = f"{half.layers}/{FIRST_LAYER}/attention/self"
    names = ("query/kernel", "conv_attn_kernel/bias", "conv_attn_key/depthwise_kernel")
    found = [variables[f"{scope}/{name}"].shape for name in names if f"{scope}/{name}" in variables]
    if [*map(len, found)] != [2, 1, 3]:
        return None
    (hidden, attending), (weights,), (width, _, _) = found
    heads, rest = divmod(weights, width or 1)
    if rest or not heads or attending % heads:
        return None
    if 2 * attending != hidden:
        size = attending // heads
        raise PlanError(
            f"{scope}: {heads} of {hidden / size:g} heads of size {size} attend, and the "
            "convolution stands for as many: transformers' class has half of an even number of "
            "heads (head_ratio 2) in either place, and no conversion is right. It is so where the "
            "number of heads is odd, as in the generator of model_size small, which has one"
        )
    return 2 * heads


class Original(Layout):
    name = "original"
    evidence = (
        r"(?:electra|generator)/embeddings/word_embeddings",
        r"(?:electra|generator)/encoder/layer_\d+/attention/self/conv_attn_key/.*",
    )

    def describe(self, config: Config, variables: Variables) -> Config:
        """A layer without groups is called `dense`."""
        layers = any(f"/{FIRST_LAYER}/" in name for name in variables)
        return {} if has_groups(variables) or not layers else {GROUPS: 1}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Each half has a projection where its sizes differ; of several tasks' heads one counts.

        Raises ConfigError where a task is to be chosen.
        """
        generator, rules = generator_of(variables), [*GENERATOR_HEAD]
        for scope, half in ((DISCRIMINATOR, USUAL), (GENERATOR, generator)):
            sizes = half.sizes(variables)
            is_projected = not variables or sizes.get(EMBEDDING) != sizes.get(HIDDEN)
            rules += half_rules(scope, is_projected, has_groups(variables))
        task = tasks(MODEL, config, variables)
        remarks = task.remarks
        beside: tuple[str, ...] = ()
        if any(name.startswith(f"{RTD}/") for name in variables):
            beside = (MLM,)
            said = "left out, as transformers has no class of ConvBERT with this head"
            remarks += (f"{RTD}: {said}",)
        drops = Drop(f"{RTD}/.*", "head of no class"), Drop(r"(?:.*/)?temperature", "of samples")
        return RuleSet(
            family="convbert",
            name="convbert",
            counts={"layer": "num_hidden_layers"},
            rules=(*rules, *task.rules),
            drops=(*task.drops, *drops),
            ties=(
                Tie("generator_lm_head.weight", "convbert.embeddings.word_embeddings.weight", MLM),
            ),
            architectures=(
                Architecture("ConvBertModel", USUAL.parts, strip="convbert.", beside=beside),
                Architecture("ConvBertForMaskedLM", generator.parts, (MLM,)),
                task.labels,
                Architecture("ConvBertForQuestionAnswering", USUAL.parts, ("squad",)),
            ),
            remarks=remarks,
        )

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """The number of heads, and a generator's sizes where the config's are the discriminator's.

        Raises PlanError for answers of another form than the class's, and for heads that are not
        halved.
        """
        check_answers(MODEL, kind, config, variables)
        half = generator_of(variables) if MLM in kind.heads else USUAL
        heads, own, other = heads_of(half, variables), half.sizes(variables), {}
        if heads is not None:
            own[HEADS] = heads
        if half.layers == GENERATOR and HIDDEN in own:
            other = USUAL.sizes(variables) | {HEADS: config.get(HEADS)}
            return generators(config, asked, own, other, "")
        return Told({HEADS: heads} if heads is not None and HEADS not in config else {})


def has_groups(variables: Variables) -> bool:
    return any("/g_dense/" in name for name in variables)


class ConvBert(ElectraKin):
    model_type = "convbert"
    layouts = (Original(),)
    sizes: ClassVar = {
        "medium-small": Size(384, 12, 128, 48, {GROUPS: 2, KERNEL: 9, "head_ratio": 2}),
        "small": Size(256, 12, 128, more={GROUPS: 1, KERNEL: 9, "head_ratio": 2}),
        "base": Size(768, 12, more={GROUPS: 1, KERNEL: 9, "head_ratio": 2}),
    }
    usual_size = "medium-small"
    # transformers' class would take [PAD] for the beginning and [unused1] for the end.
    defaults: ClassVar = {
        **ElectraKin.defaults,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_ratio": 2,
    }
    fixed: ClassVar = {**ElectraKin.fixed, "head_ratio": 2}
    refused: ClassVar = {
        "ConvBertForSequenceClassification": "its head has two layers with an activation between "
        "them, that of the original's fine-tuning is one; --architecture "
        "ConvBertForTokenClassification takes that, of whose logits those of a text's first token "
        "are the original's",
        "ConvBertForMultipleChoice": "the original's code has no head for choices",
    }

    def assume(self, config: Config, variables: Variables) -> Config:
        """The original's gelu is the erf form."""
        return {"hidden_act": "gelu"}

    def check(self, config: Config) -> None:
        super().check(config)
        if config[KERNEL] % 2 == 0:
            raise ConfigError(
                f"{KERNEL} = {config[KERNEL]}: the original's convolution takes as many words "
                "before a word as behind it, so that its width is odd"
            )


FAMILY = ConvBert()
