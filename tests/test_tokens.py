"""Tokens: pieces join to the ids of the whole prompt, arrays are padded, nothing is ever cut."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_kinds import KINDS, make_kind
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
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
    tokenize_together,
)


@pytest.fixture(scope="module")
def bpe():
    return make_kind("llama3")


@pytest.fixture(scope="module", params=sorted(KINDS))
def kind(request):
    return make_kind(request.param)


def make_words(*words) -> PreTrainedTokenizerFast:
    """A closed vocabulary, where the space belongs to the word after it."""
    vocab = {word: index for index, word in enumerate(["<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s?[A-Za-z]+:?|\?"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def make_claims(*choices, preamble="", options=BINARY_OPTIONS, choice_2=None) -> ClaimSet:
    claims = tuple(
        Claim(str(index), "p", str(index), f"Question {index}?", choice, choice_2)
        for index, choice in enumerate(choices)
    )
    return ClaimSet(claims, no_rules(len(options)), None, preamble, options)


def pieces_of(tokens, order, labels, query, queries=None):
    """The tokens of a prompt, from the padded arrays; queries may be another set's."""
    ids = list(tokens.preamble)
    for claim in order:
        length = tokens.demonstration_lengths[claim, labels[claim]]
        ids += list(tokens.demonstrations[claim, labels[claim], :length])
    queries = queries or tokens
    return ids + list(queries.queries[query, : queries.query_lengths[query]])


def faults_of(call, *args, **kwargs):
    with pytest.raises(PromptError) as caught:
        call(*args, **kwargs)
    return caught.value.faults


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(any_text, min_size=2, max_size=4),
    any_text,
    st.sampled_from(sorted(TEMPLATES)),
    st.sampled_from([(), ("no", "maybe", "yes, 12"), ("(A)", "(B)"), ("1", "2", "3")]),
    st.data(),
)
def test_pieces_join_to_the_tokens_of_the_whole_prompt(
    kind, choices, preamble, name, options, data
):
    """The ids that the tokenizer gives the whole text, the first token that it adds among them."""
    options = options or BINARY_OPTIONS
    claims = make_claims(*choices, preamble=preamble, choice_2="tea", options=options)
    template = get_template(name).for_options(options)
    tokens = tokenize_claims(claims, template, kind)
    order = data.draw(st.permutations(range(len(choices))))
    labels = data.draw(
        st.lists(st.integers(0, len(options) - 1), min_size=len(order), max_size=len(order))
    )
    for num_shown in range(len(order)):
        *shown, query = order[: num_shown + 1]
        demonstrations = [(claims.claims[index], labels[index]) for index in shown]
        prompt = template.prompt_text(preamble, demonstrations, claims.claims[query])
        label = labels[query]
        ids = pieces_of(tokens, shown, labels, query)
        form = list(tokens.label_forms[label, 0, : tokens.label_form_lengths[label, 0]])
        text = template.label_forms[label][0]
        if template.is_label_apart:
            assert ids == kind(prompt, split_special_tokens=True)["input_ids"]
            assert kind.decode(form) == text
        else:
            assert ids + form == kind(prompt + text, split_special_tokens=True)["input_ids"]


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


def test_the_first_token_is_the_one_that_the_tokenizer_adds(kind):
    """All of these name one; three of them add it."""
    template, claims = get_template("truth"), make_claims("a", "b", preamble="Tea.")
    tokens = tokenize_claims(claims, template, kind)
    whole = kind(template.prompt_text("Tea.", [], claims.claims[0]))["input_ids"]
    assert kind.bos_token_id == 0
    assert pieces_of(tokens, [], [], 0) == whole
    assert (whole[0] == 0) == (kind("")["input_ids"] == [0])


@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_pieces_read_apart_would_be_others(name):
    """What this contract is for: both kinds read a piece otherwise alone than in its prompt."""
    tokenizer, template = make_kind(name), get_template("truth")
    claims = make_claims("a", "b")
    parts = [template.demonstration_text(claims.claims[0], 1), template.query_fn(claims.claims[1])]
    apart = [
        token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]
    ]
    assert apart != tokenizer("".join(parts), add_special_tokens=False)["input_ids"]
    tokens = tokenize_claims(claims, template, tokenizer)
    whole = tokenizer("".join(parts))["input_ids"]
    assert pieces_of(tokens, [0], [1, 1], 1) == whole


def test_two_claim_sets_share_their_border(kind):
    """Queries join to demonstrations of another set."""
    template = get_template("truth")
    shown, asked = make_claims("a", "b"), make_claims("c c", "d (e)", "f")
    demonstrations, queries = tokenize_together([shown, asked], template, kind)
    text = template.prompt_text("", [(shown.claims[1], 1), (shown.claims[0], 0)], asked.claims[2])
    ids = pieces_of(demonstrations, [1, 0], [0, 1], 2, queries)
    assert ids == kind(text)["input_ids"]
    assert queries.queries.shape[0] == 3


def test_names_of_special_tokens_in_a_claim_are_plain_text(bpe):
    tokens = tokenize_claims(make_claims("<s> tea", "b"), get_template("truth"), bpe)
    assert bpe.bos_token_id not in tokens.queries[0, : tokens.query_lengths[0]]
    assert list(tokens.preamble).count(bpe.bos_token_id) == 1
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


# Faults.


def test_claims_that_begin_otherwise_are_refused_where_a_first_word_is_special():
    """Llama 2 puts a space before a text: no border serves both "Question" and "Claim"."""
    llama2, template = make_kind("llama2"), get_template("truth")
    mixed = make_claims("a", "b")
    mixed = dataclasses.replace(
        mixed, claims=(mixed.claims[0], mixed.claims[1]._replace(question=""))
    )
    (fault,) = faults_of(tokenize_claims, mixed, template, llama2)
    assert "start of a text" in fault.found
    assert "preamble" in fault.remedy
    opened = dataclasses.replace(mixed, preamble="Poll.")
    assert tokenize_claims(opened, template, llama2).queries.shape[0] == 2
    assert tokenize_claims(mixed, template, make_kind("gpt2")).queries.shape[0] == 2


def test_labels_that_share_their_first_token_are_told_apart(bpe):
    """Likert scales and lettered options; only one that begins another is refused."""
    options = ("very (A)", "very (B)", "very much")
    template = get_template("truth").for_options(options)
    tokens = tokenize_claims(make_claims("a", "b", options=options), template, bpe)
    firsts = tokens.label_forms[:, 0, 0]
    assert len(set(firsts.tolist())) < 3
    options = ("very", "very much")
    template = get_template("truth").for_options(options)
    (fault,) = faults_of(tokenize_claims, make_claims("a", "b", options=options), template, bpe)
    assert "begins with another one" in fault.rule
    assert "'very'" in fault.found.replace("' very'", "'very'")


def test_a_label_that_merges_with_the_query_is_refused(bpe):
    template = Template("merged", lambda claim: f"{claim.choice} is T", (("rue",), ("ea",)), "\n\n")
    merged = tokenize_claims
    (fault,) = faults_of(merged, make_claims("a", "b"), template, bpe)
    assert "across the border" in fault.found or "changes" in fault.found
    assert "begin with a space" in fault.remedy


def test_tokens_without_a_row_are_refused(bpe):
    claims, template = make_claims("a", "b"), get_template("truth")
    tokens = tokenize_claims(claims, template, bpe)
    highest = max(int(array.max()) for array in (tokens.queries, tokens.label_forms))
    tokenize_claims(claims, template, bpe, vocab_size=len(bpe))
    faults = faults_of(tokenize_claims, claims, template, bpe, vocab_size=highest)
    assert {"row in the model's embedding" in fault.rule for fault in faults} == {True}
    assert f"token {highest}" in faults[0].found


def test_a_tokenizer_that_loses_spaces_is_refused():
    """As versions of transformers made of byte-level tokenizers that name Llama's class."""
    tokenizer = make_kind("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    (fault,) = faults_of(
        tokenize_claims, make_claims("a b", "b c"), get_template("truth"), tokenizer
    )
    assert "gives back" in fault.rule or "join" in fault.rule
    assert "transformers" in fault.remedy or "space" in fault.remedy


def test_a_tokenizer_that_ends_every_text_is_refused():
    tokenizer = make_kind("gpt2")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    (fault,) = faults_of(tokenize_claims, make_claims("a", "b"), get_template("truth"), tokenizer)
    assert "'</s>' after it" in fault.found


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
    own_words = make_claims("Taxes can help", "One has words of many kinds")
    (claim,) = faults_of(tokenize_claims, own_words, get_template("world"), tokenizer)
    assert claim.found.endswith("know: '\\nOne', ' has', ' words', ' of', ' many' and 1 more")
    assert "made-up world" in claim.remedy
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


def test_a_tokenizer_that_is_told_otherwise_is_read_anew():
    tokenizer = make_kind("gemma")
    claims, template = make_claims("a", "b"), get_template("truth")
    assert tokenize_claims(claims, template, tokenizer).preamble.tolist() == [0]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    assert tokenize_claims(claims, template, tokenizer).preamble.tolist() == []


def test_the_sign_for_a_space_is_a_word_like_others(kind):
    claims = make_claims("The load was \u2581\u2582 today", "b")
    assert tokenize_claims(claims, get_template("truth"), kind).queries.shape[0] == 2
