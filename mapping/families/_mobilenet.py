"""What slim's MobileNets (tensorflow/models, research/slim/nets) share.

Variable names are those of slim's mobilenet_v1.py and mobilenet/mobilenet_v2.py, tensor names and
the widths of layers those of transformers' modeling_mobilenet_v1.py and _v2.py. The original has
no config: how wide its layers are follows from settings that it was built with, and what decides
here is that transformers' class is as wide with those that are written. Of several that make the
same widths any makes the same model.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Told, Variables, same_keys
from ..findings import some
from ..rules.ops import Permute, Squeeze, Transpose
from ..rules.rule import Fill, Rule

Widths = Mapping[str, int]
"""How many channels each convolution gives, by its scope."""

Size = int | str

MULTIPLIER = "depth_multiplier"
RELEASED = (1.0, 0.75, 0.5, 0.35, 0.25, 1.3, 1.4)
LARGEST = 1000.0  # number that channels are multiplied by
UNIT = 10**6  # a multiplier that is looked for is a multiple of 1 / UNIT
HEAD = "classifier"
QUANTIZED = ("weights_quant", "act_quant", "conv_quant", "add_quant", "input_quant")
IMAGENET = 1001
MIDDLE = 0.875  # the part of an image's height and width that is evaluated
STATISTICS = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def convolution(
    part: str, source: str, target: str, inputs: Size, outputs: Size, kernel: int = 1
) -> Iterator[Rule]:
    """A convolution and its norm: TensorFlow's kernel is [height, width, in, out]."""
    yield Rule(
        (f"{source}/weights",),
        (f"{target}.convolution.weight",),
        (Permute((3, 2, 0, 1)),),
        shape=(kernel, kernel, inputs, outputs),
        part=part,
    )
    yield from batch_norm(part, source, target, outputs)


def depthwise(part: str, source: str, target: str, channels: Size) -> Iterator[Rule]:
    """A 3 x 3 filter for each channel, [height, width, channels, 1], and its norm."""
    yield Rule(
        (f"{source}/depthwise_weights",),
        (f"{target}.convolution.weight",),
        (Permute((2, 3, 0, 1)),),
        shape=(3, 3, channels, 1),
        part=part,
    )
    yield from batch_norm(part, source, target, channels)


def batch_norm(part: str, source: str, target: str, channels: Size) -> Iterator[Rule]:
    for name, tensor in STATISTICS.items():
        yield Rule(
            (f"{source}/BatchNorm/{name}",),
            (f"{target}.normalization.{tensor}",),
            shape=(channels,),
            part=part,
        )


def output(part: str, source: str, target: str, ops: tuple[Any, ...], size: Size) -> Iterator[Rule]:
    """The layer of the labels, a convolution of 1 x 1 without a norm."""
    weight, bias = f"{target}.weight", f"{target}.bias"
    shape = (1, 1, size, "num_labels")
    yield Rule((f"{source}/weights",), (weight,), ops, shape=shape, part=part)
    yield Rule((f"{source}/biases",), (bias,), shape=("num_labels",), part=part)


def classifier(scope: str, size: Size) -> Iterator[Rule]:
    ops = (Squeeze(0), Squeeze(0), Transpose())
    return output(HEAD, f"{scope}/Logits/Conv2d_1c_1x1", HEAD, ops, size)


def batch_counts(rules: Iterable[Rule]) -> Iterator[Fill]:
    """PyTorch's norms count batches, for a momentum that these models do not have."""
    end = "running_mean"
    for rule in rules:
        if (target := rule.targets[0]).endswith(end):
            counter = f"{target.removesuffix(end)}num_batches_tracked"
            reason = "TensorFlow does not count them"
            yield Fill(counter, (), "zeros", reason, rule.part, "int64")


class Slim(Layout):
    """A MobileNet below its `scope`, in slim's names.

    `keys` are the settings that widths follow from.
    """

    name = "original"
    scope: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    @abstractmethod
    def widths(self, config: Config) -> Widths:
        """How wide transformers' class is. Raises ConfigError for what makes no layer."""

    @abstractmethod
    def settings(self, config: Config, found: Widths) -> Iterator[Config]:
        """The other settings that with some multiplier might make these widths, usual ones first.

        Those of the config stay.
        """

    def found(self, variables: Variables) -> dict[str, int]:
        """How wide the checkpoint is, as far as it has the layers."""
        weights = {name: variables.get(f"{self.scope}/{name}/weights") for name in self.widths({})}
        return {
            name: info.shape[-1]
            for name, info in weights.items()
            if info is not None and len(info.shape) == 4 and info.shape[-1] > 0
        }

    def fits(self, config: Config, found: Widths) -> bool:
        widths = self.widths(config)
        return all(widths[name] == width for name, width in found.items())

    def inferred(self, config: Config, found: Widths) -> Config | None:
        """Settings that make these widths, with those of the config; None where none do."""
        for others in self.settings(config, found):
            given = {**config, **others}
            number = given.get(MULTIPLIER) or self._multiplier(given, found)
            if number is not None and self.fits({**given, MULTIPLIER: number}, found):
                return {MULTIPLIER: number, **others}
        return None

    def _multiplier(self, config: Config, found: Widths) -> float | None:
        """A multiplier that makes these widths with the rest of the config, None where none does.

        Of those that do a release's, else one of the fewest digits. No width falls as it rises.
        """

        def widths(number: int) -> Iterator[tuple[int, int]]:
            made = self.widths({**config, MULTIPLIER: number / UNIT})
            return ((made[name], width) for name, width in found.items())

        numbers = range(1, int(LARGEST * UNIT))
        first = bisect_left(numbers, True, key=lambda n: all(made >= w for made, w in widths(n)))
        end = bisect_left(numbers, True, key=lambda n: any(made > w for made, w in widths(n)))
        fitting = numbers[first:end]
        if not fitting:
            return None
        released = (number for number in RELEASED if round(number * UNIT) in fitting)
        step = UNIT // 10
        while not (rounded := range(-(-fitting[0] // step) * step, fitting[-1] + 1, step)):
            step //= 10
        return next(released, rounded[len(rounded) // 2] / UNIT)

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """The settings that no file has, by the widths. Raises ConfigError."""
        found = self.found(variables)
        inferred = self.inferred(config, found) if found else None
        told = {key: value for key, value in (inferred or {}).items() if key not in config}
        if not told:
            return Told()
        said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in told.items())
        return Told(
            told,
            (f"{said}: by the widths of the layers; others that make the same are the same model",),
        )

    def sizes(self, config: Config, variables: Variables) -> Mapping[str, Size]:
        """The widths as rules have them, any without variables.

        Raises PlanError for those that transformers' class never has, ConfigError.
        """
        if not variables:
            return dict.fromkeys(self.widths({}), "*")
        quantized = [name for name in variables if any(f"/{q}/" in name for q in QUANTIZED)]
        if quantized:
            raise PlanError(
                f"{quantized[0]}: trained for 8 bits (tf.contrib.quantize), with ranges of values "
                "that transformers' class does not have: it would compute something else. Convert "
                "the float model, whose checkpoint is published under the same name without _quant"
            )
        found = self.found(variables)
        if self.fits(config, found):
            return self.widths(config)
        given = [key for key in self.keys if key in config]
        others = {key: value for key, value in config.items() if key not in given}
        if given and (better := self.inferred(others, found)):
            raise PlanError(
                f"{self.misfit(config, found)}. By the widths of the layers it is "
                f"{settings_text(better)}: leave {some(given)} out"
            )
        raise PlanError(self.why(found))

    def misfit(self, config: Config, found: Widths) -> str:
        """Which layers transformers' class has otherwise."""
        widths = self.widths(config)
        first, *more = (name for name, width in found.items() if widths[name] != width)
        given = settings_text({key: config[key] for key in self.keys if key in config})
        said = (
            f"{self.scope}/{first}/weights gives {found[first]} channels; in transformers' class "
            f"with {given} that layer gives {widths[first]}"
        )
        return f"{said}; {len(more)} more differ" if more else said

    def why(self, found: Widths) -> str:
        """Why no settings make these widths."""
        widths = ", ".join(map(str, found.values()))
        return (
            f"{self.scope}: no settings of transformers' class make layers as wide as these "
            f"({widths}): the model has layers of its own (conv_defs)"
        )


def settings_text(config: Config) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in config.items())


class MobileNet(Family):
    """A MobileNet of slim. `processor` is its image processor in transformers."""

    needs = (MULTIPLIER,)
    processor: ClassVar[str]

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys, two of which slim's code calls otherwise."""
        return same_keys(original, keys_of(self.model_type).aliases)

    def assume(self, config: Config, variables: Variables) -> Config:
        """The size of images, which changes no weight; that of most releases."""
        return {"image_size": 224}

    def check(self, config: Config) -> None:
        image_sizes(config)

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """How images become pixels: as slim's inception_preprocessing.py evaluates them.

        It takes the middle of an image, resizes that regardless of its form, and makes 0 to 255
        -1 to 1. DeepLab's are not resized.
        """
        height, width = image_sizes(config)
        channels = config.get("num_channels", 3)
        told: dict[str, Any] = {
            "image_processor_type": self.processor,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5] * channels,
            "image_std": [0.5] * channels,
        }
        if any("Segmentation" in kind for kind in config.get("architectures", ())):
            told |= {"do_resize": False, "do_center_crop": False}
            said = "pixels from -1 to 1 as in DeepLab, no resizing"
        else:
            whole = {"height": round(height / MIDDLE), "width": round(width / MIDDLE)}
            crop = {"height": height, "width": width}
            told |= {"do_resize": True, "size": whole, "resample": 2}
            told |= {"do_center_crop": True, "crop_size": crop}
            said = (
                "pixels from -1 to 1, of the middle 7/8 of an image, as slim's "
                "inception_preprocessing evaluates"
            )
        text = json.dumps(told, indent=2, sort_keys=True) + "\n"
        note = f"preprocessor_config.json: {said}; correct it where training had another"
        return SideFiles({"preprocessor_config.json": text.encode()}, (note,))


def image_sizes(config: Config) -> tuple[int, int]:
    """The height and the width of images. Raises ConfigError."""
    size = config.get("image_size")
    both = [size, size] if type(size) is int else size
    if (
        not isinstance(both, list | tuple)
        or len(both) != 2
        or not all(type(number) is int and 0 < number < 1 << 20 for number in both)
    ):
        raise ConfigError(f"image_size = {json.dumps(size)}: expected a number, or [height, width]")
    return both[0], both[1]


def factor(config: Config, key: str, usual: float) -> float:
    """A number that channels are multiplied by. Raises ConfigError for one that is none."""
    value: float = config.get(key, usual)
    if not 0 < value <= LARGEST:
        raise ConfigError(f"{key} = {value}: expected a number above 0, up to {LARGEST}")
    return value


def labels_remark(config: Config) -> tuple[str, ...]:
    """What slim's labels are, which no checkpoint names."""
    names = config.get("id2label", {})
    if names.get("0") != "LABEL_0":
        return ()
    what = "no file of the checkpoint names them"
    if len(names) == IMAGENET:
        what = "slim's of ImageNet, behind 0, which is the background"
    return (f"{len(names)} labels: {what}; --set id2label=NAMES names them",)
