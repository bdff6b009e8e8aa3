"""What google-research/electra's code leaves, whatever its layers are made of.

A checkpoint of pre-training holds two models, which share the embeddings: the discriminator, with
which fine-tuning goes on, and the generator. Scopes are those of the original's run_pretraining.py,
model/modeling.py and run_finetuning.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

from tfreader.errors import ConfigError, PlanError

from ..config_checks import check_keys, check_values
from ..config_keys import keys_of
from ..family import Config, Told, Variables, same_keys
from ..rules.ops import Concat, Transpose
from ..rules.rule import Architecture, Drop, Rule
from ..rules.schema import shown
from ._bert_kin import BertKin
from ._builders import dense, layer_norm
from ._encoder import HIDDEN, NORM

EMBEDDING = "embedding_size"
DISCRIMINATOR, GENERATOR = "electra", "generator"  # scopes
MLM, RTD = "generator_predictions", "discriminator_predictions"
FIRST_LAYER = "encoder/layer_0"
TASK_SCOPE = r"task_specific/(?P<task>[^/]+)"
TASK = re.compile(rf"(?P<scope>{TASK_SCOPE})/(?P<layer>[^/]+)/kernel")
# The original's tasks with one label for a text (task_builder.py); chunk labels words.
OF_TEXTS = {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts", "wnli"}
TEXTS = "labels of texts"  # a head that no variable is for: the class is chosen by name alone
HEAD_SIZE = 64
GENERATOR_HEAD = (
    *dense(MLM, f"{MLM}/dense", f"{MLM}.dense", HIDDEN, EMBEDDING),
    *layer_norm(MLM, f"{MLM}/{NORM}", f"{MLM}.LayerNorm", EMBEDDING),
    Rule((f"{MLM}/output_bias",), ("generator_lm_head.bias",), shape=("vocab_size",), part=MLM),
)


class Half(NamedTuple):
    """One of the two models: the scopes of its embeddings and of its layers."""

    embeddings: str
    layers: str

    @property
    def parts(self) -> tuple[str, str]:
        """The parts of a model class that are the model, named after where they are."""
        return f"{self.embeddings}/embeddings", f"{self.layers}/encoder"

    def sizes(self, variables: Variables) -> Config:
        """What shapes and names tell of it, as far as they do."""
        found: Config = {}
        words = variables.get(f"{self.embeddings}/embeddings/word_embeddings")
        if words is not None and len(words.shape) == 2:
            found[EMBEDDING] = words.shape[1]
        query = variables.get(f"{self.layers}/{FIRST_LAYER}/attention/self/query/kernel")
        if query is not None and len(query.shape) == 2:
            found[HIDDEN] = query.shape[0]
        for name in ("dense", "g_dense"):
            inner = variables.get(f"{self.layers}/{FIRST_LAYER}/intermediate/{name}/bias")
            if inner is not None and len(inner.shape) == 1:
                found["intermediate_size"] = inner.shape[0]
        layer = re.compile(rf"{self.layers}/encoder/layer_(\d+)/.*")
        if layers := {match[1] for match in map(layer.fullmatch, variables) if match}:
            found["num_hidden_layers"] = len(layers)
        return found


def generator_of(variables: Variables) -> Half:
    """Where the generator is, without variables in its usual form, with shared embeddings.

    It is below the discriminator's scope where both are one model (`untied_generator` false) and
    where there is no discriminator (`electra_objective` false); so are shared embeddings.
    """
    names = [*variables] or [f"{GENERATOR}/{FIRST_LAYER}/"]

    def scope(inner: str) -> str:
        is_own = any(name.startswith(f"{GENERATOR}/{inner}/") for name in names)
        return GENERATOR if is_own else DISCRIMINATOR

    return Half(scope("embeddings"), scope("encoder"))


def default_heads(hidden: int, size: int = HEAD_SIZE) -> int:
    """The original's attention heads: of any generator, else unless hparams say otherwise."""
    return max(1, hidden // size)


def generators(config: Config, asked: Collection[str], own: Config, other: Config, by: str) -> Told:
    """A generator's `own` sizes, where the config's are the discriminator's, the `other`.

    Nothing where the config is of neither. `by` says what tells the number of heads, where it has
    to be said.
    """
    if not any(_fits(config, sizes) for sizes in (own, other)):
        return Told()
    others = {key: value for key, value in own.items() if config.get(key) != value}
    told = {key: value for key, value in others.items() if key not in asked}
    given = [key for key in told if key in config]
    said = ", ".join(f"{key} = {value}" for key, value in told.items())
    inplace = f", in place of the discriminator's {', '.join(given)}" if given else ""
    rule = by if "num_attention_heads" in told else ""
    note = f"generator: {said}: by its shapes{rule}{inplace}"
    return Told(told, (note,)) if told else Told()


def _fits(config: Config, sizes: Config) -> bool:
    return all(config.get(key, size) == size for key, size in sizes.items())


class Head(NamedTuple):
    """What fine-tuning put below `scope`; `part` is empty where no class has it, `said` why."""

    scope: str
    part: str
    said: str = ""
    is_of_texts: bool = False


def chosen_head(model: str, config: Config, variables: Variables) -> tuple[Head | None, list[str]]:
    """The head of the task chosen, or of the only one, and the scopes of the others.

    `model` is what the names of its classes begin with. Raises ConfigError where there are several
    to choose from.
    """
    found: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for match in filter(None, map(TASK.fullmatch, variables)):
        found[match["task"]][match["layer"]] = variables[match[0]].shape
    task = next(iter(found), None) if len(found) < 2 else config.get("finetuning_task")
    if found and task not in found:
        raise ConfigError(
            f"heads of several tasks: {', '.join(sorted(found))}; choose with "
            "--finetuning_task_name"
        )
    others = [f"task_specific/{other}" for other in found if other != task]
    return None if task is None else _head(model, task, found[task]), others


def _head(model: str, task: str, layers: Mapping[str, tuple[int, ...]]) -> Head:
    """A task's head, by the shapes of its kernels."""
    scope = f"task_specific/{task}"
    sizes = {name: shape[-1] for name, shape in layers.items() if shape}
    if sizes == {"dense": 1, "dense_1": 1}:
        return Head(scope, "squad")
    if sizes.keys() == {"dense"} and (task in OF_TEXTS or sizes["dense"] == 1):
        said = (
            "one layer for the labels or the score of a text, where transformers' class for texts "
            f"has two with gelu between them; --architecture {model}ForTokenClassification takes "
            "it, of whose logits those of a text's first token are the original's"
        )
        return Head(scope, "classifier", f"{scope}: {said}", is_of_texts=True)
    if sizes.keys() == {"dense"}:
        said = "taken for labels of tokens; of a task with labels for texts, see each first token's"
        return Head(scope, "classifier", f"{scope}: {said}")
    why = "layers that no class of transformers has"
    if "qa_hidden" in sizes:
        why = "ends of answers that depend on the starts (joint_prediction): no class has such"
    elif sizes.get("dense") == sizes.get("dense_1") == 1:
        why = "an answerable_classifier beside starts and ends: no class of transformers has one"
    return Head(scope, "", f"{scope}: {why}")


class Tasks(NamedTuple):
    """What a checkpoint's tasks come to: of several, one; the class that labels tokens."""

    rules: tuple[Rule, ...]
    drops: tuple[Drop, ...]
    labels: Architecture
    remarks: tuple[str, ...]


def tasks(model: str, config: Config, variables: Variables) -> Tasks:
    """The rules for the head of the task chosen; raises what `chosen_head` raises."""
    head, others = chosen_head(model, config, variables)
    drops = [Drop(f"{re.escape(scope)}/.*", "head of another task") for scope in others]
    parts = Half(DISCRIMINATOR, DISCRIMINATOR).parts
    labels = Architecture(f"{model}ForTokenClassification", parts, ("classifier",))
    if head is None:
        made = [] if variables else ["classifier", "squad"]
        rules = tuple(rule for part in made for rule in head_rules(part, TASK_SCOPE))
        return Tasks(rules, tuple(drops), labels, ())
    scope = re.escape(head.scope)
    if not head.part:
        drops.append(Drop(f"{scope}/.*", "head of no class"))
    if head.is_of_texts:
        labels = Architecture(labels.name, (*parts, "classifier"), (TEXTS,))
    said = (head.said,) if head.said else ()
    return Tasks(tuple(head_rules(head.part, scope)), tuple(drops), labels, said)


def check_answers(model: str, kind: Architecture, config: Config, variables: Variables) -> None:
    """Raise PlanError for answers of another form than the class's."""
    head, _ = chosen_head(model, config, variables)
    if kind.heads == ("squad",) and head is not None and head.part != "squad":
        raise PlanError(f"{kind.name}: {head.said}")


def head_rules(part: str, scope: str) -> Iterator[Rule]:
    """The rules of a head below a scope, a regex."""
    if part == "classifier":
        yield from dense(part, f"{scope}/dense", "classifier", HIDDEN, "num_labels")
    if part == "squad":  # a layer for starts and one for ends
        kernels = f"{scope}/dense/kernel", f"{scope}/dense_1/kernel"
        biases = f"{scope}/dense/bias", f"{scope}/dense_1/bias"
        ops = (Concat(1), Transpose())
        yield Rule(kernels, ("qa_outputs.weight",), ops, (HIDDEN, 1), part)
        yield Rule(biases, ("qa_outputs.bias",), (Concat(0),), (1,), part)


class Size(NamedTuple):
    """What one of the original's `model_size` stands for, by training_utils.py and configure_*.py.

    Without `embedding` the embeddings are as wide as the layers. `head` is the size of a head,
    `more` what else differs.
    """

    hidden: int
    layers: int
    embedding: int | None = None
    head: int = HEAD_SIZE
    more: Mapping[str, Any] = {}


class ElectraKin(BertKin):
    """A family of that code. `sizes` are its `model_size`, of which `usual_size` is the default."""

    config_files = ("hparams.json",)
    output_weight = "generator_lm_head.weight"
    defaults: ClassVar[Mapping[str, Any]] = {
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    sizes: ClassVar[Mapping[str, Size]]
    usual_size: ClassVar[str]

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys of the discriminator, from --hparams or a config that has them.

        Raises ConfigError for values that the original's code does not take.
        """
        known = keys_of(self.model_type)
        if not {"model_size", "model_hparam_overrides", "debug"} & original.keys():
            kept = {key: value for key, value in original.items() if key not in known.original}
            return same_keys(kept, known.aliases)
        size, where = original.get("model_size", self.usual_size), "model_hparam_overrides"
        if not isinstance(size, str) or size not in self.sizes:
            raise ConfigError(f"model_size = {shown(size)}, known are {', '.join(self.sizes)}")
        given, usual = original.get(where, {}), self.sizes[size]
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} = {shown(given)}, expected an object")
        unread = check_keys(self.model_type, given, where)
        given = same_keys({k: v for k, v in given.items() if k not in unread}, known.aliases)
        check_values(self.model_type, given, dict.fromkeys(given, where))
        top = {known.aliases.get(key, key): value for key, value in original.items()}
        config: Config = {HIDDEN: usual.hidden, "num_hidden_layers": usual.layers, **usual.more}
        own = ("vocab_size", "do_lower_case", *usual.more)
        config |= {key: top[key] for key in own if key in top} | given
        config.setdefault("num_attention_heads", default_heads(config[HIDDEN], usual.head))
        config.setdefault("intermediate_size", 4 * config[HIDDEN])
        if original.get("debug"):
            config |= {HIDDEN: 144, "num_hidden_layers": 3}
            config |= {"intermediate_size": 576, "num_attention_heads": 4}
        config[EMBEDDING] = top.get(EMBEDDING, usual.embedding or config[HIDDEN])
        return config

    def check(self, config: Config) -> None:
        super().check(config)
        kinds = config.get("architectures", ())
        is_generator = any(str(kind).endswith("ForMaskedLM") for kind in kinds)
        if is_generator and config["hidden_act"] not in ("gelu", "gelu_python"):
            raise ConfigError(
                f"hidden_act = {config['hidden_act']!r}: the original's generator has it in its "
                f"head too, where transformers' {kinds[0]} always has gelu"
            )

    def remarks(self, config: Config) -> tuple[str, ...]:
        return ()
