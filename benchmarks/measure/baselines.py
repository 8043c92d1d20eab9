"""The same label log-probs by transformers on torch: every prompt anew, or with a reused prefix."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Baseline(NamedTuple):
    """What scoring prompts took, and what came out."""

    seconds: float  # for all prompts; scaled up where a sample of them was measured
    num_tokens: int  # read, for all prompts
    log_probs: np.ndarray  # [measured, Y], normalised over the labels
    num_measured: int  # prompts


def load_torch(folder: Path):
    """The checkpoint as transformers loads it, in float32."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def sample_of(num_claims: int, num_sampled: int) -> np.ndarray:
    """So many claims, or all where there are fewer, evenly from the first to the last."""
    return np.unique(np.linspace(0, num_claims - 1, min(num_sampled, num_claims)).astype(int))


def score_naive(model, prompts: list[list[int]], labels: list[int], limit: int) -> Baseline:
    """Every prompt read anew, on its own; at most `limit` of them, spread evenly."""
    import torch

    chosen = sample_of(len(prompts), limit)
    log_probs = []
    start = time.perf_counter()
    with torch.inference_mode():
        for index in chosen:
            logits = model(torch.tensor([prompts[index]]), logits_to_keep=1, use_cache=False).logits
            log_probs.append(_over_labels(logits[0, -1], labels))
    seconds = (time.perf_counter() - start) * len(prompts) / len(chosen)
    return Baseline(seconds, sum(map(len, prompts)), np.stack(log_probs), len(chosen))


def score_with_prefix(model, prompts: list[list[int]], labels: list[int]) -> Baseline:
    """Prompts in their given order, each keeping what it shares with the one before it."""
    import torch
    from transformers import DynamicCache

    # Of layers with a window too all keys are kept: a prompt may go back beyond it.
    cache, before, num_tokens, log_probs = DynamicCache(), [], 0, []
    start = time.perf_counter()
    with torch.inference_mode():
        for prompt in prompts:
            shared = min(common_prefix(before, prompt), len(prompt) - 1)
            if len(before) > shared:
                cache.crop(shared - len(before))  # so many tokens from the end
            tokens = torch.tensor([prompt[shared:]])
            logits = model(tokens, past_key_values=cache, logits_to_keep=1).logits
            log_probs.append(_over_labels(logits[0, -1], labels))
            num_tokens += len(prompt) - shared
            before = prompt
    seconds = time.perf_counter() - start
    return Baseline(seconds, num_tokens, np.stack(log_probs), len(prompts))


def common_prefix(first: list[int], second: list[int]) -> int:
    """How many tokens two prompts begin with alike."""
    length = min(len(first), len(second))
    differs = np.flatnonzero(np.array(first[:length]) != np.array(second[:length]))
    return int(differs[0]) if len(differs) else length


def _over_labels(logits, labels: list[int]) -> np.ndarray:
    return logits[labels].log_softmax(-1).numpy()
