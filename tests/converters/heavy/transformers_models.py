"""The most used model types of Transformers, as tiny random configurations, each for its own task."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from converters.heavy.sweep import Case

PACKAGE = f"transformers {transformers.__version__}, random weights"

_TEXT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}
_DECODER = {**_TEXT, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BART = {
    "vocab_size": 99,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
_SPEECH = {
    **{name: value for name, value in _TEXT.items() if name != "max_position_embeddings"},
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
    "vocab_size": 32,
}
_VISION = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def cases() -> list[Case]:
    """All of them, the most used first."""
    return [Case(PACKAGE, name, partial(make, *row)) for name, row in MODELS.items()]


def make(model: str, config: Callable[[], Any]) -> Any:
    """A model with random weights that are the same each time."""
    torch.manual_seed(0)
    made = config()
    made._attn_implementation = "eager"
    return getattr(transformers, model)(made).eval()


def _config(name: str, **fields: Any) -> Callable[[], Any]:
    return lambda: getattr(transformers, name)(**fields)


def _clip() -> Any:
    text = {**_TEXT, **_SPECIAL}
    return transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)


def _detr() -> Any:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    return transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, num_queries=9,
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=37, decoder_ffn_dim=37, image_size=64,
    )  # fmt: skip


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "bert": ("BertForSequenceClassification", _config("BertConfig", **_TEXT)),
    "gpt2": ("GPT2LMHeadModel", _config("GPT2Config", vocab_size=99, n_embd=32, n_layer=2, n_head=4, **_SPECIAL)),
    "roberta": ("RobertaForMaskedLM", _config("RobertaConfig", **_TEXT, **_SPECIAL)),
    "distilbert": (
        "DistilBertForQuestionAnswering",
        _config("DistilBertConfig", vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=37),
    ),
    "t5": (
        "T5ForConditionalGeneration",
        _config("T5Config", vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4,
                decoder_start_token_id=0),
    ),
    "llama": ("LlamaForCausalLM", _config("LlamaConfig", **_DECODER)),
    "whisper": (
        "WhisperForConditionalGeneration",
        _config("WhisperConfig", **{**_BART, "max_source_positions": 20, "max_target_positions": 40, "num_mel_bins": 8,
                                    "suppress_tokens": None, "begin_suppress_tokens": None}),
    ),
    "vit": ("ViTForImageClassification", _config("ViTConfig", **_VISION)),
    "clip": ("CLIPModel", _clip),
    "wav2vec2": ("Wav2Vec2ForCTC", _config("Wav2Vec2Config", **_SPEECH)),
    "bart": ("BartForConditionalGeneration", _config("BartConfig", **_BART)),
    "mistral": ("MistralForCausalLM", _config("MistralConfig", **_DECODER, sliding_window=6)),
    "qwen2": (
        "Qwen2ForCausalLM",
        _config("Qwen2Config", **{name: value for name, value in _DECODER.items() if name != "head_dim"}),
    ),
    "xlm-roberta": ("XLMRobertaForTokenClassification", _config("XLMRobertaConfig", **_TEXT, **_SPECIAL)),
    "albert": ("AlbertForSequenceClassification", _config("AlbertConfig", **_TEXT, embedding_size=16)),
    "electra": ("ElectraForTokenClassification", _config("ElectraConfig", **_TEXT, embedding_size=16)),
    "mpnet": ("MPNetModel", _config("MPNetConfig", **_TEXT, **_SPECIAL)),
    "deberta-v2": (
        "DebertaV2ForSequenceClassification",
        _config("DebertaV2Config", **_TEXT, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"],
                norm_rel_ebd="layer_norm", share_att_key=True),
    ),
    "marian": ("MarianMTModel", _config("MarianConfig", **_BART)),
    "opt": (
        "OPTForCausalLM",
        _config("OPTConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=37,
                max_position_embeddings=64, word_embed_proj_dim=32, **_SPECIAL),
    ),
    "detr": ("DetrForObjectDetection", _detr),
    "swin": (
        "SwinForImageClassification",
        _config("SwinConfig", image_size=32, patch_size=2, embed_dim=16, depths=[1, 2], num_heads=[2, 4],
                window_size=4),
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        _config("SegformerConfig", depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], decoder_hidden_size=16,
                num_attention_heads=[1, 2, 2, 4], image_size=64),
    ),
    "convnext": (
        "ConvNextForImageClassification",
        _config("ConvNextConfig", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 2, 1], image_size=64),
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _config("GPTNeoXConfig", **_TEXT, **_SPECIAL)),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        _config("GPTNeoConfig", vocab_size=99, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=37,
                attention_types=[[["global", "local"], 1]], window_size=7, max_position_embeddings=64, **_SPECIAL),
    ),
    "gemma": ("GemmaForCausalLM", _config("GemmaConfig", **_DECODER)),
    "phi": ("PhiForCausalLM", _config("PhiConfig", **_TEXT, **_SPECIAL)),
    "bloom": (
        "BloomForCausalLM",
        _config("BloomConfig", vocab_size=99, hidden_size=32, n_layer=2, n_head=4, **_SPECIAL),
    ),
    "pegasus": ("PegasusForConditionalGeneration", _config("PegasusConfig", **_BART)),
    "mbart": ("MBartForConditionalGeneration", _config("MBartConfig", **_BART)),
    "hubert": ("HubertForCTC", _config("HubertConfig", **_SPEECH)),
    "deit": ("DeiTForImageClassification", _config("DeiTConfig", **_VISION)),
    "yolos": (
        "YolosForObjectDetection",
        _config("YolosConfig", **{**_VISION, "image_size": [32, 48]}, num_detection_tokens=7),
    ),
    "layoutlm": ("LayoutLMForTokenClassification", _config("LayoutLMConfig", **_TEXT)),
    "longformer": ("LongformerForMaskedLM", _config("LongformerConfig", **_TEXT, **_SPECIAL, attention_window=4)),
}  # fmt: skip
