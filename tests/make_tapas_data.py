"""Make tests/data/tapas with real TensorFlow: tiny TAPASs with the original's variable names.

Run by hand in an environment of its own (see make_data.py); the output is committed.
"""

import json
import shutil

import numpy as np
import tensorflow as tf
from make_data import DATA, Bert, bert_adam, v1

CONFIG = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 12,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "type_vocab_size": [3, 6, 7, 2, 5, 5, 4],
    "vocab_size": 30,
}
# What run_task_main.py writes beside bert_config.json, but for what only training reads.
TAPAS = {
    "agg_temperature": 1.0,
    "aggregation_loss_importance": 1.0,
    "allow_empty_column_selection": False,
    "answer_loss_cutoff": None,
    "attention_bias_disabled": 0,
    "average_logits_per_cell": False,
    "bert_config": CONFIG | {"softmax_temperature": 1.0},
    "cell_select_pref": None,
    "disable_position_embeddings": False,
    "disabled_features": [],
    "grad_clipping": 10.0,
    "huber_loss_delta": None,
    "init_checkpoint": "",
    "learning_rate": 1e-5,
    "max_num_columns": 5,
    "max_num_rows": 6,
    "num_aggregation_labels": 0,
    "num_classification_labels": 0,
    "positive_weight": 10.0,
    "proj_value_length": None,
    "reset_position_index_per_cell": False,
    "restrict_attention_mode": "full",
    "select_one_column": True,
    "span_prediction": "none",
    "temperature": 1.0,
    "use_answer_as_supervision": None,
    "use_gumbel_for_agg": False,
}
FEATURES = (
    "segment_ids",
    "column_ids",
    "row_ids",
    "prev_label_ids",
    "column_ranks",
    "inv_column_ranks",
    "numeric_relations",
)
LENGTH = 16


def table(random):
    """Token types of two texts: a question of three tokens, then a header and rows of cells."""
    types = np.zeros((2, LENGTH, len(FEATURES)), np.int64)
    mask = np.ones((2, LENGTH), np.int64)
    for text, columns in enumerate((2, 3)):
        for token in range(3, LENGTH):
            cell = (token - 3) // 2  # of two tokens each
            types[text, token, :3] = 1, 1 + cell % columns, cell // columns
        for feature, size in enumerate(CONFIG["type_vocab_size"][3:], 3):
            types[text, 3:, feature] = random.integers(0, size, LENGTH - 3)
    mask[0, 13:] = 0
    types[0, 13:] = 0
    return types, mask


def positions(types, restart):
    """Where each token stands, in the text or in its cell."""
    firsts, found = {}, np.zeros(types.shape[:2], np.int64)
    for text, token in np.ndindex(found.shape):
        cell = text, *(types[text, token, 1:3] if restart else ())
        found[text, token] = token - firsts.setdefault(cell, token)
    return found


class Tapas(Bert):
    def embeddings(self, ids, types, places, disabled):
        hidden = CONFIG["hidden_size"]
        with v1.variable_scope("bert/embeddings"):
            self.words = self.variable("word_embeddings", (CONFIG["vocab_size"], hidden))
            x = tf.gather(self.words, ids)
            for i, (name, size) in enumerate(zip(FEATURES, CONFIG["type_vocab_size"], strict=True)):
                if name not in disabled:
                    rows = self.variable(f"token_type_embeddings_{i}", (size, hidden))
                    x += tf.gather(rows, types[..., i])
            if places is not None:
                shape = CONFIG["max_position_embeddings"], hidden
                x += tf.gather(self.variable("position_embeddings", shape), places)
            return self.layer_norm(x)

    def layers(self, x, mask):
        for layer in range(CONFIG["num_hidden_layers"]):
            with v1.variable_scope(f"bert/encoder/layer_{layer}"):
                x = self.attention(x, mask, CONFIG["num_attention_heads"])
                inner = self.dense(x, "intermediate/dense", CONFIG["intermediate_size"])
                inner = tf.nn.gelu(inner, approximate=True)
                with v1.variable_scope("output"):
                    x = self.layer_norm(x + self.dense(inner, "dense", x.shape[-1]))
        return x

    def masked_words(self, sequence):
        with v1.variable_scope("cls/predictions"):
            with v1.variable_scope("transform"):
                x = self.dense(sequence, "dense", CONFIG["hidden_size"])
                x = self.layer_norm(tf.nn.gelu(x, approximate=True))
            return x @ tf.transpose(self.words) + self.variable(
                "output_bias", (CONFIG["vocab_size"],)
            )

    def scores(self, sequence, name):
        weights = self.variable(f"{name}_weights", (CONFIG["hidden_size"],))
        return tf.einsum("bsj,j->bs", sequence, weights) + self.variable(f"{name}_bias", ())

    def labels(self, pooled, name, number):
        weights = self.variable(f"output_weights_{name}", (number, CONFIG["hidden_size"]))
        return pooled @ tf.transpose(weights) + self.variable(f"output_bias_{name}", (number,))


def one_column(cells, columns, types, mask):
    """The logits of tokens: the mean of their cell's, -10000 outside of the likeliest column."""
    found = np.empty_like(cells)
    for text in range(len(cells)):
        tokens = {}
        for token in range(LENGTH):
            tokens.setdefault((*types[text, token, 1:3],), []).append(token)
        kept = {cell: mask[text, own].mean() for cell, own in tokens.items()}
        chosen = {}
        for column in {column for column, _ in tokens} - {0}:
            own = [cell for cell in tokens if cell[0] == column]
            sums = [columns[text, tokens[cell]].mean() * kept[cell] for cell in own]
            chosen[column] = sum(sums) / sum(kept[cell] for cell in own)
        best = max(chosen, key=chosen.get)
        for cell, own in tokens.items():
            is_chosen = kept[cell] * (cell[0] == best)
            found[text, own] = cells[text, own].mean() - 10000 * (1 - is_chosen)
    return found


def make(name, seed, config, build):
    folder = DATA / "tapas" / name
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = random.integers(0, CONFIG["vocab_size"], (2, LENGTH))
    types, mask = table(random)
    given = config or TAPAS | {"reset_position_index_per_cell": True}
    places = positions(types, given["reset_position_index_per_cell"])
    with tf.Graph().as_default(), v1.Session() as session:
        model = Tapas(seed)
        used = None if given["disable_position_embeddings"] else tf.constant(places)
        inputs = tf.constant(ids), tf.constant(types), used
        x = model.embeddings(*inputs, given["disabled_features"])
        sequence = model.layers(x, tf.constant(mask, tf.float32))
        pooled = tf.tanh(model.dense(sequence[:, 0], "bert/pooler/dense", CONFIG["hidden_size"]))
        outputs = {"TapasModel.last_hidden_state": sequence, "TapasModel.pooler_output": pooled}
        outputs |= build(model, sequence, pooled)
        v1.train.get_or_create_global_step()
        train = bert_adam(tf.reduce_sum(sequence), v1.trainable_variables())
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(save_relative_paths=True)
        session.run(train)
        saver.save(session, str(folder / "model.ckpt-3"), write_meta_graph=False)
        values = session.run(outputs)
    if "columns" in values:
        cells = values["TapasForQuestionAnswering.logits"]
        logits = one_column(cells, values.pop("columns"), types, mask)
        values["TapasForQuestionAnswering.logits"] = logits
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    np.savez_compressed(folder / "forward.npz", **inputs, **values)
    files = {"tapas_config.json": config, "bert_config.json": CONFIG}
    for file, contents in files.items():
        if contents is not None:
            (folder / file).write_text(json.dumps(contents, indent=2) + "\n")


def pretraining(model, sequence, pooled):
    with v1.variable_scope("cls/seq_relationship"):
        model.output_layer(pooled, 2)
    return {"TapasForMaskedLM.logits": model.masked_words(sequence)}


def questions(temperature, operators, columns):
    def build(model, sequence, pooled):
        cells = model.scores(sequence, "output") / temperature
        found = {"TapasForQuestionAnswering.logits": cells}
        if columns:
            found["columns"] = model.scores(sequence, "column_output")
        if operators:
            own = model.labels(pooled, "agg", operators)
            found["TapasForQuestionAnswering.logits_aggregation"] = own
        return found

    return build


def statements(model, sequence, pooled):
    model.scores(sequence, "output")
    return {"TapasForSequenceClassification.logits": model.labels(pooled, "cls", 2)}


if __name__ == "__main__":
    shutil.rmtree(DATA / "tapas", ignore_errors=True)
    make("pretraining", 1, None, pretraining)
    own = {"disable_position_embeddings": True, "disabled_features": ["column_ranks"]}
    make("sqa", 2, TAPAS | own, questions(1.0, 0, True))
    weak = {"use_answer_as_supervision": True, "cell_select_pref": 0.2, "huber_loss_delta": 0.1}
    wtq = {"num_aggregation_labels": 4, "temperature": 0.0352513, **weak}
    wtq["reset_position_index_per_cell"] = True
    make("wtq", 3, TAPAS | wtq, questions(0.0352513, 4, True))
    wikisql = {"num_aggregation_labels": 4, "temperature": 0.107515, **weak}
    wikisql["select_one_column"] = False
    make("wikisql", 4, TAPAS | wikisql, questions(0.107515, 4, False))
    tabfact = {"num_classification_labels": 2, "select_one_column": False}
    make("tabfact", 5, TAPAS | tabfact, statements)
