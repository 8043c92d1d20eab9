"""Tokens: pieces join to the prompt, arrays are padded on the right, and nothing is ever cut."""

import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from icmjax.claims import BINARY_OPTIONS, Claim, ClaimSet, claims_from_rows, load_claims
from icmjax.claims.consistency import no_rules
from icmjax.errors import PromptError
from icmjax.prompts import (
    TEMPLATES,
    Template,
    check_prompt_lengths,
    get_template,
    prompt_lengths,
    tokenize_claims,
)

CORPUS = [
    "Question: What do people drink?\nClaim: People from Japan would say: 'Tea'\n",
    "I think this claim is True\n\nI think this claim is False\n\n",
    "Claim: no\nClaim: maybe\nClaim: yes\nClaim: perhaps\nClaim: true indeed\n" * 3,
    "Query: Response A: Response B: is more helpful and harmless than the other\n",
]


def train_bpe(**special) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, as GPT-2, Llama 3 and Qwen have: an open vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(bos_token="<s>")


def make_words(*words) -> PreTrainedTokenizerFast:
    """A closed vocabulary, where the space belongs to the word after it."""
    vocab = {word: index for index, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s?[A-Za-z]+:?|\?"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def make_sentencepiece() -> PreTrainedTokenizerFast:
    """A space goes before every text and unknown characters fall back to bytes, as in Llama 2."""
    words = ["Question:", "Claim:", "I", "think", "this", "claim", "is", "True", "False", "tea"]
    vocab, merges = {"<unk>": 0, "<s>": 1}, []
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for piece in ["▁", *sorted({letter for word in words for letter in word})]:
        vocab[piece] = len(vocab)
    for word in words:
        ends = range(2, len(word) + 1)
        for left, right in [*((word[: end - 1], word[end - 1]) for end in ends), ("▁", word)]:
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append((left, right))
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def make_claims(*choices, preamble="", options=BINARY_OPTIONS, choice_2=None) -> ClaimSet:
    claims = tuple(
        Claim(str(index), "p", str(index), f"Question {index}?", choice, choice_2)
        for index, choice in enumerate(choices)
    )
    return ClaimSet(claims, no_rules(len(options)), None, preamble, options)


def pieces_of(tokens, order, labels, query):
    """The tokens of a prompt, from the padded arrays."""
    ids = list(tokens.preamble)
    for claim in order:
        length = tokens.demonstration_lengths[claim, labels[claim]]
        ids += list(tokens.demonstrations[claim, labels[claim], :length])
    return ids + list(tokens.queries[query, : tokens.query_lengths[query]])


def faults_of(call, *args, **kwargs):
    with pytest.raises(PromptError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(any_text, min_size=2, max_size=4),
    any_text,
    st.sampled_from(sorted(TEMPLATES)),
    st.data(),
)
def test_pieces_join_to_the_tokens_of_the_prompt(bpe, choices, preamble, name, data):
    claims = make_claims(*choices, preamble=preamble, choice_2="tea")
    template = get_template(name)
    tokens = tokenize_claims(claims, template, bpe)
    order = data.draw(st.permutations(range(len(choices))))
    labels = data.draw(st.lists(st.integers(0, 1), min_size=len(order), max_size=len(order)))
    *shown, query = order

    ids = pieces_of(tokens, shown, labels, query)
    demonstrations = [(claims.claims[index], labels[index]) for index in shown]
    prompt = template.prompt_text(preamble, demonstrations, claims.claims[query])
    assert ids[0] == bpe.bos_token_id
    assert bpe.decode(ids[1:], clean_up_tokenization_spaces=False) == prompt

    parts = [template.preamble_text(preamble)]
    for claim, label in demonstrations:
        parts += [template.query_fn(claim), template.label_forms[label][0], template.separator]
    parts.append(template.query_fn(claims.claims[query]))
    apart = [bpe(part, add_special_tokens=False)["input_ids"] for part in parts]
    assert ids[1:] == list(itertools.chain(*apart))


@settings(max_examples=30, deadline=None)
@given(st.lists(any_text, min_size=2, max_size=5))
def test_rows_are_padded_on_the_right_with_zeros(bpe, choices):
    tokens = tokenize_claims(make_claims(*choices), get_template("truth"), bpe)
    padded = (
        (tokens.queries, tokens.query_lengths),
        (tokens.demonstrations, tokens.demonstration_lengths),
        (tokens.label_forms, tokens.label_form_lengths),
    )
    for array, lengths in padded:
        assert array.dtype == lengths.dtype == np.int32
        assert array.shape[:-1] == lengths.shape
        assert lengths.max() == array.shape[-1], "wider than its longest row"
        is_padding = np.arange(array.shape[-1]) >= lengths[..., None]
        assert not array[is_padding].any()
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tokens))
    queries_in_demonstrations = tokens.demonstrations[:, :, : tokens.queries.shape[1]]
    is_query = np.arange(tokens.queries.shape[1]) < tokens.query_lengths[:, None, None]
    same = queries_in_demonstrations == tokens.queries[:, None]
    assert (same | ~is_query).all()


@pytest.mark.parametrize("has_bos", [True, False])
def test_the_preamble_begins_with_the_bos_that_a_tokenizer_has(has_bos):
    tokenizer = train_bpe(**({"bos_token": "<s>"} if has_bos else {}))
    (bos,) = tokenizer.convert_tokens_to_ids(["<s>"])
    bare = tokenize_claims(make_claims("a", "b"), get_template("truth"), tokenizer)
    assert bare.preamble.tolist() == ([bos] if has_bos else [])
    claims = make_claims("a", "b", preamble="Tea.")
    opened = tokenize_claims(claims, get_template("truth"), tokenizer)
    text = tokenizer("Tea.\n\n", add_special_tokens=False)["input_ids"]
    assert opened.preamble.tolist() == bare.preamble.tolist() + text


def test_names_of_special_tokens_in_a_claim_are_plain_text(bpe):
    tokens = tokenize_claims(make_claims("<s> tea", "b"), get_template("truth"), bpe)
    assert bpe.bos_token_id not in tokens.queries[0, : tokens.query_lengths[0]]
    assert tokens.preamble.tolist() == [bpe.bos_token_id]
    assert bpe("<s>", add_special_tokens=False)["input_ids"] == [bpe.bos_token_id]


def test_options_have_as_many_forms_as_they_like(bpe):
    forms = ((" no",), (" True", " true indeed"), (" maybe", "\nwell", " perhaps"))
    template = Template("forms", get_template("truth").query_fn, forms, "\n")
    claims = make_claims("a", "b", options=("no", "true", "maybe"))
    tokens = tokenize_claims(claims, template, bpe)
    assert tokens.label_forms.shape[:2] == (3, 3)
    np.testing.assert_array_equal(tokens.label_form_lengths > 0, [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    for option, texts in enumerate(forms):
        for form, text in enumerate(texts):
            ids = tokens.label_forms[option, form, : tokens.label_form_lengths[option, form]]
            assert bpe.decode(ids, clean_up_tokenization_spaces=False) == text
        shown = tokens.demonstrations[0, option, : tokens.demonstration_lengths[0, option]]
        text = bpe.decode(shown, clean_up_tokenization_spaces=False)
        assert text.endswith(f"claim is{texts[0]}\n")


# SentencePiece.


def test_no_space_is_put_before_a_piece():
    tokenizer = make_sentencepiece()
    template = get_template("truth")
    claims = make_claims("tea is", "is ünknown")
    tokens = tokenize_claims(claims, template, tokenizer)
    labels = [tokenizer.convert_ids_to_tokens(form) for form in tokens.label_forms[:, 0].tolist()]
    assert labels == [["▁False"], ["▁True"]]
    ids = pieces_of(tokens, [0], [1, 1], 1)
    prompt = template.prompt_text("", [(claims.claims[0], 1)], claims.claims[1])
    assert tokenizer.decode(ids[1:]) == prompt
    # Apart or in one: the space that the tokenizer adds before the whole text is all that differs.
    whole = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(whole) == " " + prompt
    assert ids[-8:] == whole[-8:]


def test_a_space_that_merges_with_a_line_break_is_refused():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, min_frequency=1, show_progress=False
    )
    tokenizer.train_from_iterator(["\n", "\n\n"], trainer)
    spaced = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    faults = faults_of(tokenize_claims, make_claims("a", "b"), get_template("truth"), spaced)
    assert "add_prefix_space" in faults[0].remedy


# Faults.


def test_labels_that_begin_alike_are_refused(bpe):
    forms = ((" xylophone",), (" xylograph",))
    template = Template("alike", get_template("truth").query_fn, forms, "\n")
    (fault,) = faults_of(tokenize_claims, make_claims("a", "b"), template, bpe)
    assert "first token" in fault.rule
    assert " xylophone" in fault.found


def test_a_form_that_begins_with_another_one_is_refused(bpe):
    forms = ((" no",), (" True", " True\n", " True"))
    template = Template("twice", get_template("truth").query_fn, forms, "\n")
    faults = faults_of(tokenize_claims, make_claims("a", "b"), template, bpe)
    assert len(faults) == 3
    assert all("begins with another one" in fault.rule for fault in faults)


def test_a_label_without_tokens_is_refused(bpe):
    template = Template("empty", get_template("truth").query_fn, (("",), (" True",)), "\n")
    (fault,) = faults_of(tokenize_claims, make_claims("a", "b"), template, bpe)
    assert fault.found == "''"


def test_unknown_words_are_named():
    words = ["\nTaxes", "\nDams", " can", " help:", " True", " False", "Poll"]
    tokenizer = make_words(*words)
    known = make_claims("Taxes can help", "Dams can help")
    tokens = tokenize_claims(known, get_template("world"), tokenizer)
    assert tokens.query_lengths.tolist() == [3, 3]
    unknown = make_claims("Taxes can help", "Dams must help, must", preamble="Poll Poll")
    preamble, claim = faults_of(tokenize_claims, unknown, get_template("world"), tokenizer)
    assert (preamble.where, "' Poll'" in preamble.found) == ("the preamble", True)
    assert claim.where == "claim '1'"
    assert claim.found.endswith("know: ' must', ' help', ',', ' must:'")
    faults = faults_of(tokenize_claims, known, get_template("truth"), tokenizer)
    assert {fault.where for fault in faults} == {"the separator", "claim '0'", "claim '1'"}


def test_a_label_outside_of_the_vocabulary_is_refused():
    tokenizer = make_words("\nTaxes", "\nDams", " can", " help:", " True")
    known = make_claims("Taxes can help", "Dams can help")
    (fault,) = faults_of(tokenize_claims, known, get_template("world"), tokenizer)
    assert fault.found == "' False'"


def test_a_template_fits_its_claims(bpe):
    three = make_claims("a", "b", options=("no", "maybe", "yes"))
    (fault,) = faults_of(tokenize_claims, three, get_template("truth"), bpe)
    assert "for_options" in fault.remedy
    template = get_template("truth").for_options(three.options)
    assert tokenize_claims(three, template, bpe).demonstrations.shape[1] == 3
    (fault,) = faults_of(tokenize_claims, make_claims("a", "b"), get_template("preference"), bpe)
    assert "choice_2" in fault.found


# Lengths.


def naive_lengths(tokens, context_size):
    num_claims, num_options = tokens.demonstration_lengths.shape
    lengths = []
    for query in range(num_claims):
        others = [
            max(int(tokens.demonstration_lengths[i, y]) for y in range(num_options))
            for i in range(num_claims)
            if i != query
        ]
        read = sorted(others, reverse=True)[:context_size]
        own = int(tokens.query_lengths[query]) + int(tokens.label_form_lengths.max())
        lengths.append(len(tokens.preamble) + sum(read) + own)
    return lengths


@settings(max_examples=40, deadline=None)
@given(st.lists(any_text, min_size=1, max_size=5), st.none() | st.integers(0, 6))
def test_prompt_lengths_are_those_of_a_naive_count(bpe, choices, context_size):
    tokens = tokenize_claims(make_claims(*choices), get_template("truth"), bpe)
    lengths = prompt_lengths(tokens, context_size)
    assert lengths.tolist() == naive_lengths(tokens, context_size)


def test_a_prompt_that_does_not_fit_says_by_how_much_and_what_would(bpe):
    claims = make_claims("a", "b", "b " * 30, "c", "d")
    template = get_template("truth")
    tokens = tokenize_claims(claims, template, bpe)
    longest = int(prompt_lengths(tokens).max())
    tokenize_claims(claims, template, bpe, max_length=longest)
    check_prompt_lengths(tokens, longest)

    (fault,) = faults_of(tokenize_claims, claims, template, bpe, max_length=longest - 1)
    assert fault.found == f"{longest} tokens, 1 more than the {longest - 1} that fit"
    assert "the longest claim is number 2" in fault.where

    two = int(prompt_lengths(tokenize_claims(claims.select([0, 1]), template, bpe)).max())
    (fault,) = faults_of(check_prompt_lengths, tokens, two)
    assert "limit=2 fits" in fault.remedy
    one_other = int(prompt_lengths(tokens, 1).max())
    check_prompt_lengths(tokens, one_other, context_size=1)
    (fault,) = faults_of(check_prompt_lengths, tokens, 5)
    assert fault.remedy == "use a model with a longer context"


def test_the_limit_that_is_offered_fits(bpe):
    rows = [
        {"question": "q", "choice": "x" * (index % 7), "consistency_id": index}
        for index in range(1, 30)
    ]
    rows = [row | {"choice": row["choice"] or "y"} for row in rows]
    template = get_template("truth")
    tokens = tokenize_claims(claims_from_rows(rows), template, bpe)
    max_length = int(prompt_lengths(tokens).max()) // 2
    (fault,) = faults_of(check_prompt_lengths, tokens, max_length)
    limit = int(fault.remedy.split("limit=")[1].split(" fits")[0])
    tokenize_claims(claims_from_rows(rows, limit=limit), template, bpe, max_length)
    more = claims_from_rows(rows, limit=limit + 1)
    assert faults_of(tokenize_claims, more, template, bpe, max_length)


# Public claims.


@pytest.mark.parametrize(
    "name",
    [
        "opinionqa_personas/test/opinionqa_democrat.jsonl",
        "goqa_country_pairs/UnitedStates_test.json",
        "icm_schema/test_alpaca_first240.json",
        "icm_schema/test_gsm8k_first100.json",
    ],
)
def test_public_claims_lose_no_character(data, bpe, name):
    claims = load_claims(data / name, limit=60)
    template = get_template(claims.template)
    tokens = tokenize_claims(claims, template, bpe)
    for index, claim in enumerate(claims.claims):
        ids = tokens.demonstrations[index, 1, : tokens.demonstration_lengths[index, 1]]
        text = bpe.decode(ids, clean_up_tokenization_spaces=False)
        assert text == template.demonstration_text(claim, 1)
    raw = (data / name).read_text(encoding="utf-8")
    rows = json.loads(raw) if name.endswith(".json") else [json.loads(raw.split("\n")[0])]
    assert rows[0]["question"].strip() in template.query_fn(claims.claims[0])
