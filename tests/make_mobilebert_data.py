"""Make tests/data/mobilebert with real TensorFlow: tiny MobileBERTs of the original's names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import math
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, bert_adam, v1

SIZES = {
    "embedding_size": 6,
    "hidden_size": 12,
    "intermediate_size": 10,
    "max_position_embeddings": 14,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "vocab_size": 20,
}
# As the released model's.
RELEASE = SIZES | {
    "classifier_activation": False,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "intra_bottleneck_size": 8,
    "key_query_shared_bottleneck": True,
    "normalization_type": "no_norm",
    "num_feedforward_networks": 3,
    "trigram_input": True,
    "use_bottleneck": True,
}
# As Google's tiny config, which leaves out key_query_shared_bottleneck, but with layer norms.
TINY = SIZES | {
    "hidden_act": "gelu",
    "intra_bottleneck_size": 8,
    "num_feedforward_networks": 2,
    "trigram_input": True,
    "use_bottleneck": True,
    "use_bottleneck_attention": True,
}
# Whose keys are left to the original's defaults, but for the norms.
PLAIN = SIZES | {"hidden_act": "relu6", "normalization_type": "no_norm"}
# Without a layer between embeddings and layers.
SAME = SIZES | {"embedding_size": 12, "intra_bottleneck_size": 8, "use_bottleneck": True}
SAME |= {"key_query_shared_bottleneck": True, "normalization_type": "manual_layer_norm"}
TEACHER = SIZES | {"embedding_size": 12, "hidden_act": "gelu"}


class MobileBert(Bert):
    """MobileBERT's forward pass, of the revision whose padding has a score of -10000."""

    def __init__(self, seed, config):
        super().__init__(seed)
        defaults = {"classifier_activation": True, "num_feedforward_networks": 1}
        self.config = {"hidden_act": "gelu"} | defaults | config

    def act(self, x):
        name = self.config["hidden_act"]
        return tf.nn.gelu(x, approximate=True) if name == "gelu" else getattr(tf.nn, name)(x)

    def norm(self, x):
        kind = self.config.get("normalization_type", "layer_norm")
        if kind != "no_norm":
            return self.layer_norm(x)
        with v1.variable_scope("FakeLayerNorm"):
            beta = self.variable("beta", (x.shape[-1],))
            return x * self.variable("gamma", (x.shape[-1],), 1.0) + beta

    def normed(self, x, scope, size, residual=0.0):
        with v1.variable_scope(scope):
            return self.norm(self.dense(x, "dense", size) + residual)

    def embed(self, ids, segments):
        config, hidden = self.config, self.config["hidden_size"]
        with v1.variable_scope("bert/embeddings"):
            self.words = self.variable(
                "word_embeddings", (config["vocab_size"], config["embedding_size"])
            )
            x = tf.gather(self.words, ids)
            if config.get("trigram_input"):
                after = tf.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
                before = tf.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
                x = tf.concat([after, x, before], 2)
            if x.shape[-1] != hidden:
                x = self.dense(x, "embedding_transformation", hidden)
            types = self.variable("token_type_embeddings", (config["type_vocab_size"], hidden))
            places = self.variable(
                "position_embeddings", (config["max_position_embeddings"], hidden)
            )
            return self.norm(x + tf.gather(types, segments) + places[: ids.shape[1]])

    def attend(self, query, key, value, residual, mask):
        heads, width = self.config["num_attention_heads"], residual.shape[-1]

        def split(x, name):
            y = self.dense(x, name, width)
            y = tf.reshape(y, (*y.shape[:2], heads, width // heads))
            return tf.transpose(y, (0, 2, 1, 3))

        with v1.variable_scope("attention"):
            with v1.variable_scope("self"):
                q, k, v = split(query, "query"), split(key, "key"), split(value, "value")
            scores = q @ tf.transpose(k, (0, 1, 3, 2)) / math.sqrt(width // heads)
            scores += (1.0 - mask[:, None, None, :]) * -10000.0
            x = tf.transpose(tf.nn.softmax(scores) @ v, (0, 2, 1, 3))
            return self.normed(tf.reshape(x, residual.shape), "output", width, residual)

    def layer(self, x, mask):
        config, given = self.config, x
        if config.get("use_bottleneck"):
            width = config["intra_bottleneck_size"]
            with v1.variable_scope("bottleneck"):
                narrow = self.normed(x, "input", width)
                if config.get("use_bottleneck_attention"):
                    query = value = narrow
                elif config.get("key_query_shared_bottleneck"):
                    query, value = self.normed(x, "attention", width), x
            x = self.attend(query, query, value, narrow, mask)
        else:
            x = self.attend(x, x, x, x, mask)
        width, inner = x.shape[-1], config["intermediate_size"]
        for number in range(config["num_feedforward_networks"] - 1):
            with v1.variable_scope(f"ffn_layer_{number}"):
                y = self.act(self.dense(x, "intermediate/dense", inner))
                x = self.normed(y, "output", width, x)
        y = self.act(self.dense(x, "intermediate/dense", inner))
        x = self.normed(y, "output", width, x)
        if config.get("use_bottleneck"):
            x = self.normed(x, "output/bottleneck", config["hidden_size"], given)
        return x

    def model(self, ids, segments, mask):
        x = self.embed(ids, segments)
        for number in range(self.config["num_hidden_layers"]):
            with v1.variable_scope(f"bert/encoder/layer_{number}"):
                x = self.layer(x, mask)
        pooled = x[:, 0]
        if self.config["classifier_activation"]:
            pooled = tf.tanh(self.dense(pooled, "bert/pooler/dense", x.shape[-1]))
        return x, pooled

    def masked_words(self, x):
        config, hidden = self.config, self.config["hidden_size"]
        with v1.variable_scope("cls/predictions"):
            with v1.variable_scope("transform"):
                x = self.layer_norm(self.act(self.dense(x, "dense", hidden)))
            weights, more = self.words, hidden - config["embedding_size"]
            if more:
                extra = self.variable("extra_output_weights", (config["vocab_size"], more))
                weights = tf.concat([weights, extra], 1)
            bias = self.variable("output_bias", (config["vocab_size"],))
            return x @ tf.transpose(weights) + bias


def pretraining(model, ids, segments, mask):
    x, pooled = model.model(ids, segments, mask)
    words = model.masked_words(x)
    with v1.variable_scope("cls/seq_relationship"):
        order = model.output_layer(pooled, 2)
    return {
        "MobileBertForPreTraining.prediction_logits": words,
        "MobileBertForPreTraining.seq_relationship_logits": order,
        "MobileBertForMaskedLM.logits": words,
        "MobileBertForNextSentencePrediction.logits": order,
        "MobileBertModel.last_hidden_state": x,
        "MobileBertModel.pooler_output": pooled,
    }


def distilled(model, ids, segments, mask):
    """A student that predicts words alone, beside its teacher."""
    x, _ = model.model(ids, segments, mask)
    logits = model.masked_words(x)
    with v1.variable_scope("teacher"):
        teacher = MobileBert(7, TEACHER)
        taught, _ = teacher.model(ids, segments, mask)
        taught = teacher.masked_words(taught)
    with v1.variable_scope("hidden_distill_0"):
        model.layer_norm(x)
    return {"MobileBertForMaskedLM.logits": logits, "BertForMaskedLM.logits": taught}


def classifier(model, ids, segments, mask):
    _, pooled = model.model(ids, segments, mask)
    return {"MobileBertForSequenceClassification.logits": model.output_layer(pooled, 3)}


def squad(model, ids, segments, mask):
    x, _ = model.model(ids, segments, mask)
    with v1.variable_scope("cls/squad"):
        logits = model.output_layer(x, 2)
    return {
        "MobileBertForQuestionAnswering.start_logits": logits[..., 0],
        "MobileBertForQuestionAnswering.end_logits": logits[..., 1],
    }


def make(name, seed, build, config, has_slots=False):
    folder = DATA / "mobilebert" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(0, SIZES["vocab_size"], (2, 10))
    mask = np.ones((2, 10), np.float32)
    mask[1, 7:] = 0
    segments = (np.arange(10) > 5).astype(np.int64)[None].repeat(2, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = map(tf.constant, (ids, segments, mask))
        outputs = build(MobileBert(seed, config), *inputs)
        if has_slots:
            loss = sum(tf.reduce_sum(output) for output in outputs.values())
            bert_adam(loss, v1.trainable_variables())
        v1.train.get_or_create_global_step()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "mobilebert_variables.ckpt"), write_meta_graph=False)
        values = session.run(outputs)
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments,
        **values,
    )
    (folder / "bert_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    shutil.rmtree(DATA / "mobilebert", ignore_errors=True)
    make("pretraining", 1, pretraining, RELEASE, has_slots=True)
    make("classifier", 2, classifier, TINY)
    make("squad", 3, squad, PLAIN)
    make("distilled", 4, distilled, SAME)
    teacher = DATA / "mobilebert" / "distilled" / "teacher_config.json"
    teacher.write_text(json.dumps(TEACHER, indent=2) + "\n")
