"""Make tests/data/rembert with real TensorFlow: a tiny RemBERT with the released variables' names.

Run by hand in an environment of its own (see make_data.py); the output is committed. The names of
the pre-training's head are not known, those here are made up.
"""

import json
import shutil

import numpy as np
import tensorflow as tf
from make_data import CONFIG, DATA, Bert, bert_adam, v1

INPUT, OUTPUT = 12, 20
CONFIG.update(
    input_embedding_size=INPUT, max_position_embeddings=16, num_hidden_layers=1, vocab_size=40
)


class RemBert(Bert):
    def embeddings(self, ids, segments):
        hidden, CONFIG["hidden_size"] = CONFIG["hidden_size"], INPUT
        x = super().embeddings(ids, segments)
        CONFIG["hidden_size"] = hidden
        return self.dense(x, "bert/encoder/embedding_hidden_mapping_in", hidden)

    def pretraining(self, sequence):
        with v1.variable_scope("cls/predictions"):
            with v1.variable_scope("transform"):
                x = self.layer_norm(tf.nn.gelu(self.dense(sequence, "dense", OUTPUT)))
            bias = self.variable("output_bias", (CONFIG["vocab_size"],))
        words = self.variable("bert/embeddings/output_embedding", (CONFIG["vocab_size"], OUTPUT))
        return x @ tf.transpose(words) + bias


def make():
    folder = DATA / "rembert"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    random = np.random.default_rng(21)
    ids = random.integers(5, CONFIG["vocab_size"], (2, 10))
    mask = np.ones((2, 10), np.float32)
    mask[1, 7:] = 0
    segments = (np.arange(10) > 5).astype(np.int64)[None].repeat(2, 0)
    with tf.Graph().as_default(), v1.Session() as session:
        model = RemBert(21)
        sequence, pooled = model.base(*map(tf.constant, (ids, mask, segments)))
        loss = tf.reduce_mean(tf.square(model.pretraining(sequence)))
        step = tf.group(bert_adam(loss, v1.trainable_variables()))
        step = tf.group(step, v1.train.get_or_create_global_step().assign_add(1))
        session.run(v1.global_variables_initializer())
        session.run(step)
        saver = v1.train.Saver(save_relative_paths=True)
        saver.save(session, str(folder / "rembert.ckpt"), write_meta_graph=False)
        values = session.run({"last_hidden_state": sequence, "pooler_output": pooled})
    np.savez_compressed(
        folder / "forward.npz",
        input_ids=ids,
        attention_mask=mask.astype(np.int64),
        token_type_ids=segments,
        **{f"output_{name}": value for name, value in values.items()},
    )
    (folder / "rembert_config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    make()
