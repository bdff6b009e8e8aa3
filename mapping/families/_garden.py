"""What the encoders of the TensorFlow Model Garden (tensorflow/models, official/nlp) share.

Names are paths in the object graph, or the variables' own names, which a graph keeps beside them.
Attention kernels have the heads as an axis: [hidden, heads, size] into the heads and
[heads, size, hidden] out of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tfreader.errors import PlanError

from ..family import Variables
from ..rules.ops import Reshape, Transpose
from ..rules.patterns import literal_tail
from ..rules.rule import Drop, Rule, RuleSet
from ._builders import dense, layer_norm

HIDDEN = "hidden_size"
ANY = "(?:.*/)?"
QUERY = re.compile(rf"{ANY}_attention_layer/_query_dense/kernel")
# The one layer of an ALBERT; BERT's own names have `transformer/layer_0`.
SHARED_QUERY = f"{ANY}transformer/self_attention/query/kernel"
SQUARE = (Reshape((HIDDEN, HIDDEN)), Transpose())

# A head's layer is an item of the checkpoint ("next_sentence.pooler_dense", where a key doubles the
# dot), or has the head's name in its own. The lower layers of `predictions/transform` are others.
_BETWEEN = r"(?:\.\.?|/)"
_POOLER = re.compile(rf"{ANY}(?P<head>[^/]+?){_BETWEEN}pooler_dense/kernel")
_LOGITS = re.compile(rf"{ANY}(?P<head>(?!transform/)[^/]+)/logits/kernel")
# One name for three kinds of head: which it is has to be said (--architecture).
ANY_LOGITS = f"{ANY}predictions/transform/logits"
# What a head of pre-training is applied to is the whole sequence, unless it pools by itself.
_OF_PRETRAINING = re.compile(rf"{ANY}classification_heads/\d+/out_proj/kernel")
NEXT_SENTENCE = "next_sentence"
UNUSED = (
    Drop(f"{ANY}do_lower_case", "the tokenizer's setting"),
    # official/projects/token_dropping: a BERT whose training skips tokens in the middle layers.
    Drop(
        f"{ANY}(?:_token_importance_embed|token_importance_with_moving_avg(?:_\\d+)?)/[^/]+",
        "how important each token is, by which pre-training skips some; the result skips none, as "
        "the original's fine-tuning",
    ),
)


def table(source: str, target: str, rows: str, columns: str) -> Rule:
    """An embedding."""
    return Rule((source,), (f"{target}.weight",), shape=(rows, columns), part="encoder")


@dataclass(frozen=True)
class Layer:
    """The modules of a layer, by the names that either side has for them.

    `heads` stands for query, key and value: `{name}` in a target, a group of that name in a source.
    """

    heads: str
    joined: str
    attention_norm: str
    inner: str
    outer: str
    norm: str


# As attributes, until 2.3 with the joining layer outside of the attention, and by their own names.
BY_PATH = Layer(
    "_attention_layer/_(?P<name>query|key|value)_dense",
    "(?:_attention_layer/_output_dense|_attention_output_dense)",
    "_attention_layer_norm",
    "_intermediate_dense",
    "_output_dense",
    "_output_layer_norm",
)
BY_NAME = Layer(
    "self_attention/(?P<name>query|key|value)",
    "self_attention(?:/attention)?_output",
    "self_attention_layer_norm",
    "intermediate",
    "output",
    "output_layer_norm",
)


def layer_rules(scope: str, names: Layer, target: str, to: Layer) -> tuple[Rule, ...]:
    """The rules for a layer of `names` in `scope`, whose tensors begin with `target`."""
    heads, joined = f"{scope}/{names.heads}", f"{scope}/{names.joined}"
    wide = "intermediate_size"
    return (
        Rule((f"{heads}/kernel",), (f"{target}.{to.heads}.weight",), SQUARE, part="encoder"),
        Rule(
            (f"{heads}/bias",),
            (f"{target}.{to.heads}.bias",),
            (Reshape((HIDDEN,)),),
            part="encoder",
        ),
        Rule((f"{joined}/kernel",), (f"{target}.{to.joined}.weight",), SQUARE, part="encoder"),
        Rule((f"{joined}/bias",), (f"{target}.{to.joined}.bias",), shape=(HIDDEN,), part="encoder"),
        *layer_norm(
            "encoder",
            f"{scope}/{names.attention_norm}",
            f"{target}.{to.attention_norm}",
            HIDDEN,
        ),
        *dense("encoder", f"{scope}/{names.inner}", f"{target}.{to.inner}", HIDDEN, wide),
        *dense("encoder", f"{scope}/{names.outer}", f"{target}.{to.outer}", wide, HIDDEN),
        *layer_norm("encoder", f"{scope}/{names.norm}", f"{target}.{to.norm}", HIDDEN),
    )


def masked_lm(target: str, size: str) -> tuple[Rule, ...]:
    """The head for masked words: by path or, in exported modules, by the variables' own names."""
    scope = f"{ANY}(?:masked_lm|cls/predictions)"
    inner = f"{ANY}(?:masked_lm|cls/predictions/transform)"
    to = target + ("transform." if target == "cls.predictions." else "")
    return (
        *dense("mlm", f"{inner}/dense", f"{to}dense", HIDDEN, size),
        *layer_norm("mlm", f"{inner}/(?:layer_norm|LayerNorm)", f"{to}LayerNorm", size),
        Rule((f"{scope}/output_bias/bias",), (f"{target}bias",), shape=("vocab_size",), part="mlm"),
    )


def query_shape(variables: Variables) -> tuple[int, ...] | None:
    """[hidden, heads, size] of the first layer's query kernel; None where there is none."""
    name = next(filter(QUERY.fullmatch, variables), None)
    shape = variables[name].shape if name else ()
    return shape if len(shape) == 3 else None


@dataclass(frozen=True)
class Head:
    """A head for whole sentences: its own name, that of its pooler, the scope of its output layer.

    One without a pooler is applied to what the encoder's pools. `why` no class has it, where so.
    """

    name: str
    pooler: str | None
    output: str | None
    why: str = ""

    @property
    def is_for_next_sentence(self) -> bool:
        return self.name == NEXT_SENTENCE


def heads(variables: Variables) -> tuple[Head, ...]:
    """The heads for whole sentences. Several may share a pooler (the Garden's MultiClsHeads)."""
    poolers = {match["head"]: match[0] for match in map(_POOLER.fullmatch, variables) if match}
    outputs = {match["head"]: match[0] for match in map(_LOGITS.fullmatch, variables) if match}
    whole = {info.name for name, info in variables.items() if _OF_PRETRAINING.fullmatch(name)}
    odd = {
        name: f"its pooler is {[*variables[kernel].shape]}, which no class of transformers has"
        for name, kernel in poolers.items()
        if len({*variables[kernel].shape}) != 1
    }
    found: list[Head] = []
    for name, kernel in outputs.items():
        pooler = name if name in poolers else None
        of_tokens = pooler is None and variables[kernel].name in whole
        why = "it is applied to each token" if of_tokens else odd.get(name, "")
        found.append(Head(name, pooler, rf"{ANY}{re.escape(name)}/logits", why))
    for pooler in poolers.keys() - outputs.keys():
        scope = f"{re.escape(pooler)}{_BETWEEN}"
        sibling = re.compile(rf"{ANY}{scope}(?P<name>(?!\.?pooler_dense/)[^/]+)/kernel")
        names = {match["name"] for match in map(sibling.fullmatch, variables) if match}
        why = odd.get(pooler, "")
        found += [Head(name, pooler, f"{ANY}{scope}{re.escape(name)}", why) for name in names]
        found += [] if names else [Head(pooler, pooler, None, why)]
    return tuple(sorted(found, key=lambda head: head.name))


def chosen_heads(found: Sequence[Head], task: object) -> list[Head]:
    """The heads of the model, which has one pooler and one output layer.

    That is the one named `task`, else that for the next sentence, else the only one. Raises
    PlanError where there are several to choose from.
    """
    fit = [head for head in found if not head.why]
    for is_it in (lambda head: head.name == task, lambda head: head.is_for_next_sentence):
        if chosen := list(filter(is_it, fit)):
            return chosen
    if len(fit) > 1:
        raise PlanError(
            f"several heads, of which a class has one: {', '.join(head.name for head in fit)}; "
            "choose with --finetuning_task_name"
        )
    return fit


@dataclass(frozen=True)
class HeadTargets:
    """What a model class calls its pooler, its classifier and its head for pairs of sentences."""

    pooler: str
    classifier: str
    pairs: str
    pairs_part: str


def head_rules(
    found: Iterable[Head], chosen: Sequence[Head], to: HeadTargets, own_pooler: str
) -> tuple[tuple[Rule, ...], tuple[Drop, ...]]:
    """Rules and drops for the heads `found`, and for the pooler that those `chosen` use.

    A head with a pooler of its own takes it from the sequence: training never touches that of the
    encoder, whose scope is `own_pooler`, and which is the right one without such a head.
    """
    rules: list[Rule] = []
    drops: list[Drop] = []
    for head in chosen:
        if head.output and head.is_for_next_sentence:
            rules += dense(to.pairs_part, head.output, to.pairs, HIDDEN, 2)
        elif head.output:
            rules += dense("classifier", head.output, to.classifier, HIDDEN, "num_labels")
    used = sorted({head.pooler for head in chosen if head.pooler})
    for pooler in used:
        source = f"{ANY}{re.escape(pooler)}{_BETWEEN}pooler_dense"
        rules += dense("pooler", source, to.pooler, HIDDEN, HIDDEN)
    if used:
        reason = f"the encoder's pooler, unused: the head {' or '.join(used)} has its own"
        drops.append(Drop(f"{own_pooler}/(?:kernel|bias)", reason))
    else:
        rules += dense("pooler", own_pooler, to.pooler, HIDDEN, HIDDEN)
    names = " or ".join(
        "that for the next sentence" if head.is_for_next_sentence else head.name for head in chosen
    )
    for head in found:
        if head in chosen:
            continue
        reason = f"head {head.name}" + (f": {head.why}" if head.why else f", beside {names}")
        if head.output:
            drops.append(Drop(f"{head.output}/(?:kernel|bias)", reason))
        if head.pooler and head.pooler not in used:
            source = f"{ANY}{re.escape(head.pooler)}{_BETWEEN}pooler_dense/(?:kernel|bias)"
            drops.append(Drop(source, reason))
    return tuple(rules), tuple(drops)


def with_classifier(rules: RuleSet, variables: Variables) -> RuleSet:
    """The rules, and those for the `lone_dense` where there is one."""
    names = lone_dense(rules, variables)
    if not names:
        return rules
    own = dense("classifier", re.escape(names[0]), "classifier", HIDDEN, "num_labels")
    return replace(rules, rules=rules.rules + own)


def lone_dense(rules: RuleSet, variables: Variables) -> tuple[str, ...]:
    """The names of a layer from the hidden size to another that alone has no rule, own name first.

    It is what users put on an encoder from TF-Hub. None where there is none or more than one, or
    where another layer's weights fit its inputs or outputs: that may stand between, or behind it.
    """
    shape = query_shape(variables)
    if shape is None:
        return ()
    patterns: dict[str, list[re.Pattern[str]]] = defaultdict(list)
    for source in [each.sources[0] for each in rules.rules] + [drop.source for drop in rules.drops]:
        patterns[literal_tail(source)].append(re.compile(source))
    spellings: dict[str, list[str]] = defaultdict(list)
    for name, info in variables.items():
        spellings[info.name].append(name)
    unknown = {
        key: (names, variables[names[0]].shape)
        for key, names in spellings.items()
        if not any(_knows(patterns, name) for name in names)
    }
    found = [
        (_scopes(names, variables), sizes[1])
        for names, sizes in unknown.values()
        if len(sizes) == 2 and sizes[0] == shape[0] != sizes[1]
    ]
    if len(found) != 1 or not found[0][0]:
        return ()
    ((layer, outputs),) = found
    own = {variables[f"{layer[0]}/{part}"].name for part in ("kernel", "bias")}
    between = (sizes for key, (_, sizes) in unknown.items() if key not in own)
    return () if any({shape[0], outputs} & {*sizes} for sizes in between) else layer


def _knows(patterns: Mapping[str, list[re.Pattern[str]]], name: str) -> bool:
    return any(
        pattern.fullmatch(name)
        for tail, found in patterns.items()
        if name.endswith(tail)
        for pattern in found
    )


def _scopes(names: Iterable[str], variables: Variables) -> tuple[str, ...]:
    """The names of the layer of a kernel that has a bias too; those with numbers come last."""
    scopes = [name.removesuffix("/kernel") for name in names if name.endswith("/kernel")]
    scopes = [scope for scope in scopes if f"{scope}/bias" in variables]
    return tuple(sorted(scopes, key=lambda scope: "layer_with_weights-" in scope))
