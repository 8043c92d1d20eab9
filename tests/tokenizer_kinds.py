"""Small tokenizers built as those of published families are, trained on a few sentences."""

from collections.abc import Iterable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Question: What do people drink?\nClaim: People from Japan would say: 'Tea'\n",
    "I think this claim is True\n\nQuestion: I think this claim is False\n\nClaim: ",
    "Claim: no\nClaim: maybe\nClaim: yes\nClaim: perhaps\nClaim: true indeed\n" * 3,
    "Query: Response A: Response B: is more helpful and harmless than the other\n",
    "a  b   c    d\n\n\ne (A)\n\n(B)\n\n 'quoted' \"twice\" … don't I'm 1234 12 ",
    "café naïve 日本 何 говорят Ünïcode e\u0301 \u00a0 x\n \n y\t\tz ",
] * 4
# The splits that Llama 3 and Qwen 2 publish in their tokenizer.json: digits by threes, by ones.
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<s>", "</s>", "<pad>"]


def _train(tokenizer: Tokenizer, alphabet: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(alphabet),
        special_tokens=SPECIAL,
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _byte_level(split: pre_tokenizers.PreTokenizer | None, vocab_size: int = 460) -> Tokenizer:
    """A split of the family's, then bytes; GPT-2's own split where there is none."""
    tokenizer = Tokenizer(models.BPE())
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = own if split is None else pre_tokenizers.Sequence([split, own])
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), vocab_size)


def _with_bos() -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )


def gpt2() -> Tokenizer:
    """GPT-2: a first token is named and never added; its offsets leave spaces out."""
    tokenizer = _byte_level(None)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def smollm2() -> Tokenizer:
    """SmolLM2: digits one by one, then GPT-2's split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), 460)


def llama3() -> Tokenizer:
    """Llama 3: line breaks go with punctuation before them; offsets are trimmed, BOS is added."""
    tokenizer = _byte_level(pre_tokenizers.Split(Regex(CL100K), "isolated"))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), _with_bos()]
    )
    return tokenizer


def qwen2() -> Tokenizer:
    """Qwen 2 and 3: as Llama 3, in Unicode's composed form, with no first token."""
    split = pre_tokenizers.Split(Regex(CL100K.replace(r"\p{N}{1,3}", r"\p{N}")), "isolated")
    tokenizer = _byte_level(split)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _sentencepiece(breaks: tuple[str, ...] = (), vocab_size: int = 420) -> Tokenizer:
    """Pieces with ▁ for spaces, trained by words, and bytes for what is not in the vocabulary."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, min_frequency=1)
    ascii_alone = ["".join(c if c.isascii() else " " for c in text) for text in CORPUS]
    trained.train_from_iterator([text.replace("\n", " ") for text in ascii_alone], trainer)
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    names = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *breaks, *learned]
    vocab = {name: index for index, name in enumerate(dict.fromkeys(names))}
    merges = [
        (piece[:cut], piece[cut:])
        for piece in learned
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    merges += [("\n", each[1:]) for each in breaks[1:]]
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))


def llama2() -> Tokenizer:
    """Llama 2: a space is put before every text, so that first words differ from later ones."""
    tokenizer = _sentencepiece()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.post_processor = _with_bos()
    return tokenizer


def gemma() -> Tokenizer:
    """Gemma 2 and 3: spaces are ▁, line breaks join, nothing is put before a text but BOS."""
    tokenizer = _sentencepiece(breaks=("\n", "\n\n", "\n\n\n"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.post_processor = _with_bos()
    return tokenizer


KINDS = {make.__name__: make for make in (gpt2, smollm2, llama3, qwen2, llama2, gemma)}


def make_kind(name: str, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a family; all name a first token, and not all add it."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | special
    if name in ("llama2", "gemma"):
        special["unk_token"] = "<unk>"
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[name](), **special)
