"""A checkpoint of random weights with a tokenizer of its claims, made without torch."""

import json
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from icmjax.lm import SETTINGS_FILE, Decoder, config_from_hf, save_hf

VOCAB_SIZE = 2048  # of the model; the tokenizer has no more
LABEL_TEXTS = ("this claim is True", "this claim is False") * 200  # so that a label is one token
SCALE, NORM_SCALE = 0.054, 0.02  # standard deviations: of matrices, and of norms around one


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *LABEL_TEXTS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def make_checkpoint(
    folder: Path, texts: Iterable[str], num_layers: int = 6, hidden_size: int = 256, seed: int = 0
) -> Path:
    """Write a Llama of random float32 weights, no parameter trivial, as transformers reads it."""
    tokenizer = make_tokenizer(texts)
    config = config_from_hf(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden_size,
            intermediate_size=4 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=max(1, hidden_size // 32),
            num_key_value_heads=max(1, hidden_size // 64),
            max_position_embeddings=1 << 17,
            bos_token_id=tokenizer.bos_token_id,
        )
    )
    rng = np.random.default_rng(seed)
    abstract = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))))[1]

    def draw(path, leaf) -> jax.Array:
        is_norm = "scale" in jax.tree_util.keystr(path)
        mean, deviation = (1.0, NORM_SCALE) if is_norm else (0.0, SCALE)
        drawn = mean + deviation * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(drawn, jnp.float32)

    save_hf(folder, config, jax.tree_util.tree_map_with_path(draw, abstract), tokenizer)
    (folder / SETTINGS_FILE).write_text(json.dumps({"template": "persona"}))
    return folder
