"""MobileNet V2 (tensorflow/models, research/slim/nets/mobilenet) and DeepLab's head on it.

`_mobilenet.py` tells more. The head's names are those of research/deeplab/model.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import product
from math import gcd
from typing import ClassVar

from tfreader.errors import ConfigError, PlanError

from ..family import Beside, Config, Told, Variables
from ..rules.ops import Permute
from ..rules.rule import Architecture, Fill, Rule, RuleSet
from ._mobilenet import (
    HEAD,
    MULTIPLIER,
    MobileNet,
    Size,
    Slim,
    Widths,
    batch_counts,
    batch_norm,
    classifier,
    convolution,
    depthwise,
    factor,
    labels_remark,
    output,
)

SCOPE, MODEL = "MobilenetV2", "mobilenet_v2"
STEM, FIRST, LAST = "Conv", "expanded_conv/project", "Conv_1"
TOP = "last convolution"
DEPTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
BLOCKS = range(1, len(DEPTHS))
WIDE = 1280
SEGMENTATION = "segmentation"
SEGMENTS = r"(?:image_pooling|aspp0|concat_projection)/weights|logits/semantic/weights"
OTHER_SEGMENTS = re.compile(r"(?:decoder|aspp[1-9]\d*(?:_depthwise|_pointwise)?|merge_branch)/.*")
TO_SEGMENTS = {
    "image_pooling": "conv_pool",
    "aspp0": "conv_aspp",
    "concat_projection": "conv_projection",
}
HEAD_WIDTH = 256


def divisible(value: float, divisor: int, least: int) -> int:
    """A width rounded to a multiple of `divisor`, as both codes do it."""
    width = max(least, int(value + divisor / 2) // divisor * divisor)
    return width + divisor if width < 0.9 * value else width


def expand(block: int) -> str:
    return f"expanded_conv_{block}/expand"


def project(block: int) -> str:
    return f"expanded_conv_{block}/project"


class Original(Slim):
    evidence = (
        rf"{SCOPE}/Conv/weights",
        rf"{SCOPE}/expanded_conv_1/depthwise/depthwise_weights",
    )
    scope = SCOPE
    keys = (MULTIPLIER, "finegrained_output", "min_depth", "depth_divisible_by", "expand_ratio")

    def widths(self, config: Config) -> Widths:
        return _widths(config, is_original=False)

    def settings(self, config: Config, found: Widths) -> Iterator[Config]:
        """slim's own are multiples of 8; DeepLab's 1 where the multiplier is not 1.0."""
        common = reduce(gcd, found.values(), 0)
        divisors = [8, 1, *(n for n in range(64, 1, -1) if common % n == 0 and n != 8)]
        if "depth_divisible_by" in config:
            divisors = [config["depth_divisible_by"]]
        narrowest = min(found.values(), default=8)
        pairs = [(n, n) for n in divisors] + [(n, narrowest) for n in divisors]
        for divisor, least in dict.fromkeys(pairs):
            for is_fine in (True, False):
                all_ = {"depth_divisible_by": divisor, "min_depth": least}
                all_["finegrained_output"] = is_fine
                yield {key: value for key, value in all_.items() if key not in config}

    def why(self, found: Widths) -> str:
        for hundredths, least, is_fine in product(range(1, 201), (8, 1), (True, False)):
            number = hundredths / 100
            config: Config = {MULTIPLIER: number, "finegrained_output": is_fine}
            config |= {"depth_divisible_by": least, "min_depth": least}
            if all(_widths(config, is_original=True)[name] == w for name, w in found.items()):
                return (
                    f"{self.misfit(config, found)}. These widths are the original's of "
                    f"{MULTIPLIER} = {number}, and no settings make them in transformers' class: "
                    "it rounds the products of channels and multiplier to whole numbers before it "
                    "makes them divisible, and has no divisor of their own (8) for the layers "
                    "inside the blocks (expand)"
                )
        return super().why(found)

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """Of DeepLab also what it drops of its head's values."""
        told = super().from_settings(beside, config, variables)
        if not _has_segments(variables) or "classifier_dropout_prob" in config:
            return told
        return Told({**told.config, "classifier_dropout_prob": 0.1}, told.notes)

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError, ConfigError for what transformers' class never has."""
        if other := next(filter(OTHER_SEGMENTS.fullmatch, variables), None):
            raise PlanError(
                f"{other}: DeepLab with a decoder or with atrous_rates, which "
                "MobileNetV2ForSemanticSegmentation does not have; only its heads of image_pooling "
                "and aspp0 convert"
            )
        widths = self.sizes(config, variables)
        rules = [*_rules(widths)]
        fills = [*batch_counts(rules)]
        parts = (MODEL, TOP)
        segments: tuple[str, ...] = parts
        if variables and _has_segments(variables) and f"{SCOPE}/{LAST}/weights" not in variables:
            segments = (MODEL,)
            fills += _unused(widths)
        return RuleSet(
            family=MODEL,
            name=MODEL,
            rules=tuple(rules),
            fills=tuple(fills),
            architectures=(
                Architecture("MobileNetV2ForImageClassification", parts, (HEAD,)),
                Architecture("MobileNetV2ForSemanticSegmentation", segments, (SEGMENTATION,)),
                Architecture("MobileNetV2Model", parts, strip=f"{MODEL}."),
            ),
            remarks=self._residual(config, widths),
        )

    def _residual(self, config: Config, widths: Mapping[str, Size]) -> tuple[str, ...]:
        """What the first block's residual changes, which transformers' stem never has.

        The original adds it where the block's input and output are of one width. Raises PlanError
        where the original's own settings do so, which is for multipliers up to 0.27.
        """
        if widths[STEM] == "*" or widths[STEM] != widths[FIRST]:
            return ()
        said = (
            f"{SCOPE}/Conv and {SCOPE}/{FIRST} are both {widths[STEM]} wide: there the original "
            "adds a residual, which transformers' class does not have, and its outputs would be "
            "off by about 1"
        )
        is_usual = (config.get("depth_divisible_by", 8), config.get("min_depth", 8)) == (8, 8)
        if is_usual:
            raise PlanError(
                f"{said}. No conversion of such narrow models (depth_multiplier up to 0.27) is "
                "right; where a conv_defs of your own has no residual there, print the rules with "
                f"tfreader rules {MODEL} and pass them with --rules"
            )
        return (f"{said}, unless the model was built without (conv_defs, residual=False)",)


def _widths(config: Config, is_original: bool) -> dict[str, int]:
    """The widths of either code, whose ways of rounding differ. Raises ConfigError."""
    multiplier = factor(config, MULTIPLIER, 1.0)
    ratio = factor(config, "expand_ratio", 6.0)
    divisor, least = config.get("depth_divisible_by", 8), config.get("min_depth", 8)
    for key, value in (("depth_divisible_by", divisor), ("min_depth", least)):
        if value < 1:
            raise ConfigError(f"{key} = {value}: expected 1 or more")

    def width(channels: float) -> int:
        value = channels if is_original else round(channels)
        return divisible(value, divisor, least)

    depths = [width(depth * multiplier) for depth in DEPTHS]
    widths = {STEM: width(32 * multiplier), FIRST: depths[0]}
    for block in BLOCKS:
        inner = depths[block - 1] * ratio
        widths[expand(block)] = divisible(inner, 8, 8) if is_original else width(inner)
        widths[project(block)] = depths[block]
    is_fine = config.get("finegrained_output", True) and multiplier < 1
    widths[LAST] = WIDE if is_fine else width(WIDE * multiplier)
    return widths


def _rules(widths: Mapping[str, Size]) -> Iterator[Rule]:
    stem, inner = f"{MODEL}.conv_stem", f"{SCOPE}/expanded_conv"
    yield from convolution(
        MODEL, f"{SCOPE}/{STEM}", f"{stem}.first_conv", "num_channels", widths[STEM], 3
    )
    yield from depthwise(MODEL, f"{inner}/depthwise", f"{stem}.conv_3x3", widths[STEM])
    yield from convolution(
        MODEL, f"{SCOPE}/{FIRST}", f"{stem}.reduce_1x1", widths[STEM], widths[FIRST]
    )
    inputs = widths[FIRST]
    for block in BLOCKS:
        source, target = f"{inner}_{block}", f"{MODEL}.layer.{block - 1}"
        wide, outputs = widths[expand(block)], widths[project(block)]
        yield from convolution(MODEL, f"{source}/expand", f"{target}.expand_1x1", inputs, wide)
        yield from depthwise(MODEL, f"{source}/depthwise", f"{target}.conv_3x3", wide)
        yield from convolution(MODEL, f"{source}/project", f"{target}.reduce_1x1", wide, outputs)
        inputs = outputs
    last = f"{MODEL}.conv_1x1"
    yield from convolution(TOP, f"{SCOPE}/{LAST}", last, inputs, widths[LAST])
    yield from classifier(SCOPE, widths[LAST])
    head = "segmentation_head"
    for source, name in TO_SEGMENTS.items():
        size = 2 * HEAD_WIDTH if source == "concat_projection" else inputs
        yield from convolution(SEGMENTATION, source, f"{head}.{name}", size, HEAD_WIDTH)
    target, ops = f"{head}.classifier.convolution", (Permute((3, 2, 0, 1)),)
    yield from output(SEGMENTATION, "logits/semantic", target, ops, HEAD_WIDTH)


def _unused(widths: Mapping[str, Size]) -> Iterator[Fill]:
    """The last convolution, which the class with DeepLab's head has and does not use."""
    target, reason = f"{MODEL}.conv_1x1", "DeepLab has no such layer, and its class does not use it"
    weight = (widths[LAST], widths[project(BLOCKS[-1])], 1, 1)
    yield Fill(f"{target}.convolution.weight", weight, "zeros", reason, SEGMENTATION)
    norm = [*batch_norm(SEGMENTATION, "", target, widths[LAST])]
    for rule in norm:
        yield Fill(rule.targets[0], (widths[LAST],), "zeros", reason, SEGMENTATION)
    yield from batch_counts(norm)


def _has_segments(variables: Variables) -> bool:
    return any(map(re.compile(SEGMENTS).fullmatch, variables))


class MobileNetV2(MobileNet):
    model_type = "mobilenet_v2"
    layouts = (Original(),)
    processor = "MobileNetV2ImageProcessor"
    defaults: ClassVar = {
        # slim keeps 0.8 of the values; that is transformers' default for what it drops.
        "classifier_dropout_prob": 0.2,
        "expand_ratio": 6.0,
        "hidden_act": "relu6",
        "layer_norm_eps": 0.001,
        "tf_padding": True,
    }
    fixed: ClassVar = {"first_layer_is_expansion": True}

    def assume(self, config: Config, variables: Variables) -> Config:
        """Of DeepLab also how finely it looks, which is chosen anew for each use."""
        if not any("Segmentation" in kind for kind in config.get("architectures", ())):
            return super().assume(config, variables)
        return {"image_size": 513, "output_stride": 8}

    def check(self, config: Config) -> None:
        super().check(config)
        if config.get("output_stride", 32) not in (8, 16, 32):
            raise ConfigError(f"output_stride = {config['output_stride']}: expected 8, 16 or 32")

    def remarks(self, config: Config) -> tuple[str, ...]:
        return labels_remark(config)


FAMILY = MobileNetV2()
