"""Models that people try and that are not converted: why, and what to do instead.

They are told by the names that people give to `--model_type`, and where their variables tell them
also by those. docs/families.md lists them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

HUB = "take the PyTorch weights from the Hub ({})"
PYTORCH = "its authors published it for PyTorch, not for TensorFlow"
T5X = (
    "it exists only as T5X checkpoints of JAX (zarr arrays, a `checkpoint` of msgpack), none of "
    "TensorFlow"
)
T5X_SCRIPT = "; for T5X checkpoints transformers 4 has scripts (convert_*t5x_checkpoint_to_*.py)"
FLAX = "it was published for JAX (Flax or Haiku), not as TensorFlow checkpoints"
GARDEN = "encoders of the Model Garden that no family is for"
TF_CLASSES = "what transformers' TF{}… classes saved is converted (hf-tf)"
FORK = "a rule file (--rules) and a model class of your own"


@dataclass(frozen=True)
class LeftOut:
    """A model that is not converted.

    `names` are what people pass as model type, in lower case with `-` for `_`. `evidence` are
    full-match regexes of variable names, all of which some variable has to match, and which no
    other model has; empty where its files are no TensorFlow checkpoint, or have another's names.
    """

    title: str
    names: tuple[str, ...]
    why: str
    instead: str
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.title}: not converted: {self.why}. Instead: {self.instead}"


ANY = "(?:.*/)?"
LEFT_OUT = (
    LeftOut(
        "NEZHA",
        ("nezha",),
        "BERT's variables without positions; its attention adds fixed relative positions to keys "
        "and values, which no class of transformers 5 does",
        "transformers 4.40 has NezhaModel, which loads sijunhe/nezha-cn-base of the Hub",
        (f"{ANY}Embedding-Relative-Position(?:_\\d+)?/.*",),
    ),
    LeftOut(
        "RoFormerV2",
        ("roformer-v2", "roformerv2"),
        "its layers have neither biases nor norms with parameters, and RoFormerModel needs both",
        "junnyu/roformer_v2_chinese_char_base of the Hub, with its own code",
    ),
    LeftOut(
        "TableFormer",
        ("tableformer",),
        "TAPAS with learned biases of the attention, which TapasModel has not",
        "a TAPAS checkpoint without them (--model_type tapas), or " + FORK,
    ),
    LeftOut(
        "LXMERT",
        ("lxmert",),
        "no TensorFlow checkpoint of its authors exists, they published PyTorch's; the entry of "
        "the old converter could never work",
        HUB.format("unc-nlp/lxmert-base-uncased") + "; " + TF_CLASSES.format("Lxmert"),
    ),
    LeftOut(
        "XLM-R",
        ("xlm-roberta", "xlm-r", "xlmr", "xlm-roberta-xl", "xlm-mlm-r"),
        f"{PYTORCH} (fairseq: model.pt, dict.txt); it is a RoBERTa, not an XLM",
        HUB.format("FacebookAI/xlm-roberta-base") + "; " + TF_CLASSES.format(""),
    ),
    LeftOut(
        "RoBERTa",
        ("roberta", "camembert", "bertweet"),
        f"{PYTORCH} (fairseq)",
        HUB.format("FacebookAI/roberta-base")
        + "; RoBERTa-zh and others trained with BERT's code are BERTs (--model_type bert)",
    ),
    LeftOut(
        "DistilBERT",
        ("distilbert", "distilroberta"),
        "it was made with transformers' PyTorch classes",
        HUB.format("distilbert/distilbert-base-uncased") + "; " + TF_CLASSES.format("DistilBert"),
    ),
    LeftOut(
        "DeBERTa",
        ("deberta", "deberta-v2", "deberta-v3", "mdeberta"),
        PYTORCH,
        HUB.format("microsoft/deberta-v3-base") + "; " + TF_CLASSES.format(""),
    ),
    LeftOut(
        "MegatronBERT",
        ("megatron-bert", "megatronbert", "megatron", "megatron-gpt2"),
        "NVIDIA's Megatron-LM writes PyTorch files (model_optim_rng.pt)",
        "transformers' convert_megatron_bert_checkpoint.py of version 4",
    ),
    LeftOut(
        "BART and its kin",
        (
            "bart",
            "mbart",
            "mbart50",
            "m2m-100",
            "nllb",
            "blenderbot",
            "blenderbot-small",
            "led",
            "plbart",
        ),
        f"{PYTORCH} (fairseq, ParlAI), or JAX's",
        HUB.format("facebook/bart-base") + "; " + TF_CLASSES.format(""),
    ),
    LeftOut("BLOOM", ("bloom",), PYTORCH, HUB.format("bigscience/bloom-560m")),
    LeftOut(
        "OPT",
        ("opt",),
        f"{PYTORCH} (metaseq)",
        HUB.format("facebook/opt-125m") + "; " + TF_CLASSES.format("OPT"),
    ),
    LeftOut(
        "LLaMA and other later language models",
        ("llama", "mistral", "gemma", "qwen2", "falcon", "gpt-neox", "pythia", "phi", "mpt"),
        "none was published as TensorFlow checkpoints",
        HUB.format("EleutherAI/pythia-160m, for one"),
    ),
    LeftOut(
        "GPT-J",
        ("gptj", "gpt-j"),
        FLAX,
        HUB.format("EleutherAI/gpt-j-6b") + "; " + TF_CLASSES.format("GPTJ"),
    ),
    LeftOut("DialoGPT", ("dialogpt",), PYTORCH, HUB.format("microsoft/DialoGPT-medium")),
    LeftOut(
        "ImageGPT",
        ("imagegpt", "image-gpt"),
        "OpenAI's TensorFlow checkpoints of pixels, which no family is for",
        HUB.format("openai/imagegpt-small"),
        (r"model/h\d+/attn/q_proj", "model/wte"),
    ),
    LeftOut(
        "CTRL",
        ("ctrl",),
        "Salesforce's TensorFlow checkpoints, which no release of transformers converted",
        HUB.format("Salesforce/ctrl") + "; " + TF_CLASSES.format("CTRL"),
        (f"{ANY}tied_embedding_softmax(?:_\\d+)?/w(?:/.*)?",),
    ),
    LeftOut(
        "GPTSAN",
        ("gptsan-japanese", "gptsan"),
        "a mixture of experts that transformers 5 has no class for",
        "transformers 4.30, which converts and runs it",
        (r"model/moe\d+/(?:.*/)?switch_gating/kernel",),
    ),
    LeftOut(
        "Switch Transformers",
        ("switch-transformers", "switch", "switch-c", "switch-base"),
        "mixtures of experts; the released ones are T5X checkpoints, and no family is for what "
        "Mesh TensorFlow writes",
        HUB.format("google/switch-base-8") + T5X_SCRIPT,
        (r"(?:en|de)coder/block_\d+/.*(?:MoE[12]D|_gating)/.*",),
    ),
    LeftOut("UMT5", ("umt5",), T5X, HUB.format("google/umt5-small") + T5X_SCRIPT),
    LeftOut(
        "LongT5",
        ("longt5", "long-t5"),
        T5X,
        HUB.format("google/long-t5-tglobal-base") + T5X_SCRIPT,
    ),
    LeftOut(
        "FLAN-T5, UL2, MADLAD-400",
        ("flan-t5", "flan-ul2", "ul2", "flan", "madlad-400", "madlad400", "pile-t5"),
        T5X,
        HUB.format("google/flan-t5-base, google/ul2, google/madlad400-3b-mt") + T5X_SCRIPT,
    ),
    LeftOut(
        "a T5X checkpoint",
        ("t5x", "seqio", "flaxformer"),
        "zarr arrays and msgpack of JAX, not TensorFlow's format",
        "transformers 4 has convert_t5x_checkpoint_to_pytorch.py; T5s of Mesh TensorFlow are "
        "converted (--model_type t5)",
    ),
    LeftOut(
        "a Flax checkpoint",
        ("flax", "jax", "orbax", "haiku"),
        "msgpack or zarr of JAX, not TensorFlow's format",
        "transformers 4 loads its own flax_model.msgpack with from_flax=True and saves it for "
        "PyTorch",
    ),
    LeftOut(
        "FNet, Perceiver, Reformer, ViT, OWL-ViT, Pix2Struct",
        ("fnet", "perceiver", "reformer", "vit", "owlvit", "pix2struct"),
        f"{FLAX} (Reformer: Trax)",
        HUB.format("google/fnet-base, google/vit-base-patch16-224"),
    ),
    LeftOut(
        "a model of PyTorch",
        (
            *("blip", "clip", "convnext", "convnextv2", "cvt", "data2vec", "data2vec-vision"),
            *("deit", "dpr", "ernie", "esm", "flaubert", "fsmt", "groupvit", "hubert", "idefics"),
            *("layoutlm", "layoutlmv3", "longformer", "luke", "marian", "mobilevit", "mpnet"),
            *("nystromformer", "prophetnet", "rag", "regnet", "roberta-prelayernorm", "sam"),
            *("segformer", "speech-to-text", "splinter", "squeezebert", "swiftformer", "swin"),
            *("vit-mae", "wav2vec2", "whisper", "xglm"),
        ),
        PYTORCH,
        "take the PyTorch weights from the Hub; " + TF_CLASSES.format(""),
    ),
    LeftOut(
        "a Keras application",
        ("efficientnet", "align", "resnet"),
        "its weights came with keras.applications, by names that no family is for",
        HUB.format("google/efficientnet-b0, kakaobrain/align-base, microsoft/resnet-50"),
    ),
    LeftOut(
        "ELECTRA of the Model Garden",
        ("garden-electra",),
        "two encoders of BERT's layers; its heads are not those of Google's ELECTRA",
        "--scope encoder converts the discriminator's encoder, as a BertModel",
        (f"{ANY}discriminator_projection_head/kernel",),
    ),
    LeftOut(
        "MobileBERT of the Model Garden",
        ("garden-mobilebert",),
        "its variables are not those of Google's MobileBERT, from whose release it was made",
        "the original release (--model_type mobilebert), or google/mobilebert-uncased of the Hub",
        (f"{ANY}mobile_bert_embedding/.*",),
    ),
    LeftOut(
        "FNet and Sparse Mixer of the Model Garden",
        ("sparse-mixer",),
        GARDEN,
        FORK,
        (f"{ANY}(?:f_net|sparse_mixer)(?:_\\d+)?/.*",),
    ),
    LeftOut(
        "ELMo",
        ("elmo", "bilm"),
        "transformers has no ELMo",
        "allennlp's, or " + FORK,
        (f"{ANY}bilm/(?:CNN|RNN_\\d)/?.*",),
    ),
    LeftOut(
        "a Transformer of Tensor2Tensor",
        ("tensor2tensor", "t2t", "transformer"),
        "transformers has no class with its arithmetic",
        FORK,
        (r"transformer/(?:.*/)?body/(?:en|de)coder/layer_\d+/.*",),
    ),
    LeftOut(
        "BORT", ("bort",), "it was published for MXNet", "amazon/bort of the Hub, transformers 4"
    ),
)


def left_out(model_type: str) -> LeftOut | None:
    """The model of that name, however it is spelled; None where it is none of these."""
    name = model_type.lower().replace("_", "-").rpartition("/")[2]
    return next((model for model in LEFT_OUT if name in model.names), None)


def told_by(names: Sequence[str]) -> list[LeftOut]:
    """Those that the names of variables tell."""
    return [
        model
        for model in LEFT_OUT
        if model.evidence
        and all(any(map(re.compile(regex).fullmatch, names)) for regex in model.evidence)
    ]
