"""The tokenizer of a model folder, when two are alike, and the tokens that end a text."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from icmjax.errors import CheckpointError, Fault
from icmjax.lm.files import CONFIG_FILE, GENERATION_FILE, TOKENIZER_FILE
from icmjax.lm.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# What transformers raises where a tokenizer's files are damaged; it has no error of its own.
DAMAGE = (
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    ImportError,
    RecursionError,
)

# What transformers reads a tokenizer from; a folder may hold other files, large or unreadable.
READ_FROM = (
    TOKENIZER_FILE,
    CONFIG_FILE,
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_digests: "WeakKeyDictionary[PreTrainedTokenizerBase, bytes]" = WeakKeyDictionary()


class OfFiles:
    """A tokenizer that equals another where both were read from files of the same bytes.

    Transformers compares tokenizers by identity, so that the programs of a model would serve no
    other reading of its folder.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase | None") -> None:
        self.tokenizer = tokenizer
        self._key = None if tokenizer is None else _digests.get(tokenizer, id(tokenizer))

    def __eq__(self, other: object) -> bool:
        """Whether both are of the same files, or the same object where no files are known."""
        return isinstance(other, OfFiles) and self._key == other._key

    def __hash__(self) -> int:
        """The hash of what is compared."""
        return hash(self._key)


def _digest(folder: Path) -> bytes:
    digest = hashlib.sha256()
    for name in READ_FROM:
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.digest()


def read_tokenizer(folder: Path, hf_config: "PretrainedConfig") -> "PreTrainedTokenizerBase":
    """Read a folder's tokenizer, without running Python that comes with it.

    Raises:
        CheckpointError: Its files are damaged, or it is none of transformers' fast tokenizers.
    """
    # By its name transformers knows models whose files name a wrong tokenizer.
    hf_config.name_or_path = str(folder)
    with quiet_transformers():
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=hf_config, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            # The tokenizers library raises Exception itself, which has no narrower name.
            if type(error) is not Exception and not isinstance(error, DAMAGE):
                raise
            raise CheckpointError(
                Fault(
                    rule="The tokenizer must be one that transformers reads by itself.",
                    found=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
                    where=str(folder / TOKENIZER_FILE),
                    remedy="Fetch the tokenizer's files again. Python that comes with a model is "
                    "never run: such a tokenizer has to be saved as one of transformers' own.",
                )
            ) from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            Fault(
                rule=f"The tokenizer must be a fast one, which is kept in {TOKENIZER_FILE}.",
                found=type(tokenizer).__name__,
                where=str(folder),
                remedy=f"Take {TOKENIZER_FILE} from a copy of the model that has it.",
            )
        )
    _digests[tokenizer] = _digest(folder)
    return tokenizer


def eos_token_ids(
    objects: Mapping[str, Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[int, ...]:
    """Return the tokens that end a text: the generation's, else the model's or the tokenizer's.

    Args:
        objects: The JSON files of a model folder by their names.
        tokenizer: The folder's tokenizer.

    Raises:
        CheckpointError: A file names something else than tokens.
    """
    for name in (GENERATION_FILE, CONFIG_FILE):
        value = objects[name].get("eos_token_id")
        if value is None:
            continue
        tokens = value if isinstance(value, list) else [value]
        if all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            return tuple(dict.fromkeys(tokens))
        raise CheckpointError(
            Fault(
                rule="eos_token_id is a token's number, or a list of them.",
                found=repr(value),
                where=f"{name}: eos_token_id",
                remedy="Use the file that belongs to the weights.",
            )
        )
    return () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
