"""The language model: one decoder, its configuration, weights and kernels."""

from icmjax.lm.attention import TILES
from icmjax.lm.config import IMPLEMENTATIONS, DecoderConfig, Implementation, Platform
from icmjax.lm.decoder import Decoder
from icmjax.lm.fused import check_attention
from icmjax.lm.hf_config import config_from_hf
from icmjax.lm.loading import BUNDLED_MODELS, SETTINGS_FILE, LanguageModel, load_lm, platform_of
from icmjax.lm.quantized import QUANTIZATIONS, Quantization, Quantized, is_quantized
from icmjax.lm.quiet import quiet_transformers
from icmjax.lm.rope import RopeConfig, inverse_frequencies
from icmjax.lm.segments import KeyValues, Segment, Tempering
from icmjax.lm.sharding import (
    CHAIN_AXIS,
    MODEL_AXIS,
    QUERY_AXIS,
    default_mesh,
    make_mesh,
    spread_config,
    weights_on,
    without_mesh,
)
from icmjax.lm.weights import save_hf

__all__ = [
    "BUNDLED_MODELS",
    "CHAIN_AXIS",
    "IMPLEMENTATIONS",
    "MODEL_AXIS",
    "QUANTIZATIONS",
    "QUERY_AXIS",
    "SETTINGS_FILE",
    "TILES",
    "Decoder",
    "DecoderConfig",
    "Implementation",
    "KeyValues",
    "LanguageModel",
    "Platform",
    "Quantization",
    "Quantized",
    "RopeConfig",
    "Segment",
    "Tempering",
    "check_attention",
    "config_from_hf",
    "default_mesh",
    "inverse_frequencies",
    "is_quantized",
    "load_lm",
    "make_mesh",
    "platform_of",
    "quiet_transformers",
    "save_hf",
    "spread_config",
    "weights_on",
    "without_mesh",
]
