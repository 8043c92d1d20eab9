"""A checkpoint of random weights and claims to score, for benchmarks."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

import icmjax
from icmjax.claims import ClaimSet

DATA = Path(__file__).parents[2] / "shared" / "data"
FOLDERS = ("opinionqa_personas/train", "goqa_personas/train")
VOCAB_SIZE = 2048
LABEL_TEXTS = ("this claim is True", "this claim is False") * 200  # so that a label is one token


def real_claims() -> tuple[ClaimSet, np.ndarray] | None:
    """Survey claims and their gold labels, int8 `[N]`; None where the data is absent.

    Those of one persona come one after another, 284 of the first.
    """
    paths = [path for folder in FOLDERS for path in sorted((DATA / folder).glob("*.jsonl"))]
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    if not rows:
        return None
    gold = icmjax.gold_from_rows(rows)
    assert gold is not None, "the survey data has labels"
    return icmjax.claims_from_rows(rows, rule="none"), gold.labels


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
    """Write a Llama of random weights, no parameter trivial, as transformers would."""
    import torch
    import transformers

    tokenizer = make_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=max(1, hidden_size // 32),
        num_key_value_heads=max(1, hidden_size // 64),
        max_position_embeddings=1 << 17,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "icmjax.json").write_text(json.dumps({"template": "persona"}))
    return folder
