"""The keys of tapas's configs."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import BERT, BERT_KIN

_SPARSE = "its tokens attend to some others alone, or by what these are to their cell (TableFormer)"

KEYS = ConfigKeys(
    fields={
        **{key: kind for key, kind in BERT.items() if key != "type_vocab_size"},
        **keys(
            sizes="type_vocab_sizes",
            size="num_aggregation_labels max_num_rows max_num_columns no_aggregation_label_index?",
            number="""
                positive_label_weight aggregation_loss_weight answer_loss_importance
                huber_loss_delta? cell_selection_preference? answer_loss_cutoff?
            """,
            ratio="temperature aggregation_temperature",
            flag="""
                use_answer_as_supervision? use_normalized_answer_loss use_gumbel_for_cells
                use_gumbel_for_aggregation average_logits_per_cell select_one_column
                allow_empty_column_selection init_cell_selection_weights_to_zero
                reset_position_index_per_cell disable_per_token_loss
            """,
            text="average_approximation_function",
            numbered="aggregation_labels?",
        ),
    },
    aliases={
        "type_vocab_size": "type_vocab_sizes",
        "positive_weight": "positive_label_weight",
        "aggregation_loss_importance": "aggregation_loss_weight",
        "agg_temperature": "aggregation_temperature",
        "use_gumbel_for_agg": "use_gumbel_for_aggregation",
        "cell_select_pref": "cell_selection_preference",
    },
    original=keys(
        any="""
            attention_bias_disabled attention_bias_use_relative_scalar_only bert_config
            cell_cross_entropy cell_cross_entropy_hard_em classification_label_weight
            disable_position_embeddings disabled_features grad_clipping init_checkpoint
            learning_rate mask_examples_without_labels num_classification_labels num_train_steps
            num_warmup_steps reset_output_cls restrict_attention_bucket_size
            restrict_attention_header_size restrict_attention_row_heads_ratio
            restrict_attention_sort_after_projection use_tpu
        """
    ),
    foreign={
        **BERT_KIN,
        "proj_value_length": Foreign("its keys and values are projected", (None, 0, -1)),
        "restrict_attention": Foreign(_SPARSE),
        "restrict_attention_mode": Foreign(_SPARSE, ("full",)),
        "softmax_temperature": Foreign("its attention has a temperature", (1.0,)),
        "span_prediction": Foreign("it predicts spans of text beside cells", ("none",)),
        "table_pruning_config_file": Foreign(
            "another model prunes the table before it, whose weights the tokens get", (None, "")
        ),
    },
)
