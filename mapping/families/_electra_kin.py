"""What google-research/electra's code leaves, whatever its layers are made of.

A checkpoint of pre-training holds two models, which share the embeddings: the discriminator, with
which fine-tuning goes on, and the generator. Scopes are those of the original's run_pretraining.py,
model/modeling.py and run_finetuning.py.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tfreader.errors import ConfigError

from ..config_checks import check_keys, check_values
from ..config_keys import keys_of
from ..family import Config, Variables, same_keys
from ..rules.ops import Concat, Transpose
from ..rules.rule import Rule
from ..rules.schema import shown
from ._builders import dense
from ._encoder import HIDDEN

EMBEDDING = "embedding_size"
DISCRIMINATOR, GENERATOR = "electra", "generator"  # scopes
FIRST_LAYER = "encoder/layer_0/intermediate/dense/kernel"
TASK_SCOPE = r"task_specific/(?P<task>[^/]+)"
TASK = re.compile(rf"(?P<scope>{TASK_SCOPE})/(?P<layer>[^/]+)/kernel")
# The original's tasks with one label for a text (task_builder.py); chunk labels words.
OF_TEXTS = {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst", "sts"}
# hidden_size and num_hidden_layers by the original's model_size (training_utils.py).
SIZES = {"small": (256, 12), "base": (768, 12), "large": (1024, 24)}
HEAD_SIZE = 64


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
        kernel = variables.get(f"{self.layers}/{FIRST_LAYER}")
        if kernel is not None and len(kernel.shape) == 2:
            found[HIDDEN], found["intermediate_size"] = kernel.shape
        layer = re.compile(rf"{self.layers}/encoder/layer_(\d+)/.*")
        if layers := {match[1] for match in map(layer.fullmatch, variables) if match}:
            found["num_hidden_layers"] = len(layers)
        return found


def generator_of(variables: Variables) -> Half:
    """Where the generator is, without variables in its usual form, with shared embeddings.

    It is below the discriminator's scope where both are one model (`untied_generator` false) and
    where there is no discriminator (`electra_objective` false); so are shared embeddings.
    """
    names = [*variables] or [f"{GENERATOR}/{FIRST_LAYER}"]

    def scope(inner: str) -> str:
        is_own = any(name.startswith(f"{GENERATOR}/{inner}/") for name in names)
        return GENERATOR if is_own else DISCRIMINATOR

    return Half(scope("embeddings"), scope("encoder"))


def default_heads(hidden: int) -> int:
    """The original's attention heads: of any generator, else unless hparams say otherwise."""
    return max(1, hidden // HEAD_SIZE)


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


def from_hparams(model_type: str, original: Mapping[str, Any]) -> Config:
    """Hugging Face's keys of the discriminator, from --hparams or a config that has them already.

    Raises ConfigError for values that the original's code does not take.
    """
    if not {"model_size", "model_hparam_overrides", "debug"} & original.keys():
        others = keys_of(model_type).original
        return same_keys({key: v for key, v in original.items() if key not in others})
    size, given = original.get("model_size", "small"), original.get("model_hparam_overrides", {})
    if not isinstance(size, str) or size not in SIZES:
        raise ConfigError(f"model_size = {shown(size)}, known are {', '.join(SIZES)}")
    if not isinstance(given, Mapping):
        raise ConfigError(f"model_hparam_overrides = {shown(given)}, expected an object")
    where = "model_hparam_overrides"
    unread = check_keys(model_type, given, where)
    check_values(model_type, given, dict.fromkeys(given, where))
    config: Config = dict(zip((HIDDEN, "num_hidden_layers"), SIZES[size], strict=True))
    config |= {key: value for key, value in given.items() if key not in unread}
    hidden = config[HIDDEN]
    config.setdefault("num_attention_heads", default_heads(hidden))
    config.setdefault("intermediate_size", 4 * hidden)
    if original.get("debug"):
        config |= {HIDDEN: 144, "num_hidden_layers": 3}
        config |= {"intermediate_size": 576, "num_attention_heads": 4}
    config[EMBEDDING] = 128 if size == "small" else config[HIDDEN]
    top = ("vocab_size", EMBEDDING, "do_lower_case")
    return config | {key: original[key] for key in top if key in original}
