"""The keys of pegasus' configs, and of what the original's code is told (params/*.py)."""

from ._kinds import ConfigKeys, keys

KEYS = ConfigKeys(
    fields=keys(
        size="""
            vocab_size d_model max_position_embeddings encoder_ffn_dim encoder_attention_heads
            decoder_ffn_dim decoder_attention_heads
        """,
        layers="encoder_layers decoder_layers",
        token="decoder_start_token_id?",
        text="activation_function",
        flag="scale_embedding",
        dropout="encoder_layerdrop decoder_layerdrop dropout attention_dropout activation_dropout",
        amount="init_std",
    ),
    aliases={
        "filter_size": "encoder_ffn_dim",
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_decoder_layers": "decoder_layers",
        "num_encoder_layers": "encoder_layers",
        "num_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    },
    original=keys(
        size="max_input_len max_target_len max_decode_len",
        any="""
            add_task_id batch_size beam_alpha beam_size dev_pattern encoder encoder_type
            estimator_eval_metrics_fn estimator_prediction_fn eval eval_max_predictions
            label_smoothing learning_rate length_bucket_size max_total_words model optimizer_name
            parser pretrain_target_filter_min test_pattern train_pattern train_steps use_bfloat16
            vocab_filename
        """,
    ),
)
