from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA
from mobilenet_values import value_of

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict, make_plan

MOBILENET = DATA / "mobilenet"
V1_LABELS, V2_LABELS = (f"MobileNetV{n}ForImageClassification" for n in (1, 2))
SEGMENTS = "MobileNetV2ForSemanticSegmentation"
WIDE, DIVISOR = "depth_multiplier", "depth_divisible_by"


def tensors_of(name):
    """The variables of a model by TensorFlow's shapes of them."""
    if name == "v1":
        with tfreader.open(MOBILENET / name) as checkpoint:
            return {variable: checkpoint[variable] for variable in checkpoint}
    shapes = json.loads((MOBILENET / name / "shapes.json").read_text())
    return {variable: value_of(variable, tuple(shape)) for variable, shape in shapes.items()}


def written(folder, tensors):
    folder.mkdir(exist_ok=True)
    return write_bundle(folder / "model.ckpt", tensors)


def plan(path, **options):
    with tfreader.open(path) as checkpoint:
        return make_plan(checkpoint, **options)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def check_outputs(output, name, architecture, start=""):
    """The model loads without a key too few or too many, and computes what TensorFlow did."""
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    expected = np.load(MOBILENET / name / "forward.npz")
    pixels = torch.from_numpy(expected["pixel_values"])
    with torch.no_grad():
        found = model.eval()(pixels, output_hidden_states=True)
        base = found if "logits" not in found else getattr(model, model.base_model_prefix)(pixels)
    keys = [key for key in expected if key.startswith(start) and key != "pixel_values"]
    assert keys
    for key in keys:
        path = key.removeprefix(start)
        if path == "logits" and "logits" not in found:
            continue
        number = path.removeprefix("hidden_states.")
        value = found.hidden_states[int(number)] if number != path else None
        value = (found.get(path) if path in found else base[path]) if value is None else value
        np.testing.assert_allclose(value, expected[key], atol=1e-4)  # of values up to 9


@pytest.mark.parametrize(("use", "start"), [("drop", "raw."), ("use", "averaged.")])
def test_v1_gives_tensorflows_outputs_with_and_without_averages(use, start, tmp_path):
    report = convert(MOBILENET / "v1", tmp_path, moving_averages=use)
    assert report.plan.architecture == V1_LABELS
    check_outputs(tmp_path, "v1", V1_LABELS, start)
    assert any("RMSProp_1" in reason for reason in report.plan.dropped.values())
    config = config_of(tmp_path)
    assert (config[WIDE], config["min_depth"]) == (0.02, 8)
    assert (config["layer_norm_eps"], config["tf_padding"]) == (0.001, True)
    assert len(config["id2label"]) == 7


def test_averages_of_all_variables_are_left_out_in_one_line(tmp_path):
    arguments = ["convert", "--tf_checkpoint", str(MOBILENET / "v1"), "--dry-run"]
    arguments += ["--pytorch_dump_output", str(tmp_path / "out"), "--moving-averages", "use"]
    output = CliRunner().invoke(main, arguments).output
    assert output.count("left out (replaced by its moving average)") == 1


def test_v1_without_its_head(tmp_path):
    kept = {n: v for n, v in tensors_of("v1").items() if "/Logits/" not in n}
    report = convert(written(tmp_path / "in", kept), tmp_path / "out")
    assert report.plan.architecture == "MobileNetV1Model"
    convert(MOBILENET / "v1", tmp_path / "asked", architecture="MobileNetV1Model")
    for folder in ("out", "asked"):
        check_outputs(tmp_path / folder, "v1", "MobileNetV1Model", "raw.")


def test_v2_gives_tensorflows_outputs(tmp_path):
    prefix = written(tmp_path / "in", tensors_of("v2"))
    report = convert(prefix, tmp_path / "out")
    assert report.plan.architecture == V2_LABELS
    check_outputs(tmp_path / "out", "v2", V2_LABELS)
    config = config_of(tmp_path / "out")
    assert (config[WIDE], config[DIVISOR], config["min_depth"]) == (0.19, 4, 4)
    assert not config["finegrained_output"]
    convert(prefix, tmp_path / "base", architecture="MobileNetV2Model")
    check_outputs(tmp_path / "base", "v2", "MobileNetV2Model")


def test_deeplab_gives_tensorflows_outputs(tmp_path):
    prefix = written(tmp_path / "in", tensors_of("deeplab"))
    report = convert(prefix, tmp_path / "out")
    assert report.plan.architecture == SEGMENTS
    check_outputs(tmp_path / "out", "deeplab", SEGMENTS)
    config = config_of(tmp_path / "out")
    assert (config[WIDE], config[DIVISOR], config["min_depth"]) == (0.5, 1, 1)
    assert config["output_stride"] == 8
    assert any("output_stride = 8" in note for note in report.plan.notes)
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert not processor["do_resize"]
    with pytest.raises(tfreader.PlanError, match=r"no variable fills: conv_1x1"):
        plan(prefix, architecture="MobileNetV2Model")
    more = tensors_of("deeplab") | {"aspp1_depthwise/depthwise_weights": np.ones((3, 3, 160, 1))}
    with pytest.raises(tfreader.PlanError, match="atrous_rates"):
        plan(written(tmp_path / "more", more))


def v2_tensors(multiplier, divisor=8, rounded=False, fine=True):
    """Zeros in the shapes of the original's V2, or with the products rounded as transformers'."""

    def divisible(value, by):
        width = max(by, int(value + by / 2) // by * by)
        return width + by if width < 0.9 * value else width

    def width(depth):
        value = depth * multiplier
        return divisible(round(value) if rounded else value, divisor)

    tensors = {}

    def layer(scope, shape, kind="weights"):
        tensors[f"MobilenetV2/{scope}/{kind}"] = np.zeros(shape, np.float32)
        channels = shape[2] if kind == "depthwise_weights" else shape[3]
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            tensors[f"MobilenetV2/{scope}/BatchNorm/{name}"] = np.zeros(channels, np.float32)

    inputs = width(32)
    layer("Conv", (3, 3, 3, inputs))
    depths = [16] + [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    for number, depth in enumerate(depths):
        scope = f"expanded_conv_{number}" if number else "expanded_conv"
        wide = divisible(6 * inputs, 8) if number else inputs
        if number:
            layer(f"{scope}/expand", (1, 1, inputs, wide))
        layer(f"{scope}/depthwise", (3, 3, wide, 1), "depthwise_weights")
        layer(f"{scope}/project", (1, 1, wide, width(depth)))
        inputs = width(depth)
    layer("Conv_1", (1, 1, inputs, 1280 if fine and multiplier < 1 else width(1280)))
    return tensors


@pytest.mark.parametrize("multiplier", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4])
@pytest.mark.parametrize("fine", [True, False])
def test_released_multipliers_follow_from_the_widths(multiplier, fine, tmp_path):
    path = written(tmp_path, v2_tensors(multiplier, fine=fine))
    config = plan(path).config
    assert config[WIDE] == multiplier
    assert (config[DIVISOR], config["min_depth"]) == (8, 8)
    assert config["finegrained_output"] == (fine or multiplier >= 1)
    shapes = {entry.target: entry.shape for entry in plan(path).entries}
    model = transformers.MobileNetV2Model(transformers.MobileNetV2Config(**config))
    assert shapes == {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_widths_that_transformers_never_has_are_refused(tmp_path):
    message = (
        r"project/weights gives 8 .* 16; .* original's of depth_multiplier = 0.54, and no settings"
    )
    with pytest.raises(tfreader.PlanError, match=message):
        plan(written(tmp_path / "rounded", v2_tensors(0.54)))
    # Of 18 channels DeepLab's expansion has 112, transformers' 108.
    with pytest.raises(tfreader.PlanError, match=r"original's of depth_multiplier = 0.75"):
        plan(written(tmp_path / "deeplab", v2_tensors(0.75, 1)))
    # Rounded otherwise, 0.62 is as wide as another multiplier of transformers.
    other = written(tmp_path / "other", v2_tensors(0.62))
    found = plan(other).config[WIDE]
    with pytest.raises(tfreader.PlanError, match=rf"it is depth_multiplier = {found}, .*leave de"):
        plan(other, overrides={WIDE: 0.62})
    own = v2_tensors(1.0)
    own["MobilenetV2/Conv/weights"] = np.zeros((3, 3, 3, 40), np.float32)
    with pytest.raises(tfreader.PlanError, match=r"\(40, 16, .* layers of its own"):
        plan(written(tmp_path / "own", own))


def test_settings_that_are_given_are_kept_where_they_fit(tmp_path):
    path = written(tmp_path, tensors_of("v2"))
    given = {WIDE: 0.1901, DIVISOR: 4, "image_size": [64, 40]}
    config = plan(path, overrides=given).config
    assert {key: config[key] for key in given} == given
    with pytest.raises(tfreader.PlanError, match=r"it is depth_multiplier = 0.19, .* leave depth_"):
        plan(path, overrides={WIDE: 0.25})
    for key, value in ((DIVISOR, 0), ("min_depth", 0), (WIDE, 1e300), ("image_size", [1, 2, 3])):
        with pytest.raises(tfreader.ConfigError, match=key):
            plan(path, overrides={key: value})


def test_a_residual_that_transformers_does_not_have_is_refused(tmp_path):
    tensors = v2_tensors(0.25)
    path = written(tmp_path, tensors)
    with pytest.raises(tfreader.PlanError, match=r"both 8 wide: there the original adds"):
        plan(path)
    printed = CliRunner().invoke(main, ["rules", "mobilenet_v2"])
    (tmp_path / "rules.toml").write_text(printed.stdout)
    found = load_state_dict(path, rules=tmp_path / "rules.toml")
    assert len(found) == 6 * 52
    narrow = plan(written(tmp_path / "narrow", v2_tensors(0.125, 4)))
    assert any("both 4 wide" in note for note in narrow.notes)


def test_models_of_8_bits_are_refused(tmp_path):
    tensors = tensors_of("v1")
    tensors["MobilenetV1/Conv2d_0/weights_quant/min"] = np.float32(-1)
    with pytest.raises(tfreader.PlanError, match="without _quant"):
        plan(written(tmp_path, tensors))


def test_images_are_made_as_slim_evaluates_them(tmp_path):
    convert(MOBILENET / "v1", tmp_path, overrides={"image_size": 192})
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["crop_size"] == {"height": 192, "width": 192}
    assert config["size"] == {"height": 219, "width": 219}
    assert config["image_mean"] == config["image_std"] == [0.5, 0.5, 0.5]
    assert config["image_processor_type"] == "MobileNetV1ImageProcessor"


def test_labels_of_imagenet_begin_with_the_background(tmp_path):
    tensors = v2_tensors(1.0)
    head = "MobilenetV2/Logits/Conv2d_1c_1x1"
    tensors |= {
        f"{head}/weights": np.zeros((1, 1, 1280, 1001), np.float32),
        f"{head}/biases": np.zeros(1001, np.float32),
    }
    found = plan(written(tmp_path, tensors))
    assert any("0, which is the background" in note for note in found.notes)
    assert len(found.config["id2label"]) == 1001


def test_grey_images_and_a_missing_layer(tmp_path):
    tensors = tensors_of("v1")
    stem = "MobilenetV1/Conv2d_0/weights"
    kept = {n: v for n, v in tensors.items() if not n.startswith(stem)}
    grey = kept | {stem: tensors[stem][:, :, :1]}
    assert plan(written(tmp_path / "grey", grey)).config["num_channels"] == 1
    lost = {n: v for n, v in tensors.items() if "Conv2d_5_pointwise/weights" not in n}
    with pytest.raises(tfreader.PlanError, match=r"layer\.9\.convolution\.weight"):
        plan(written(tmp_path / "lost", lost))


def test_slims_names_of_settings_are_taken_too(tmp_path):
    path = written(tmp_path, tensors_of("v2"))
    usual = plan(path).config
    own = {"divisible_by": usual[DIVISOR]}
    assert plan(path, overrides=own).config == usual
    assert plan(path, config=own).config == usual
    with pytest.raises(tfreader.TFReaderError, match=DIVISOR):
        plan(path, overrides={"divisible_by": 64})
