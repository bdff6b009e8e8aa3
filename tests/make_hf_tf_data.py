"""Make tests/data/hf_tf with real TensorFlow classes of transformers: tiny models, all random.

Run by hand in an environment of its own (transformers==4.30.2, tensorflow-cpu==2.15.1, pillow); the
output is committed: an archive for each model, with its files, inputs, and TensorFlow's outputs.
One of them is examples/tf-classifier too.
"""

import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import transformers as hf

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data" / "hf_tf"
EXAMPLE = ROOT / "examples" / "tf-classifier"
RANDOM = np.random.default_rng(14)
BERT = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 6,
    "max_position_embeddings": 10,
}
IDS = {"input_ids": np.array([[2, 5, 6, 3], [2, 7, 9, 3]], np.int32)}
PIXELS = {"pixel_values": RANDOM.integers(-8, 9, (2, 3, 32, 32)).astype(np.float32) / 8}
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"]


def fill(model):
    """Random values everywhere: initial zeros and ones would hide what went astray."""
    for weight in model.weights:
        if not weight.dtype.is_floating or "embed_positions" in weight.name:  # sinusoids
            continue
        values = RANDOM.integers(-32, 33, weight.shape) / 64  # few digits, which pack well
        if "variance" in weight.name:
            values = np.abs(values) + 0.5
        if "gamma" in weight.name or "weight_g" in weight.name:
            values = values + 1
        weight.assign(values)


def build(kind, config, inputs, **options):
    model = getattr(hf, kind)(hf.AutoConfig.for_model(**config), **options)
    model(inputs, training=False)
    fill(model)
    return model


def save(name, model, inputs, folder):
    """Write what save_pretrained does, with the inputs and TensorFlow's outputs for them."""
    model.save_pretrained(folder)
    outputs = model(inputs, training=False)
    arrays = {key: v.numpy() for key, v in outputs.items() if isinstance(v, tf.Tensor)}
    np.savez_compressed(
        folder / "io.npz",
        **{f"in_{key}": value for key, value in inputs.items()},
        **{f"out_{key}": value for key, value in arrays.items()},
    )
    print(name, sorted(arrays))


def pack(name, folder):
    with tarfile.open(DATA / f"{name}.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                info = tarfile.TarInfo(str(path.relative_to(folder)))
                info.size = path.stat().st_size
                with path.open("rb") as file:
                    archive.addfile(info, file)


def adam_step(model, inputs):
    """Train one step, so that the optimizer has slots."""
    model.compile(optimizer=tf.keras.optimizers.Adam(1e-6))
    model.fit({**inputs, "labels": np.array([0, 1])}, epochs=1, verbose=0)


def bert(folder):
    """A classifier in every container."""
    labels = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}
    model = build("TFBertForSequenceClassification", {"model_type": "bert", **BERT, **labels}, IDS)
    adam_step(model, IDS)
    save("bert", model, IDS, folder)
    model.save_weights(folder / "ckpt")
    model.save_pretrained(folder / "tf_safetensors", safe_serialization=True)
    model.save_pretrained(folder / "sharded", max_shard_size="4KB")
    model.save_pretrained(folder / "whole", saved_model=True)
    # What is read of a SavedModel's 2 MB.
    shutil.move(folder / "whole" / "saved_model" / "1" / "variables", folder / "variables")
    shutil.rmtree(folder / "whole")
    (folder / "checkpoint").unlink()
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    tokenizer = hf.BertTokenizerFast(folder / "vocab.txt")
    tokenizer.save_pretrained(folder)
    shutil.rmtree(EXAMPLE, ignore_errors=True)
    EXAMPLE.mkdir()
    for name in ("config.json", "tf_model.h5", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, EXAMPLE)


def xlm(folder):
    config = {"model_type": "xlm", "vocab_size": 11, "emb_dim": 8, "n_layers": 1, "n_heads": 2}
    config |= {"max_position_embeddings": 10, "mask_token_id": 4}
    model = build("TFXLMForSequenceClassification", config, IDS)
    save("xlm", model, IDS, folder)
    model.save_weights(folder / "ckpt")
    (folder / "checkpoint").unlink()


def functional(folder):
    """Keras models around a TFBertModel, and around two."""
    encoder = build("TFBertModel", {"model_type": "bert", **BERT}, IDS)
    encoder.config.save_pretrained(folder)
    ids = tf.keras.Input((4,), dtype=tf.int32, name="input_ids")
    outputs = tf.keras.layers.Dense(2, name="out")(encoder(ids).pooler_output)
    model = tf.keras.Model(ids, outputs)
    model.save(folder / "model.h5")
    hidden = encoder(IDS["input_ids"]).last_hidden_state.numpy()
    other = build("TFBertModel", {"model_type": "bert", **BERT}, IDS)
    both = [each(ids).pooler_output for each in (encoder, other)]
    tf.keras.Model(ids, tf.keras.layers.Dot(1)(both)).save_weights(folder / "two.h5")
    second = other(IDS["input_ids"]).last_hidden_state.numpy()
    np.savez_compressed(
        folder / "io.npz", in_input_ids=IDS["input_ids"], out_first=hidden, out_second=second
    )


def named(folder):
    """A model whose scope is the user's own."""
    config = {"model_type": "bert", **BERT, "num_hidden_layers": 1}
    model = build("TFBertForTokenClassification", config, IDS, name="my_tagger")
    save("named", model, IDS, folder)


def xglm(folder):
    """A head that is the embeddings."""
    config = {"model_type": "xglm", "vocab_size": 11, "d_model": 8, "ffn_dim": 6, "num_layers": 1}
    config |= {"attention_heads": 2, "max_position_embeddings": 10}
    model = build("TFXGLMForCausalLM", config, IDS)
    model.lm_head.kernel.assign(tf.transpose(model.model.embed_tokens.weights[0]))
    save("xglm", model, IDS, folder)


PLAIN = {
    "albert": ("TFAlbertForMaskedLM", {**BERT, "model_type": "albert", "embedding_size": 4}, IDS),
    "t5": (
        "TFT5ForConditionalGeneration",
        {
            "model_type": "t5",
            "vocab_size": 11,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 6,
            "num_layers": 2,
            "num_heads": 2,
            "relative_attention_num_buckets": 4,
            "decoder_start_token_id": 0,
        },
        {**IDS, "decoder_input_ids": IDS["input_ids"][:, ::-1]},
    ),
    "mobilebert": (
        "TFMobileBertForMaskedLM",
        {
            **BERT,
            "model_type": "mobilebert",
            "num_hidden_layers": 1,
            "embedding_size": 4,
            "intra_bottleneck_size": 4,
            "num_feedforward_networks": 1,
        },
        IDS,
    ),
    "esm": (
        "TFEsmForMaskedLM",
        {
            **BERT,
            "model_type": "esm",
            "num_hidden_layers": 1,
            "position_embedding_type": "rotary",
            "pad_token_id": 1,
            "mask_token_id": 4,
            "token_dropout": False,
        },
        IDS,
    ),
    "resnet": (
        "TFResNetForImageClassification",
        {
            "model_type": "resnet",
            "embedding_size": 4,
            "hidden_sizes": [4, 8],
            "depths": [1, 1],
            "layer_type": "basic",
        },
        PIXELS,
    ),
    "wav2vec2": (
        "TFWav2Vec2ForCTC",
        {
            "model_type": "wav2vec2",
            "vocab_size": 11,
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 6,
            "conv_dim": [4, 4],
            "conv_kernel": [4, 3],
            "conv_stride": [2, 2],
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "mask_time_prob": 0.0,
        },
        {"input_values": RANDOM.integers(-8, 9, (2, 60)).astype(np.float32) / 8},
    ),
    "swin": (
        "TFSwinForImageClassification",
        {
            "model_type": "swin",
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 4,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 2,
        },
        PIXELS,
    ),
}


def vision_encoder_decoder(folder):
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = hf.ViTConfig(**small, intermediate_size=6, image_size=32, patch_size=16)
    decoder = hf.BertConfig(**{**BERT, **small}, is_decoder=True, add_cross_attention=True)
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = hf.TFVisionEncoderDecoderModel(config)
    inputs = {**PIXELS, "decoder_input_ids": IDS["input_ids"]}
    model(inputs, training=False)
    fill(model)
    save("vision_encoder_decoder", model, inputs, folder)


OWN = (bert, xlm, functional, named, xglm, vision_encoder_decoder)


def main():
    shutil.rmtree(DATA, ignore_errors=True)
    DATA.mkdir(parents=True)
    for make in OWN:
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            pack(make.__name__, Path(folder))
        tf.keras.backend.clear_session()
    for name, (kind, config, inputs) in PLAIN.items():
        with tempfile.TemporaryDirectory() as folder:
            save(name, build(kind, config, inputs), inputs, Path(folder))
            pack(name, Path(folder))
        tf.keras.backend.clear_session()


if __name__ == "__main__":
    main()
