"""Sequential scores are those of one full prompt a query, on transformers and torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from icmjax.claims import claims_from_rows, load_claims, load_gold
from icmjax.errors import InputError, PromptError
from icmjax.lm import load_lm
from icmjax.prompts import TEMPLATES, tokenize_claims
from icmjax.scoring import SequentialScorer, make_scorer
from icmjax.scoring.sequential import prompt_widths
from icmjax.steering import evaluate, make_steerer

LABEL_TEXTS = ["I think this claim is True", "I think this claim is False"] * 50


@pytest.fixture(scope="module")
def claims(data):
    return load_claims(data / "goqa_personas/train/globaloqa_japan.jsonl", limit=8)


@pytest.fixture(scope="module")
def gold(data):
    return load_gold(data / "goqa_personas/train/globaloqa_japan.jsonl", limit=8).labels


@pytest.fixture(scope="module")
def models(tmp_path_factory, claims):
    """A torch model and the same checkpoint as we load it; `test_lm_parity.py` has all families."""
    folder = tmp_path_factory.mktemp("llama")
    texts = [claim.choice + claim.question for claim in claims.claims] + LABEL_TEXTS
    torch_model = make_checkpoint(folder, "llama", texts, max_position_embeddings=4096)
    return torch_model, load_lm(folder)


def torch_log_probs(model, context: list[int], forms: list[list[list[int]]]) -> np.ndarray:
    """log P(label | context) over options of several forms, normalised: a prompt for each form."""
    by_option = []
    for option in forms:
        by_form = []
        for form in option:
            with torch.no_grad():
                logits = model(torch.tensor([context + form])).logits[0].double()
            log_probs = torch.log_softmax(logits, -1)
            start = len(context) - 1
            by_form.append(sum(log_probs[start + k, token] for k, token in enumerate(form)))
        by_option.append(torch.logsumexp(torch.stack(by_form), 0))
    log_probs = torch.stack(by_option)
    return (log_probs - torch.logsumexp(log_probs, 0)).numpy()


def brute_force(model, lm, claims, labels, template, leave="claim") -> np.ndarray:
    """[N, Y], from whole texts and the tokenizer alone."""
    logp = []
    for query, claim in enumerate(claims.claims):
        shown = []
        for other, label in enumerate(labels):
            same = claims.group_index[other] == claims.group_index[query]
            if label >= 0 and other != query and not (leave == "group" and same):
                shown.append((claims.claims[other], label))
        text = template.prompt_text(claims.preamble, shown, claim)
        prompt = lm.tokenizer(text).input_ids
        forms = [
            [lm.tokenizer(text + form).input_ids[len(prompt) :] for form in option]
            for option in template.label_forms
        ]
        logp.append(torch_log_probs(model, prompt, forms))
    return np.stack(logp)


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["claim", pytest.param("group", marks=pytest.mark.slow)])
def test_scores_are_those_of_torch_on_real_claims(models, claims, gold, leave):
    model, lm = models
    labels = gold.copy()
    labels[[2, 5]] = -1  # unlabelled: scored, never shown
    scorer = make_scorer(lm, claims, "sequential", leave=leave)
    expected = brute_force(model, lm, claims, labels, TEMPLATES["persona"], leave)
    np.testing.assert_allclose(scorer(labels), expected, atol=1e-4)


@pytest.mark.slow
def test_forms_of_several_tokens_and_three_options(models, data):
    model, lm = models
    path = data / "goqa_personas/train/globaloqa_japan.jsonl"
    claims = load_claims(path, rule="none", limit=8, options=("No", "Perhaps", "Yes"))
    forms = (("No way", "Never"), ("Perhaps",), ("Yes", "All of them agree"))
    template = dataclasses.replace(TEMPLATES["truth"], label_forms=forms)
    tokens = jax.tree.map(jnp.asarray, tokenize_claims(claims, template, lm.tokenizer))
    assert tokens.label_forms.shape[2] > 1
    scorer = SequentialScorer(
        lm, tokens, jnp.asarray(claims.group_index), "claim", 4, prompt_widths(tokens)[-1:]
    )
    labels = np.array([0, 1, 2, -1, 2, 1, 0, 0], np.int8)
    expected = brute_force(model, lm, claims, labels, template)
    np.testing.assert_allclose(scorer(labels), expected, atol=1e-4)


@pytest.fixture(scope="module")
def lm(tmp_path_factory, claims):
    folder = tmp_path_factory.mktemp("one")
    texts = [claim.choice + claim.question for claim in claims.claims] + LABEL_TEXTS
    make_checkpoint(folder, "llama", texts, max_position_embeddings=4096)
    return load_lm(folder)


@pytest.mark.slow
def test_padding_batches_and_leading_axes_change_nothing(lm, claims, gold):
    scorer = make_scorer(lm, claims, "sequential")
    assert len(scorer.widths) > 1  # of each of which a program is compiled
    expected = scorer(gold)
    widest = dataclasses.replace(scorer, widths=scorer.widths[-1:])
    for changed in (
        dataclasses.replace(widest, batch_size=1),
        dataclasses.replace(widest, batch_size=5),
        dataclasses.replace(scorer, widths=(scorer.widths[-1] + 96,)),
    ):
        np.testing.assert_allclose(changed(gold), expected, atol=1e-5)
    few = np.where(np.arange(8) < 2, gold, -1).astype(np.int8)
    both = widest(np.stack([gold, few])[None])
    assert both.shape == (1, 2, 8, 2)
    np.testing.assert_allclose(both[0, 0], expected, atol=1e-5)
    np.testing.assert_allclose(both[0, 1], scorer(few), atol=1e-5)


def test_a_label_is_never_read_by_its_own_query(lm, claims, gold):
    scorer = make_scorer(lm, claims, "sequential")
    flipped = gold.copy()
    flipped[3] = 1 - flipped[3]
    before, after = scorer(gold), scorer(flipped)
    np.testing.assert_array_equal(before[3], after[3])
    assert np.abs(before - after).max() > 1e-3  # and by some other


def test_one_program_serves_all_labels(lm, claims, gold):
    scorer = make_scorer(lm, claims, "sequential")
    traces = []

    @jax.jit
    def score(labels):
        traces.append(labels)
        return scorer(labels)

    score(jnp.asarray(gold))
    score(jnp.asarray(1 - gold))
    assert len(traces) == 1


def test_orders_and_token_counts(lm, claims, gold):
    scorer = make_scorer(lm, claims, "sequential")
    orders = scorer.demonstration_orders()
    assert orders.shape == (8, 7)
    assert all(sorted({*order, query}) == list(range(8)) for query, order in enumerate(orders))
    tokens, labels = scorer.claims, gold.astype(int)
    lengths = np.asarray(tokens.demonstration_lengths)[np.arange(8), labels]
    expected = sum(
        len(tokens.preamble) + lengths.sum() - lengths[i] + tokens.query_lengths[i]
        for i in range(8)
    )
    forms = np.maximum(np.asarray(tokens.label_form_lengths) - 1, 0).sum()
    assert scorer.tokens_per_pass(gold) == expected + 8 * forms
    apart = make_scorer(lm, claims, "sequential", leave="group").demonstration_orders()
    assert (apart[:, -1] == -1).all()


def test_a_shared_context_is_the_full_prompt(lm, claims, gold):
    # Steering a held-out claim is scoring it with all others labelled.
    queries, demonstrations = claims.select([7]), claims.select(range(7))
    steered = evaluate(lm, demonstrations, gold[:7], queries).label_log_probs
    scored = make_scorer(lm, claims, "sequential")(gold)[7]
    np.testing.assert_allclose(steered[0], scored, atol=1e-5)


def test_steering_follows_the_order_of_demonstrations(lm, claims, gold):
    queries, demonstrations = claims.select([7]), claims.select(range(7))
    order = np.array([3, 1, 6, 0, 2, 5, 4])
    steerer = make_steerer(lm, demonstrations, queries)
    shuffled = make_steerer(lm, demonstrations.select(order), queries)
    np.testing.assert_allclose(steerer(gold[:7], order), shuffled(gold[:7][order]), atol=1e-5)
    assert np.abs(steerer(gold[:7], order) - steerer(gold[:7])).max() > 1e-4


def test_prompts_that_do_not_fit_say_by_how_much(tmp_path, claims):
    texts = [claim.choice + claim.question for claim in claims.claims] + LABEL_TEXTS
    make_checkpoint(tmp_path, "llama", texts, max_position_embeddings=256)
    with pytest.raises(PromptError, match=r"more than the 256 that fit"):
        make_scorer(load_lm(tmp_path), claims)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "magic"}, "method is one of"),
        ({"leave": "nothing"}, "leave is one of"),
        ({"batch_size": 0}, "A batch has a prompt"),
        ({"template": "poem"}, "chosen by its name"),
    ],
)
def test_arguments_are_checked(lm, claims, arguments, message):
    with pytest.raises(InputError, match=message):
        make_scorer(lm, claims, **arguments)


def test_demonstrations_and_queries_must_go_together(lm, claims):
    rows = [{"question": "q", "choice": f"c{k}", "consistency_id": k} for k in range(2)]
    other = claims_from_rows(rows, preamble="A poll.")
    with pytest.raises(InputError, match="same preamble"):
        make_steerer(lm, claims, other)
