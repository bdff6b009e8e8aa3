"""MobileNet V1 (tensorflow/models, research/slim/nets/mobilenet_v1.py).

`_mobilenet.py` tells more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tfreader.errors import ConfigError

from ..family import Config, Variables
from ..rules.rule import Architecture, RuleSet
from ._mobilenet import (
    HEAD,
    MULTIPLIER,
    MobileNet,
    Slim,
    Widths,
    batch_counts,
    classifier,
    convolution,
    depthwise,
    factor,
    labels_remark,
)

SCOPE, MODEL = "MobilenetV1", "mobilenet_v1"
STEM = "Conv2d_0"
DEPTHS = (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)
POINTWISE = tuple(f"Conv2d_{i}_pointwise" for i in range(1, len(DEPTHS) + 1))


class Original(Slim):
    evidence = (
        rf"{SCOPE}/Conv2d_0/weights",
        rf"{SCOPE}/Conv2d_1_depthwise/depthwise_weights",
    )
    scope = SCOPE
    keys = (MULTIPLIER, "min_depth")

    def widths(self, config: Config) -> Widths:
        multiplier = factor(config, MULTIPLIER, 1.0)
        least = config.get("min_depth", 8)
        if least < 1:
            raise ConfigError(f"min_depth = {least}: expected 1 or more")
        depths = zip((STEM, *POINTWISE), (32, *DEPTHS), strict=True)
        return {name: max(int(depth * multiplier), least) for name, depth in depths}

    def settings(self, config: Config, found: Widths) -> Iterator[Config]:
        """The original's least depth is 8; another is the width of its narrowest layer."""
        given = "min_depth" in config
        for least in (8, min(found.values(), default=8)):
            yield {} if given else {"min_depth": least}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """Raises PlanError, ConfigError for widths that transformers' class never has."""
        widths = self.sizes(config, variables)
        stem = f"{MODEL}.conv_stem"
        rules = [*convolution(MODEL, f"{SCOPE}/{STEM}", stem, "num_channels", widths[STEM], 3)]
        inputs = widths[STEM]
        for i, name in enumerate(POINTWISE):
            filters, layers = name.replace("pointwise", "depthwise"), f"{MODEL}.layer"
            rules += depthwise(MODEL, f"{SCOPE}/{filters}", f"{layers}.{2 * i}", inputs)
            target = f"{layers}.{2 * i + 1}"
            rules += convolution(MODEL, f"{SCOPE}/{name}", target, inputs, widths[name])
            inputs = widths[name]
        return RuleSet(
            family=MODEL,
            name=MODEL,
            rules=(*rules, *classifier(SCOPE, inputs)),
            fills=tuple(batch_counts(rules)),
            architectures=(
                Architecture("MobileNetV1ForImageClassification", (MODEL,), (HEAD,)),
                Architecture("MobileNetV1Model", (MODEL,), strip=f"{MODEL}."),
            ),
        )


class MobileNetV1(MobileNet):
    model_type = "mobilenet_v1"
    layouts = (Original(),)
    processor = "MobileNetV1ImageProcessor"
    defaults: ClassVar = {
        # slim keeps 0.999 of the values; that is transformers' default for what it drops.
        "classifier_dropout_prob": 0.001,
        "hidden_act": "relu6",
        "layer_norm_eps": 0.001,
        "tf_padding": True,
    }

    def remarks(self, config: Config) -> tuple[str, ...]:
        return (
            "the pooled output is the mean of all positions, as the original's with global_pool "
            "and, whatever that is, for images up to 224 pixels; beyond, the original without "
            "global_pool takes means of 7 x 7 positions",
            *labels_remark(config),
        )


FAMILY = MobileNetV1()
