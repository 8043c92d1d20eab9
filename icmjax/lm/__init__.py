"""The language model: one decoder for many families, read from Hugging Face folders."""

from icmjax.lm.config import DecoderConfig, config_from_hf
from icmjax.lm.decoder import Decoder
from icmjax.lm.loading import LanguageModel, load_lm
from icmjax.lm.rope import RopeConfig
from icmjax.lm.segments import KeyValues, Segment
from icmjax.lm.weights import save_hf

__all__ = [
    "Decoder",
    "DecoderConfig",
    "KeyValues",
    "LanguageModel",
    "RopeConfig",
    "Segment",
    "config_from_hf",
    "load_lm",
    "save_hf",
]
