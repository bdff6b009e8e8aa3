"""The keys of gpt_neo's configs."""

from ._kinds import ConfigKeys, Foreign, keys

KEYS = ConfigKeys(
    fields=keys(
        size="""
            vocab_size max_position_embeddings hidden_size num_heads intermediate_size? window_size
        """,
        layers="num_layers",
        text="activation_function",
        dropout="resid_dropout embed_dropout attention_dropout classifier_dropout",
        amount="layer_norm_epsilon initializer_range",
        any="attention_layers attention_types",
    ),
    aliases={
        "attn_dropout": "attention_dropout",
        "eos_id": "eos_token_id",
        "local_attention_radius": "window_size",
        "n_ctx": "max_position_embeddings",
        "n_embd": "hidden_size",
        "n_head": "num_heads",
        "n_layer": "num_layers",
        "n_vocab": "vocab_size",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "res_dropout": "resid_dropout",
    },
    original=keys(
        text="activation_fn",
        any="""
            ada_epsilon1 ada_epsilon2 auto_layout auto_layout_and_mesh_shape beta1
            beta2 causal dataset_configs datasets entmax_loss epsilon eval_batch_size eval_steps
            gradient_clipping iterations layout log_grads lr lr_decay lr_decay_end max_sequence_len
            mesh_shape mlm_cls_token_id mlm_mask_id mlm_mask_ignore_ids mlm_mask_prob
            mlm_random_token_prob mlm_same_token_prob mode model model_path moe_activation
            moe_params no_dataset num_cores num_microbatches opt_name padding_id precision
            predict_batch_size predict_max_steps predict_steps recompute_grad
            remove_partial_sequences sampling_use_entmax scale_by_depth scale_by_in
            steps_per_checkpoint stop_at_token tokens_per_mb_per_replica train_batch_size
            train_steps use_tpu warmup_steps weight_decay z_loss
        """,
    ),
    foreign={
        "axial_pos_emb": Foreign("its positions are sums of two tables"),
        "lightweight_conv_attention": Foreign("its attention has convolutions", (0, False, None)),
        "macaron": Foreign("its blocks have a second feed-forward layer"),
        "mlm_training": Foreign("each of its words sees those after it"),
        "mlp_glu": Foreign("its feed-forward layers are gated"),
        "moe_layers": Foreign("some of its feed-forward layers have experts", ([], None)),
        "no_weight_tie": Foreign("its output layer is its own, without a norm before it"),
        "num_mem_kv": Foreign("its attention has keys and values of memory", (0, False, None)),
        "rezero": Foreign("its blocks have weights in place of norms"),
        "rotary_emb": Foreign("its positions are rotations", (None,)),
        "scalenorm": Foreign("its norms have one weight for all dimensions"),
        "share_parameters": Foreign("its blocks are one"),
    },
)
