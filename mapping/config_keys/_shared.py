"""Keys that several families share."""

from ._kinds import Foreign, keys

SUMMARY = keys(
    text="summary_type summary_activation?",
    flag="summary_use_proj summary_proj_to_labels",
    dropout="summary_first_dropout",
)
BERT = keys(
    size="""
        vocab_size hidden_size num_attention_heads intermediate_size max_position_embeddings
        type_vocab_size
    """,
    layers="num_hidden_layers",
    text="hidden_act",
    dropout="hidden_dropout_prob attention_probs_dropout_prob",
    amount="initializer_range layer_norm_eps",
)
GPT = {
    **keys(
        size="vocab_size n_positions n_embd n_head",
        layers="n_layer",
        dropout="resid_pdrop embd_pdrop attn_pdrop",
        amount="layer_norm_epsilon initializer_range",
    ),
    **SUMMARY,
}
MOBILENET = keys(
    size="num_channels min_depth",
    any="image_size",  # a number, or height and width
    ratio="depth_multiplier",
    activation="hidden_act",
    flag="tf_padding",
    dropout="classifier_dropout_prob",
    amount="initializer_range layer_norm_eps",
)
BERT_FILES = keys(
    any="""
        directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type
    """
)
# Flags of google-research/bigbird (core/flags.py) that only training and decoding read.
BIG_BIRD_FLAGS = keys(
    size="max_encoder_length",
    text="scope",
    any="""
        alpha beam_size data_dir do_eval do_export do_train eval_batch_size gcp_project
        init_checkpoint iterations_per_loop label_smoothing learning_rate masked_lm_prob master
        max_decoder_length max_eval_steps max_predictions_per_seq num_tpu_cores num_train_steps
        num_warmup_steps optimizer optimizer_beta1 optimizer_beta2 optimizer_epsilon output_dir
        preprocessed_data save_checkpoints_steps substitute_newline tpu_job_name tpu_name tpu_zone
        train_batch_size trainable_bias use_gradient_checkpointing use_nsp use_tpu
        vocab_model_file weight_decay_rate
    """,
)
# What google-research/electra and code made of it take as --hparams.
ELECTRA_FILES = keys(
    text="model_size",
    table="model_hparam_overrides",
    flag="debug",
    any="""
        answerable_classifier answerable_uses_start_logits answerable_weight beam_size data_dir
        disallow_correct disc_weight do_eval do_train doc_stride double_unordered
        electra_objective electric_objective eval_batch_size gcp_project gen_weight
        generator_hidden_size generator_layers init_checkpoint iterations_per_loop
        joint_prediction keep_all_models layerwise_lr_decay learning_rate log_examples
        lr_decay_power mask_prob max_answer_length max_query_length max_seq_length model_dir
        model_name n_best_size n_writes_test num_eval_steps num_tpu_cores num_train_epochs
        num_train_steps num_trials num_warmup_steps predict_batch_size pretrain_tfrecords
        qa_na_threshold save_checkpoints_steps task_names temperature tpu_job_name tpu_name
        tpu_zone train_batch_size two_tower_generator uniform_generator untied_generator
        untied_generator_embeddings use_tfrecords_if_existing use_tpu vocab_file
        warmup_proportion weight_decay_rate write_test_outputs
    """,
)
_RELATIVE = "its attention adds relative positions"
_PRE_NORM = "its layer norms come before the layers' parts, not behind them"
POST_NORM_FAMILIES = {
    "do_layer_norm_before": Foreign(_PRE_NORM),
    "layer_norm_first": Foreign(_PRE_NORM),
    "layernorm_positioning": Foreign(_PRE_NORM, ("post",)),
    "ln_type": Foreign(_PRE_NORM, ("postln", "post", "post_ln")),
    "norm_first": Foreign(_PRE_NORM),
    "norm_type": Foreign(_PRE_NORM, ("postnorm", "post", "layer_norm")),
    "normalize_before": Foreign(_PRE_NORM),
    "pre_ln": Foreign(_PRE_NORM),
    "pre_lnorm": Foreign(_PRE_NORM),
    "pre_norm": Foreign(_PRE_NORM),
    "prenorm": Foreign(_PRE_NORM),
    "encoder_normalize_before": Foreign(_PRE_NORM),
}
BERT_KIN = {
    **POST_NORM_FAMILIES,
    "classifier_activation": Foreign(
        "MobileBERT's kin, whose pooler has no weights (--model_type mobilebert)", (True, None)
    ),
    "attention_type": Foreign("BigBird, whose attention is sparse", ("original_full", "full")),
    "key_query_shared_bottleneck": Foreign("MobileBERT"),
    "normalization_type": Foreign("MobileBERT's kin", ("layer_norm",)),
    "num_feedforward_networks": Foreign("MobileBERT's kin", (1,)),
    "pos_att_type": Foreign(f"DeBERTa's kin: {_RELATIVE}", (None, "none", "")),
    "position_embedding_type": Foreign(_RELATIVE, ("absolute",)),
    "relative_attention": Foreign(f"DeBERTa's kin: {_RELATIVE}"),
    "rescale_embedding": Foreign("BigBird's kin, whose embeddings are scaled"),
    "rescale_embeddings": Foreign("BigBird's kin, whose embeddings are scaled"),
    "trigram_input": Foreign("MobileBERT"),
    "use_bottleneck": Foreign("MobileBERT"),
    "use_relative_position": Foreign(f"NEZHA's kin: {_RELATIVE}"),
    "use_relative_positions": Foreign(f"NEZHA's kin: {_RELATIVE}"),
    "use_rotary_position": Foreign("RoFormer's kin, whose positions are rotations"),
    "use_running_mean": Foreign(
        "RealFormer, which hands attention scores on from layer to layer", ()
    ),
}
