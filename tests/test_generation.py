"""Generation with a key-value cache, and likelihoods, against reading everything anew."""

import dataclasses

import jax
import numpy as np
import pytest
from checkpoints import make_checkpoint

from icmjax.errors import InputError, PromptError
from icmjax.lm import load_lm
from icmjax.steering import continuation_likelihood, generate
from icmjax.steering.generation import _stop_tokens, _width

TEXTS = ["People from Japan like tea.\nPeople from Peru like rice.\n"] * 20
CONTEXT = ("People from Japan:\n", "Tea? yes.\n", "Rice? no, thanks.\n")
QUERIES = ("Bread?", "What do people from Peru like?", "Rice and tea?")
NUM_NEW = 12


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    make_checkpoint(folder, "llama", TEXTS)
    return load_lm(folder)


def naive(lm, query, stop, choose_fn):
    """The text of one answer, all tokens read again for each new one."""
    tokens = list(lm.tokenizer("".join(CONTEXT) + query).input_ids)
    start = len(tokens)
    decoder = lm.decoder()
    width = start + NUM_NEW
    for step in range(NUM_NEW):
        row = np.zeros((1, width), np.int32)
        row[0, : len(tokens)] = tokens
        positions = np.arange(width, dtype=np.int32)[None]
        hidden, _ = decoder(row, positions, positions < len(tokens))
        tokens.append(int(choose_fn(step, decoder.logits(hidden[:, len(tokens) - 1])[0])))
        said = lm.tokenizer.decode(tokens[start:], skip_special_tokens=True)
        if stop in said or tokens[-1] == lm.tokenizer.eos_token_id:
            break
    return said.split(stop)[0]


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["\n", "e"])
def test_greedy_answers_are_those_of_a_naive_loop(lm, stop):
    answers = generate(lm, CONTEXT, QUERIES, max_new_tokens=NUM_NEW, stop=stop)
    assert answers == [naive(lm, query, stop, lambda _, row: row.argmax()) for query in QUERIES]
    assert len(set(answers)) > 1


@pytest.mark.slow
def test_samples_are_those_of_a_naive_loop(lm):
    key = jax.random.key(3)

    def choose(index):
        def choose_fn(step, row):
            logits = np.zeros((len(QUERIES), len(row)), np.float32)
            logits[index] = row
            return jax.random.categorical(jax.random.fold_in(key, step), logits / 0.7)[index]

        return choose_fn

    options = {"rng_key": key, "temperature": 0.7, "max_new_tokens": NUM_NEW}
    answers = generate(lm, CONTEXT, QUERIES, **options)
    assert answers == [naive(lm, query, "\n", choose(i)) for i, query in enumerate(QUERIES)]
    assert answers != generate(lm, CONTEXT, QUERIES, max_new_tokens=NUM_NEW)


CONTINUATIONS = (" Rice, thanks.", " Tea", " Bread and rice and tea in Japan.")


@pytest.mark.parametrize("context", [CONTEXT, ()])
def test_likelihoods_are_those_of_whole_prompts(lm, context):
    found = continuation_likelihood(lm, context, QUERIES, CONTINUATIONS)
    for index, (query, continuation) in enumerate(zip(QUERIES, CONTINUATIONS, strict=True)):
        prompt = "".join(context) + query
        tokens = lm.tokenizer(prompt + continuation).input_ids
        num_after = len(tokens) - len(lm.tokenizer(prompt).input_ids)
        row = np.array([tokens], np.int32)
        positions = np.arange(len(tokens), dtype=np.int32)[None]
        hidden, _ = lm.decoder()(row, positions, np.ones_like(row, bool))
        logp = np.asarray(jax.nn.log_softmax(lm.decoder().logits(hidden[0, :-1])))
        expected = logp[np.arange(len(tokens) - 1), row[0, 1:]][-num_after:].sum()
        np.testing.assert_allclose(found.log_probs[index], expected, rtol=1e-5)
        assert found.num_tokens[index] == num_after


def test_likelihoods_need_queries_with_continuations_that_fit(lm):
    for queries, continuations in (((), ()), (QUERIES, CONTINUATIONS[:2]), (QUERIES[:1], ("",))):
        with pytest.raises(InputError, match="has a continuation"):
            continuation_likelihood(lm, CONTEXT, queries, continuations)
    with pytest.raises(PromptError, match="more than 512"):
        continuation_likelihood(lm, CONTEXT * 60, QUERIES, CONTINUATIONS)


@pytest.mark.slow
def test_an_answer_is_at_most_so_long(lm):
    (short,) = generate(lm, CONTEXT, QUERIES[:1], max_new_tokens=1, stop="§")
    (long,) = generate(lm, CONTEXT, QUERIES[:1], max_new_tokens=5, stop="§")
    assert len(short) < len(long)
    assert long.startswith(short)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"queries": ()}, "queries"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": 1.0}, "rng_key"),
        ({"stop": ""}, "stop"),
    ],
)
def test_arguments_out_of_range(lm, changes, where):
    with pytest.raises(InputError) as raised:
        generate(**({"lm": lm, "context": CONTEXT, "queries": QUERIES} | changes))
    assert [fault.where for fault in raised.value.faults] == [where]


def test_a_prompt_that_does_not_fit(lm):
    with pytest.raises(PromptError, match="more than 512"):
        generate(lm, CONTEXT * 60, QUERIES)


@pytest.mark.slow
def test_every_end_token_of_the_model_ends_an_answer(lm):
    """Chat models name several in generation_config.json."""
    (said,) = generate(lm, CONTEXT, QUERIES[:1], max_new_tokens=4, stop="§")
    text = "".join(CONTEXT) + QUERIES[0]
    ids = lm.tokenizer(text).input_ids
    hidden, _ = lm.decoder()(*whole_row(ids))
    first = int(lm.decoder().logits(hidden[0, -1]).argmax())
    ended = dataclasses.replace(lm, eos_token_ids=(*lm.eos_token_ids, first))
    (short,) = generate(ended, CONTEXT, QUERIES[:1], max_new_tokens=4, stop="§")
    assert said.startswith(short)
    assert len(short) < len(said)
    assert short == lm.tokenizer.decode([first])


def whole_row(ids):
    row = np.array([ids], np.int32)
    return row, np.arange(len(ids), dtype=np.int32)[None], np.ones_like(row, bool)


@pytest.mark.parametrize("more", [-5, 5])
def test_a_tokenizer_may_have_fewer_or_more_tokens_than_the_embedding_has_rows(lm, more):
    """Published Gemma 3 has more: 262 145 for 262 144 rows."""
    rows = len(lm.tokenizer) + more
    is_stop = _stop_tokens(lm.tokenizer, rows, "a", (lm.tokenizer.eos_token_id,))
    assert is_stop.shape == (rows,)
    assert is_stop[lm.tokenizer.eos_token_id]


def test_a_prompt_is_read_as_one_text(lm):
    """A context cut within a word is the same prompt."""
    whole = generate(lm, CONTEXT, QUERIES, max_new_tokens=3)
    text = "".join(CONTEXT)
    assert generate(lm, [text[:5], text[5:]], QUERIES, max_new_tokens=3) == whole
    moved = [text[-2:] + query for query in QUERIES]
    assert generate(lm, [text[:-2]], moved, max_new_tokens=3) == whole


def test_few_widths_serve_contexts_of_all_lengths():
    widths = [_width(length) for length in range(1, 4097)]
    assert all(
        length <= width < length * 9 / 8 + 16 for length, width in enumerate(widths, start=1)
    )
    assert len(set(widths)) < 60
