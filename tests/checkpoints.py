"""Tiny checkpoints in the Hugging Face format, made by transformers on torch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

# The configuration of each family, and the fields of TINY that it does not have.
FAMILIES: dict[str, tuple[type[transformers.PretrainedConfig], set[str]]] = {
    "llama": (transformers.LlamaConfig, set()),
    "qwen2": (transformers.Qwen2Config, {"head_dim"}),
    "qwen3": (transformers.Qwen3Config, set()),
    "mistral": (transformers.MistralConfig, set()),
    "olmo2": (transformers.Olmo2Config, {"head_dim"}),
    "gemma2": (transformers.Gemma2Config, set()),
    "gemma3": (transformers.Gemma3TextConfig, set()),
    "mixtral": (transformers.MixtralConfig, set()),
    "qwen3_moe": (transformers.Qwen3MoeConfig, set()),
    "olmo3": (transformers.Olmo3Config, {"head_dim"}),
    "phi3": (transformers.Phi3Config, {"head_dim"}),
    "smollm3": (transformers.SmolLM3Config, {"head_dim"}),
    "granite": (transformers.GraniteConfig, {"head_dim"}),
    "gpt2": (
        transformers.GPT2Config,
        {"head_dim", "num_key_value_heads", "intermediate_size", "max_position_embeddings"},
    ),
    "gpt_neox": (transformers.GPTNeoXConfig, {"head_dim", "num_key_value_heads"}),
    "stablelm": (transformers.StableLmConfig, {"head_dim"}),
}
# What a family has to have beside the fields of TINY.
OWN_FIELDS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 24},
    "olmo3": {"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": {"no_rope_layers": [1, 0]},
    "granite": {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.5,
    },
}
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,  # not hidden_size / num_attention_heads
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    # Its kernels are the plain formulas; the others round differently.
    "attn_implementation": "eager",
}


def make_checkpoint(
    folder: Path,
    family: str = "llama",
    texts: Iterable[str] = ("People from Japan would answer: 'Yes', this claim is True",),
    seed: int = 0,
    **config_overrides: Any,
) -> torch.nn.Module:
    """Write a model of random weights and a tokenizer trained on the texts; return the torch model.

    No parameter is left at a trivial value: norm weights and biases are drawn too.
    """
    tokenizer = make_tokenizer(texts)
    config_class, absent = FAMILIES[family]
    fields = {name: value for name, value in TINY.items() if name not in absent}
    fields |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields |= OWN_FIELDS.get(family, {}) | config_overrides
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_class(**fields))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def make_tokenizer(texts: Iterable[str]) -> transformers.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the texts, of at most 320 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(texts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
