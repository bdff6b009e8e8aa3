"""The keys of electra's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_KIN

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="embedding_size",
            text="summary_type summary_activation?",
            flag="summary_use_proj",
            dropout="classifier_dropout? summary_last_dropout",
        ),
    },
    original=keys(
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
    ),
    foreign=BERT_KIN,
)
