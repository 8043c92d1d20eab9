"""Loading a language model: its configuration, weights and tokenizer in one immutable value."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from icmjax.errors import CheckpointError, Fault, InputError
from icmjax.lm.adapters import is_adapter, read_adapter
from icmjax.lm.config import DecoderConfig, Implementation, Platform
from icmjax.lm.decoder import Decoder
from icmjax.lm.files import (
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    GGUF,
    SETTINGS_FILE,
    SHARD_INDEX,
    SINGLE_FILE,
    TOKENIZER_FILE,
    foreign_weights,
    read_objects,
)
from icmjax.lm.fused import check_attention
from icmjax.lm.hf_config import read_config
from icmjax.lm.quantized import Quantization, check_quantization
from icmjax.lm.reading import read_params
from icmjax.lm.sharding import default_mesh, spread_config, weights_on
from icmjax.lm.tokenizer import OfFiles, eos_token_ids, read_tokenizer
from icmjax.notebooks import facts_html, let_bars_be_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUNDLED = ("persona-world", "persona-world-acquiescent")
BUNDLED_MODELS = Path(__file__).parents[1] / "persona_world" / "models"
DTYPES = ("float32", "bfloat16", "float16")
# Not all safetensors: some repositories hold their weights twice, the second time by other names.
HUB_PATTERNS = [
    "model*.safetensors",
    "adapter_model.safetensors",
    "*.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
]
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, repr=False)
class LanguageModel:
    """A decoder with its weights and its tokenizer; a pytree whose leaves are the weights.

    Two models share a compiled program where all that is no weight is equal: one that is read from
    the same folder again compiles nothing.
    """

    config: DecoderConfig
    params: nnx.State  # of the decoder
    graphdef: nnx.GraphDef[Decoder]
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    default_template: str | None = None  # the template its folder asks for
    eos_token_ids: tuple[int, ...] = ()  # each of which ends a text
    ignored_fields: tuple[str, ...] = ()  # of config.json, which transformers ignores too
    mesh: Mesh | None = None  # the devices that share the work; None where there is one

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, nnx.State]], tuple[Any, ...]]:
        """The weights, and all that is not weights."""
        beside = {**vars(self), "tokenizer": OfFiles(self.tokenizer)}
        params = beside.pop("params")
        return ((jax.tree_util.GetAttrKey("params"), params),), tuple(beside.items())

    @classmethod
    def tree_unflatten(cls, beside: tuple[Any, ...], children: tuple[nnx.State]) -> "LanguageModel":
        """The model of what `tree_flatten_with_keys` gave."""
        (params,), values = children, dict(beside)
        return cls(params=params, **values | {"tokenizer": values["tokenizer"].tokenizer})

    def __repr__(self) -> str:
        """Return its name and its sizes; the weights are too many to show."""
        name = self.name if len(self.name) <= 40 else f"...{self.name[-37:]}"
        return f"LanguageModel({name!r}, {self.config!r})"

    def _repr_html_(self) -> str:
        sizes = [leaf.size for leaf in jax.tree.leaves(self.params)]
        facts = {
            "weights": f"{sum(sizes):,}",
            "layers": self.config.num_layers,
            "hidden size": self.config.hidden_size,
            "vocabulary": f"{self.config.vocab_size:,}",
            "most tokens": f"{self.max_length:,}",
            "template": self.default_template or "the data's",
            "devices": 1 if self.mesh is None else self.mesh.size,
        }
        return facts_html(self.name, facts)

    @property
    def max_length(self) -> int:
        """The number of tokens that the model was made for."""
        return self.config.max_length

    def decoder(self) -> Decoder:
        """Return the decoder with these weights."""
        return nnx.merge(self.graphdef, self.params)


def load_lm(
    name_or_path: str | Path,
    dtype: str = "float32",
    attention: Implementation = "einsum",
    max_length: int | None = None,
    revision: str | None = None,
    on_read: Callable[[int, int], None] | None = None,
    mesh: Mesh | Literal["auto"] | None = None,
    quantize: Quantization | None = None,
) -> LanguageModel:
    """Load a language model in the Hugging Face format, without torch.

    Args:
        name_or_path: A folder, of a model or of a LoRA adapter that names its base model, which
            is merged with it; or a bundled model, "persona-world" or "persona-world-acquiescent";
            or the id of a model on the Hugging Face hub, "owner/name", which is fetched into its
            cache.
        dtype: Of the weights and of the activations: "float32", "bfloat16" or "float16".
        attention: "einsum" runs everywhere and for every model; "flash" is our own kernel, on TPUs
            and NVIDIA GPUs and for every model; "cudnn" is NVIDIA's fused kernel, in 16 bits and
            for models that do not cap their scores; "xla" is the same way of calling it without
            the kernel, to compare with.
        max_length: Tokens that prompts may have; None for what the model was made for, see
            `config_from_hf`.
        revision: Of a hub id: a branch, a tag or a commit; None for the newest.
        on_read: Is told how many bytes of the weights lie on devices and how many will, before
            the first is read and after each parameter.
        mesh: Devices that share the work, see `make_mesh`; "auto" for all that are there, see
            `default_mesh`, but for those of one process on a CPU; None for the default device.
            Each reads its own part of the weights alone.
        quantize: "int8" or "int4": kernels of layers are kept in so few bits, which saves memory
            and no time. It changes the scores; `docs/models.md` says by how much.

    Raises:
        InputError: The devices of the mesh cannot share the weights evenly.
        CheckpointError: The folder or one of its files is absent, damaged or in another format, or
            holds what does not fit; the dtype is another; or the attention asked for cannot run
            here.
    """
    check_quantization(quantize)
    if dtype not in DTYPES:
        rule = "Weights and activations are of one of three types; none of them is quantised."
        remedy = f"Give one of {', '.join(DTYPES)}."
        raise CheckpointError(Fault(rule, repr(dtype), "dtype", remedy))
    folder, tokenizer_folder, adapter = _find_folder(str(name_or_path), revision), None, None
    if is_adapter(folder):
        adapter = read_adapter(folder)
        tokenizer_folder, folder = folder, _find_folder(adapter.base)
    objects = read_objects(folder)
    read = read_config(objects[CONFIG_FILE], max_length)
    if isinstance(mesh, str):
        mesh = _mesh_of(mesh, read.config)
    config = replace(read.config, attention=attention, platform=platform_of(mesh))
    check_attention(config, dtype)
    template = _template(objects[SETTINGS_FILE])
    # An adapter may come with a tokenizer of its own, or leave the base's as it is.
    if tokenizer_folder is None or not (tokenizer_folder / TOKENIZER_FILE).exists():
        tokenizer_folder = folder
    tokenizer = read_tokenizer(tokenizer_folder, read.hf_config)
    end = eos_token_ids(objects, tokenizer)
    given = config
    if mesh is not None:
        config = spread_config(config, mesh)
    params = read_params(
        folder,
        given,
        jnp.dtype(dtype),
        read.layout,
        {} if adapter is None else adapter.deltas,
        sharding_fn=None if mesh is None else weights_on(mesh, config),
        spread=config,
        on_read=on_read,
        quantize=quantize,
    )
    abstract = nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0), jnp.dtype(dtype)))
    return LanguageModel(
        config=config,
        params=params,
        graphdef=nnx.split(abstract)[0],
        tokenizer=tokenizer,
        name=str(name_or_path),
        default_template=template,
        eos_token_ids=end,
        ignored_fields=read.ignored_fields,
        mesh=mesh,
    )


def _mesh_of(name: str, config: DecoderConfig) -> Mesh | None:
    if name != "auto":
        rule, remedy = "A mesh is of devices.", 'give one by make_mesh, or "auto", or None'
        raise InputError(Fault(rule, repr(name), "mesh", remedy))
    # Devices of a CPU are one machine's cores, which one device has use for already.
    is_alone = platform_of() == "cpu" and jax.process_count() == 1
    return None if is_alone else default_mesh(config)


def platform_of(mesh: Mesh | None = None) -> Platform:
    """The platform of a mesh's devices; None for the default device."""
    devices = jnp.zeros(()).devices() if mesh is None else mesh.devices.flat
    platform = next(iter(devices)).platform
    return "gpu" if platform in ("gpu", "cuda", "rocm") else "tpu" if platform == "tpu" else "cpu"


def _find_folder(name: str, revision: str | None = None) -> Path:
    is_hub_id = name not in BUNDLED and not Path(name).exists() and HUB_ID.fullmatch(name)
    if is_hub_id:
        return _download(name, revision)
    if revision is not None:
        rule, remedy = "A model on the hub has revisions.", "Give a hub id, or no revision."
        raise CheckpointError(Fault(rule, f"revision {revision!r}", name, remedy))
    if name in BUNDLED:
        folder = BUNDLED_MODELS / name
        remedy = "Make it: python -m icmjax.persona_world.pretrain"
        rule = "A bundled model must have been trained."
    else:
        folder = Path(name)
        near = difflib.get_close_matches(name, BUNDLED, n=1)
        remedy = f"Did you mean {near[0]}? " if near else ""
        known = ", ".join(BUNDLED)
        remedy += f"Give a folder, a hub id such as Qwen/Qwen3-0.6B, or one of {known}."
        rule = "A model is a folder, a bundled model or a model on the Hugging Face hub."
    if folder.is_dir():
        return folder
    found = "no such folder"
    if folder.is_file():
        found = "a file"
        if folder.suffix == ".gguf":
            found = GGUF
            remedy = "Give the model in the Hugging Face format that it was made from."
        elif folder.suffix in (".safetensors", ".json", ".bin", ".pth", ".pt"):
            remedy = "Give the folder that the file is in."
    raise CheckpointError(Fault(rule, found, str(folder), remedy))


def _download(hub_id: str, revision: str | None) -> Path:
    let_bars_be_plain()
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=HUB_PATTERNS))
        if any((folder / name).exists() for name in (SINGLE_FILE, SHARD_INDEX, ADAPTER_WEIGHTS)):
            return folder
        foreign = foreign_weights(HfApi().list_repo_files(hub_id, revision=revision))
    # No such model, or none here while offline; no connection, or no space; no name of a model.
    except (OSError, HTTPError, OfflineModeIsEnabled, HFValidationError) as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            found = "no network, and no copy of the model on this machine"
        raise CheckpointError(
            Fault(
                rule="A name that is no folder must be a model on the Hugging Face hub.",
                found=found,
                where=hub_id,
                remedy="Check the name and the connection, or give the folder of a copy; a gated "
                "model needs a login: hf auth login",
            )
        ) from error
    if foreign is None:
        return folder
    found, remedy = foreign
    rule = f"A model on the hub holds its weights as safetensors: {SINGLE_FILE}, or an index."
    raise CheckpointError(Fault(rule, found, hub_id, remedy))


def _template(settings: Mapping[str, Any]) -> str | None:
    """Return the template by what icmjax itself keeps beside a model."""
    unknown = sorted(settings.keys() - {"template"})
    template = settings.get("template")
    if not unknown and (template is None or isinstance(template, str)):
        return template
    raise CheckpointError(
        Fault(
            rule=f"{SETTINGS_FILE} names the model's template and nothing else.",
            found=", ".join(unknown) or f"template = {template!r}",
            where=SETTINGS_FILE,
            remedy="Remove the other fields." if unknown else "Give the template's name.",
        )
    )
