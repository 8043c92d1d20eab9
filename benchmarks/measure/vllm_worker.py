"""Scores prompts by vLLM with automatic prefix caching; run by an environment that has vLLM.

    python benchmarks/measure/vllm_worker.py JOB.json RESULT.json

The job has `model` (a folder), `prompts` (lists of tokens), `labels` (token ids), `repeats`, and
`enough_seconds`, after which passes are not repeated.
On a CPU vLLM keeps one core for its scheduler, which never sleeps, and computes on the others.
"""

import json
import sys
import time
from pathlib import Path


def main(job_path: str, result_path: str) -> None:
    """The command of this file."""
    import vllm

    job = json.loads(Path(job_path).read_text())
    longest = max(map(len, job["prompts"]))
    model = vllm.LLM(
        job["model"],
        dtype="float32",
        enable_prefix_caching=True,
        block_size=32,
        max_model_len=longest + 1,
        # On CPU too, the share of all memory that must be free at the start.
        gpu_memory_utilization=0.5,
        disable_log_stats=True,
    )
    parameters = vllm.SamplingParams(max_tokens=1, logprob_token_ids=job["labels"])
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    model.generate(prompts[:1], parameters, use_tqdm=False)
    seconds: list[float] = []
    while len(seconds) < job["repeats"] and sum(seconds) < job["enough_seconds"]:
        model.reset_prefix_cache()
        start = time.perf_counter()
        outputs = model.generate(prompts, parameters, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
    log_probs = [
        [output.outputs[0].logprobs[0][label].logprob for label in job["labels"]]
        for output in outputs
    ]
    result = {"seconds": seconds, "log_probs": log_probs, "version": vllm.__version__}
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
