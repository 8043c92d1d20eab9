"""The files of a model folder: which are there, and what lies there in place of them."""

import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from icmjax.errors import CheckpointError, Fault

CONFIG_FILE, SETTINGS_FILE = "config.json", "icmjax.json"
GENERATION_FILE, TOKENIZER_FILE = "generation_config.json", "tokenizer.json"
SINGLE_FILE, SHARD_INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_FILE, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What transformers reads beside the tokenizer; none of them has to be there.
TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARY_FILES = ("vocab.json", "merges.txt")  # together they are a tokenizer too
# Left by tools that quantise weights, whether or not config.json says so.
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")

FETCH_AGAIN = "Fetch the file again."
SAVE_AGAIN = (
    "Save it again with transformers: "
    "AutoModelForCausalLM.from_pretrained(name).save_pretrained(folder)"
)
USE_FULL_WEIGHTS = "Use the model in float32, bfloat16 or float16, as it was before."
MERGE_ADAPTER = (
    "Merge it into its base model with peft: model.merge_and_unload().save_pretrained(folder); "
    "then save the tokenizer there too."
)


def check_file(path: Path) -> Fault | None:
    """Return a fault where a path that has to be a file with content is something else."""
    found = None
    try:
        if path.is_dir():
            found, remedy = "a folder", "Remove the folder, and fetch the file."
        else:
            with path.open("rb") as file:
                start = file.read(64)
            if not start:
                found, remedy = "an empty file", FETCH_AGAIN
            elif start.startswith(b"version https://git-lfs"):
                found = "a pointer of git-lfs, which stands for the file"
                remedy = "Fetch the file itself: git lfs pull"
    except OSError as error:
        found, remedy = error.strerror or type(error).__name__, "Make the file readable."
    return None if found is None else Fault("The file must be whole.", found, str(path), remedy)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        CheckpointError: It is no such file.
    """
    fault = check_file(path)
    if fault is not None:
        raise CheckpointError(fault)
    rule, remedy = "The file must hold one JSON object.", FETCH_AGAIN
    try:
        content = json.loads(path.read_bytes().decode())
        # JSON may name half a surrogate pair, which is no text and can be no file's name.
        json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        found = f"no JSON: {error}"
    except UnicodeDecodeError:
        found = "bytes that are not UTF-8"
    except UnicodeEncodeError:
        found = "half of a surrogate pair, which is no text"
    except ValueError:
        found = "a number of too many digits"
    except RecursionError:
        found = "lists or objects that are nested too deep"
    except OSError as error:
        found, remedy = error.strerror or type(error).__name__, "Make the file readable."
    else:
        if isinstance(content, dict):
            return content
        found = f"a {type(content).__name__}"
    raise CheckpointError(Fault(rule, found, str(path), remedy))


def read_objects(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the JSON files of a folder by their names; those that are absent are empty.

    Raises:
        CheckpointError: The folder holds no model, no tokenizer, or files that are damaged; all
            of which are reported together.
    """
    faults = [*_model_faults(folder), *_tokenizer_faults(folder)]
    optional = (GENERATION_FILE, SETTINGS_FILE, *TOKENIZER_SETTINGS)
    objects: dict[str, dict[str, Any]] = {name: {} for name in optional}
    for name in (CONFIG_FILE, *optional):
        if (folder / name).exists():
            try:
                objects[name] = read_object(folder / name)
            except CheckpointError as error:
                faults += error.faults
    if faults:
        raise CheckpointError(faults)
    return objects


def _model_faults(folder: Path) -> Iterator[Fault]:
    if not (folder / CONFIG_FILE).exists():
        rule = "A model folder holds the model's configuration."
        found, remedy = f"no {CONFIG_FILE}", SAVE_AGAIN
        if (folder / ADAPTER_FILE).exists():
            found = f"an adapter, which changes a model that is elsewhere ({ADAPTER_FILE})"
            remedy = MERGE_ADAPTER
        elif foreign := foreign_weights(path.name for path in folder.iterdir()):
            found, remedy = f"no {CONFIG_FILE}, but {foreign[0]}", foreign[1]
        yield Fault(rule, found, str(folder), remedy)
    for name in QUANTISED_FILES:
        if (folder / name).exists():
            rule = "Weights are read in full precision."
            found = "a file that tools write beside quantised weights"
            yield Fault(rule, found, str(folder / name), USE_FULL_WEIGHTS)


def _tokenizer_faults(folder: Path) -> Iterator[Fault]:
    if (folder / TOKENIZER_FILE).exists():
        names: tuple[str, ...] = (TOKENIZER_FILE,)
    elif all((folder / name).exists() for name in VOCABULARY_FILES):
        names = VOCABULARY_FILES
    else:
        yield _no_tokenizer(folder)
        return
    for name in names:
        fault = check_file(folder / name)
        if fault is not None:
            yield fault


def _no_tokenizer(folder: Path) -> Fault:
    rule = f"A model folder holds the model's tokenizer as {TOKENIZER_FILE}."
    remedy = "Save it too with transformers: tokenizer.save_pretrained(folder)."
    for name, what, convert in FOREIGN_TOKENIZERS:
        if (folder / name).exists():
            return Fault(rule, f"{name} alone, {what}", str(folder), convert)
    return Fault(rule, "none", str(folder), remedy)


FOREIGN_TOKENIZERS = (
    (
        "tokenizer.model",
        "sentencepiece's own format",
        "Install sentencepiece and protobuf, and convert it: "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
    ),
    (
        "tekken.json",
        "Mistral's own format",
        f"Take {TOKENIZER_FILE} and tokenizer_config.json from a copy of the model that has them.",
    ),
)


def weights_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Return a folder's safetensors files, and by an index the file of each tensor.

    Raises:
        CheckpointError: There are none, one is absent or damaged, or the index is no index.
    """
    if (folder / SINGLE_FILE).exists():
        return _whole([folder / SINGLE_FILE]), {}
    if not (folder / SHARD_INDEX).exists():
        names = [path.name for path in folder.iterdir()]
        found, remedy = foreign_weights(names) or ("no weights at all", SAVE_AGAIN)
        rule = f"A model folder holds its weights as safetensors, in {SINGLE_FILE} or by an index."
        raise CheckpointError(Fault(rule, found, str(folder), remedy))
    index, where = read_object(folder / SHARD_INDEX).get("weight_map"), str(folder / SHARD_INDEX)
    is_index = isinstance(index, dict) and all(isinstance(name, str) for name in index.values())
    if not is_index or not index or any(Path(name).name != name for name in index.values()):
        rule = "An index names for every tensor a file of the folder, as weight_map."
        raise CheckpointError(Fault(rule, "none, or other names", where, FETCH_AGAIN))
    shards = sorted(set(index.values()))
    absent = [shard for shard in shards if not (folder / shard).exists()]
    if absent:
        rule = "Every file that the index names is there."
        found = f"{len(absent)} of {len(shards)} shards absent: {', '.join(absent)}"
        raise CheckpointError(Fault(rule, found, where, "Fetch the shards that are absent."))
    return _whole([folder / shard for shard in shards]), index


def _whole(paths: list[Path]) -> list[Path]:
    faults = [fault for fault in map(check_file, paths) if fault is not None]
    if faults:
        raise CheckpointError(faults)
    return paths


def foreign_weights(names: Iterable[str]) -> tuple[str, str] | None:
    """Say what files of these names hold in place of weights that can be read, and what to do."""
    names = sorted(names)
    for pattern, what, remedy in FOREIGN_WEIGHTS:
        fitting = [name for name in names if fnmatch(name.rpartition("/")[2], pattern)]
        if fitting:
            more = f" and {len(fitting) - 1} more" if len(fitting) > 1 else ""
            return f"only {fitting[0]}{more}: {what}", remedy
    return None


GGUF = "a GGUF file, llama.cpp's format"
FOREIGN_WEIGHTS = (
    ("adapter_model.*", "an adapter, which changes a model that is elsewhere", MERGE_ADAPTER),
    (
        "consolidated*.safetensors",
        "weights by Mistral's own names",
        f"Fetch {SINGLE_FILE}, or the shards and {SHARD_INDEX}, of the same model.",
    ),
    (
        "*.safetensors",
        "safetensors without their index",
        f"Fetch {SHARD_INDEX} too, or give one file the name {SINGLE_FILE}.",
    ),
    ("*.gguf", GGUF, "Give the model in the Hugging Face format that it was made from."),
    (
        "consolidated*.pth",
        "Meta's own format",
        "Fetch the model in the Hugging Face format; Llama 2's names end in -hf.",
    ),
    ("*.pth", "pickled weights of torch", SAVE_AGAIN),
    ("*.bin", "pickled weights of torch", SAVE_AGAIN),
)
