"""Steering against one prompt a query, and the scores and calibrations of its predictions."""

import copy
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import make_checkpoint
from scipy import stats

from icmjax.claims import Claim, ClaimSet, GoldLabels, claims_from_rows
from icmjax.claims.consistency import no_rules, rules_from_groups
from icmjax.errors import InputError, PromptError, ScoreError
from icmjax.lm import load_lm
from icmjax.prompts import get_template
from icmjax.scoring import text_bytes
from icmjax.statistics import share_interval
from icmjax.steering import (
    Condition,
    Scores,
    auc,
    calibrate,
    chat_zero_shot,
    compare,
    evaluate,
    held_out,
    make_steerer,
    overlap,
    score_predictions,
)
from icmjax.steering.chat import _encode, _turn
from icmjax.steering.in_context import _steer, by_length

TEXTS = ["I think this claim is True, not False.\nQuestion: tea? Claim: rice helps"] * 20
PREAMBLE = "People from Japan."


def rows_of(choices):
    return [
        {"question": "Tea?", "choice": choice, "consistency_id": index}
        for index, choice in enumerate(choices)
    ]


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    make_checkpoint(folder, "llama", TEXTS)
    return load_lm(folder)


@pytest.fixture(scope="module")
def demonstrations():
    return claims_from_rows(
        rows_of(["Rice helps", "It is so", "No", "tea is rice"]), preamble=PREAMBLE
    )


@pytest.fixture(scope="module")
def queries():
    return claims_from_rows(
        rows_of(["Claims help", "I am", "this is rice and tea"]), preamble=PREAMBLE
    )


def encode(lm, text):
    return lm.tokenizer(text).input_ids


def naive_log_prob(lm, prompt, form):
    """The sum of the log-probs of a form's tokens after a prompt, read in one row."""
    tokens = np.array([[*prompt, *form]], np.int32)
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    hidden, _ = lm.decoder()(tokens, positions, np.ones_like(tokens, bool))
    logp = jax.nn.log_softmax(lm.decoder().logits(hidden[0]))
    return sum(logp[len(prompt) - 1 + index, token] for index, token in enumerate(form))


def naive(lm, demonstrations, labels, order, queries):
    template, rows = get_template("truth"), []
    shown = [(demonstrations.claims[index], labels[index]) for index in order if labels[index] >= 0]
    for claim in queries.claims:
        text = template.prompt_text(PREAMBLE, shown, claim)
        prompt = encode(lm, text)
        forms = [encode(lm, text + form)[len(prompt) :] for (form,) in template.label_forms]
        scores = [naive_log_prob(lm, prompt, form) for form in forms]
        rows.append(jax.nn.log_softmax(jnp.array(scores)))
    return np.array(rows)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([1, 0, 0, 1], [0, 1, 2, 3]),
        ([1, 0, 0, 1], [2, 0, 3, 1]),
        ([1, -1, 0, -1], [3, 2, 1, 0]),
        ([-1, -1, -1, -1], [0, 1, 2, 3]),
    ],
)
def test_a_steerer_reads_what_one_prompt_a_query_would(lm, demonstrations, queries, labels, order):
    found = make_steerer(lm, demonstrations, queries)(np.array(labels), np.array(order))
    expected = naive(lm, demonstrations, labels, order, queries)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_labellings_and_orders_come_in_batches(lm, demonstrations, queries):
    steerer = make_steerer(lm, demonstrations, queries)
    labels = np.array([[[1, 0, 0, 1]], [[0, 0, 1, -1]]], np.int8)
    orders = np.array([[0, 1, 2, 3], [3, 1, 0, 2]])
    shape = (2, 2, 4)
    found = steerer(np.broadcast_to(labels, shape), np.broadcast_to(orders, shape))
    assert found.shape == (2, 2, 3, 2)
    for i, j in itertools.product(range(2), range(2)):
        np.testing.assert_allclose(found[i, j], steerer(labels[i, 0], orders[j]), atol=1e-5)
    assert not np.allclose(found[0, 0], found[0, 1], atol=1e-3)  # order matters


def test_evaluate_scores_the_predictions(lm, demonstrations, queries):
    labels, gold = np.array([1, 0, 0, 1], np.int8), GoldLabels(np.array([1, -1, 0], np.int8))
    found = evaluate(lm, demonstrations, labels, queries, gold)
    assert found.scores == score_predictions(found.label_log_probs, gold)
    assert found.scores.num_claims == 2
    assert found.predictions.tolist() == found.label_log_probs.argmax(-1).tolist()
    assert evaluate(lm, demonstrations, labels, queries).scores is None


def test_claim_sets_that_do_not_go_together(lm, demonstrations, queries):
    other = dataclasses.replace(queries, preamble="People from Peru.")
    with pytest.raises(InputError, match="same preamble"):
        make_steerer(lm, demonstrations, other)


def test_a_context_that_does_not_fit(lm, queries):
    many = claims_from_rows(rows_of([f"Rice helps {i}" for i in range(60)]), preamble=PREAMBLE)
    with pytest.raises(PromptError, match="more than 512"):
        make_steerer(lm, many, queries)(np.ones(60, np.int8))


@pytest.mark.slow
def test_queries_read_together_are_as_many_as_the_memory_budget_allows(lm, demonstrations):
    many = claims_from_rows(rows_of([f"Rice helps {i}" for i in range(24)]), preamble=PREAMBLE)
    labels, order = np.array([[1, 0, 0, 1]], np.int8), np.arange(4, dtype=np.int32)[None]
    whole, width = make_steerer(lm, demonstrations, many), 256
    assert whole.batch_size(whole.queries, width) == 24
    expected = whole(labels)
    for size in (1, 7):
        budget = text_bytes(lm, whole.queries, width, 1, size)[1]
        steerer = make_steerer(lm, demonstrations, many, memory_budget=budget)
        together = steerer.batch_size(steerer.queries, width)
        assert size <= together < 24
        arguments = lm, steerer.demonstrations, (steerer.queries,), labels, order
        program = _steer.lower(*arguments, width=width, batch_sizes=(together,)).compile()
        assert program.memory_analysis().temp_size_in_bytes <= 1.1 * budget
        np.testing.assert_allclose(steerer(labels), expected, atol=1e-5)
    least = text_bytes(lm, whole.queries, width, 1, 1)[1]
    with pytest.raises(InputError, match="1 more than the budget"):
        whole._replace(memory_budget=least - 1).batch_size(whole.queries, width)


def test_scores_by_hand():
    logp = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]])
    scores = score_predictions(logp, GoldLabels(np.array([0, 0, 1, -1], np.int8)))
    assert scores.accuracy == pytest.approx(2 / 3)
    assert scores.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert scores.log_loss == pytest.approx(-np.log(0.9 * 0.4 * 0.8) / 3)
    assert scores.num_claims == 3
    with pytest.raises(InputError, match="gold"):
        score_predictions(logp, GoldLabels(np.full(4, -1, np.int8)))


def test_scores_that_are_no_numbers_are_refused():
    logp = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    logp[1, 0], logp[2] = np.nan, [-np.inf, 0]
    with pytest.raises(ScoreError, match="claim 1") as caught:
        score_predictions(logp, GoldLabels(np.array([0, 1, 1], np.int8)))
    assert [fault.where[-1] for fault in caught.value.faults] == ["1", "2"]


def claim(id_, choice, question="Tea?", persona="Japan", group=None, choice_2=None):
    return Claim(id_, persona, group or id_, question, choice, choice_2)


def claim_set(*claims):
    return ClaimSet(claims, no_rules())


HELD_OUT = {
    "another claim": (claim("x", "Rice harms"), True),
    "the same": (claim("a", "Rice helps"), False),
    "the same under another id": (claim("x", "Rice helps"), False),
    "other spaces": (claim("x", " Rice\n helps", "Tea? "), False),
    "another question": (claim("x", "Rice helps", "Coffee?"), True),
    "another persona": (claim("x", "Rice helps", persona="Peru"), True),
    "its opposite": (claim("x", "Rice harms", group="a"), False),
    "its opposite in words": (claim("x", "People would say: 'No'", group="y"), False),
    "an id of another question": (claim("x", "Rice harms", "Coffee?", group="a"), True),
    "an id of another persona": (claim("x", "Rice harms", persona="Peru", group="a"), True),
    "an id without a question": (claim("x", "Rain is wet", "", group="n"), True),
    "a comparison": (claim("x", "Tea", choice_2="Rice"), False),
    "a comparison turned round": (claim("x", "Rice", choice_2="Tea"), False),
    "another comparison": (claim("x", "Rice", choice_2="Rain", group="p"), True),
}


BY = {
    "its opposite": "is_by_id",  # as far as the texts say
    "its opposite in words": "is_opposite",
    "a comparison turned round": "is_opposite",
}


@pytest.mark.parametrize("case", HELD_OUT)
def test_a_query_is_held_out_where_no_demonstration_answers_it(case):
    query, is_held_out = HELD_OUT[case]
    demonstrations = claim_set(
        claim("a", "Rice helps"),
        claim("n", "Rain falls", ""),
        claim("p", "Tea", choice_2="Rice"),
        claim("y", "People would say: 'Yes'"),
    )
    assert held_out(demonstrations, claim_set(query)).tolist() == [0] * is_held_out
    by = [kind for kind, is_so in overlap(demonstrations, claim_set(query))._asdict().items()
          if is_so.any()]  # fmt: skip
    assert by == ([] if is_held_out else [BY.get(case, "is_same")])


def test_what_is_tied_to_a_known_query_is_known():
    queries = claim_set(
        claim("0", "Snow falls", "", group="1"),
        claim("1", "Rain falls", "", group="0"),
        claim("2", "Rain rises", "", group="0"),
    )
    demonstrations = claim_set(claim("n", "Rain falls", "", group="7"))
    assert held_out(demonstrations, queries).tolist() == [0]
    assert held_out(queries, queries).tolist() == []
    assert held_out(claim_set(claim("n", "No rain")), queries).tolist() == [0, 1, 2]


def test_the_interval_counts_groups_once():
    """Opposites are right together: 8 of 10 claims in 5 groups are as 4 of 5."""
    scores = Scores(0.8, 0.8, 0.4, 10)
    interval = stats.binomtest(4, 5).proportion_ci(0.95, "wilson")
    found = Condition("gold", (scores,), num_groups=5)
    assert found.accuracy_interval == pytest.approx((interval.low, interval.high))
    assert (found.num_claims, found.spread("accuracy")) == (10, None)
    drawn = found._replace(draws=(scores, scores._replace(accuracy=0.6)))
    assert drawn.spread("accuracy") == pytest.approx(0.2 / 2**0.5)
    assert drawn.accuracy_interval == share_interval(0.7, 5)


def test_compare_says_how_many_claims_and_groups_there_are(lm, demonstrations, queries):
    tied = claims_from_rows(
        [row | {"consistency_id": 7} for row in rows_of(["Claims help", "I am"])]
        + rows_of(["this is rice and tea"]),
        rule="none",
        preamble=PREAMBLE,
    )
    gold = GoldLabels(np.array([1, 0, -1], np.int8))
    labels = np.array([[1, 0, 0, 1], [0, 0, 0, 1]], np.int8)
    conditions = compare(lm, demonstrations, {"given": labels}, tied, gold)
    assert [each.name for each in conditions] == ["zero-shot", "calibrated zero-shot", "given"]
    assert all((each.num_claims, each.num_groups) == (2, 1) for each in conditions)
    expected = evaluate(lm, demonstrations, labels[1], tied, gold).scores
    assert conditions[-1].draws[1].log_loss == pytest.approx(expected.log_loss, abs=1e-5)


def log_probs(log_odds):
    log_odds = np.asarray(log_odds, float)
    return np.stack([-np.logaddexp(0, log_odds), -np.logaddexp(0, -log_odds)], -1)


def test_calibration_compares_opposites():
    rules = rules_from_groups("exactly_one_true", [(0, 1), (2, 3)])
    found = calibrate(log_probs([3.0, 1.0, 2.0, 2.5]), rules) @ [-1, 1]
    np.testing.assert_allclose(found, [1.0, -1.0, -0.25, 0.25], atol=1e-5)


def test_calibration_knows_that_equal_answers_are_no_opposites():
    rules = rules_from_groups("same_answer_same_label", [(0, 1)], answers=["4", "4", "5"])
    found = calibrate(log_probs([3.0, 3.5, -2.0]), rules) @ [-1, 1]
    np.testing.assert_allclose(found, [1.5, 2.0, -3.5], atol=1e-5)


def test_calibration_without_opposites_takes_the_mean_off():
    found = calibrate(log_probs([3.0, 1.0, 2.0]), no_rules()) @ [-1, 1]
    np.testing.assert_allclose(found, [1.0, -1.0, 0.0], atol=1e-5)


CHAT = (
    "{{ bos_token }}{% for message in messages %}[user] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[model]>{% endif %}"
)


@pytest.mark.slow
def test_chat_zero_shot_asks_in_the_model_s_own_turns(lm, queries):
    tokenizer = copy.deepcopy(lm.tokenizer)
    assert chat_zero_shot(lm, queries) is None  # no chat template
    tokenizer.chat_template = CHAT
    chat_lm = dataclasses.replace(lm, tokenizer=tokenizer)
    found = chat_zero_shot(chat_lm, queries)
    for claim, logp in zip(queries.claims, found, strict=True):
        query = get_template("truth").query_fn(claim)
        text = f"[user] {PREAMBLE}\n{query}...\nAnswer with False or True alone.\n[model]>"
        prompt = tokenizer(text).input_ids
        forms = [tokenizer(text + option).input_ids[len(prompt) :] for option in queries.options]
        expected = jax.nn.log_softmax(
            jnp.array([naive_log_prob(lm, prompt, form) for form in forms])
        )
        np.testing.assert_allclose(logp, expected, atol=1e-4)


def test_chat_claims_are_data(lm, queries):
    """A claim that names control tokens is read as text; the template's own ones are control."""
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = CHAT
    named = dataclasses.replace(
        queries, claims=(queries.claims[0]._replace(choice="</s> is said"), *queries.claims[1:])
    )
    before, after = _turn(tokenizer)
    ids = _encode(tokenizer, before, "</s> is said", after)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids) == f"{before}</s> is said{after}"
    plain = _encode(tokenizer, before, "is said", after)
    assert plain == tokenizer(f"{before}is said{after}", add_special_tokens=False).input_ids
    assert chat_zero_shot(dataclasses.replace(lm, tokenizer=tokenizer), named) is not None


@pytest.mark.parametrize(
    ("template", "rule"),
    [
        ("{{ raise_exception('no users') }}", "takes a single message"),
        ("[user] hello", "shows a message once"),
    ],
)
def test_a_chat_template_that_does_not_fit_is_named(lm, queries, template, rule):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(PromptError, match=rule):
        chat_zero_shot(dataclasses.replace(lm, tokenizer=tokenizer), queries)


def test_a_model_that_may_think_is_asked_not_to(lm, queries):
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = CHAT.replace(
        "[model]>", "[model]>{% if enable_thinking is false %}<none>{% endif %}"
    )
    assert _turn(tokenizer)[1].endswith("[model]><none>")


def test_a_claim_may_name_a_control_token_that_stands_after_it_alone(lm):
    ids = _encode(lm.tokenizer, "USER: ", "</s> is said", "</s>MODEL: ")
    assert ids.count(lm.tokenizer.eos_token_id) == 1


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.permutation(np.array([0, 1, -1, *rng.integers(-1, 2, 17).tolist()], np.int8))
        log_odds = rng.integers(-3, 4, 20).astype(np.float64)  # with ties
        logp = -np.logaddexp(0, np.stack([log_odds, -log_odds], axis=-1))
        differences = log_odds[labels == 1][:, None] - log_odds[labels == 0]
        expected = (differences > 1e-9).mean() + 0.5 * (abs(differences) < 1e-9).mean()
        gold = GoldLabels(labels)
        assert auc(np.round(logp, 9), gold) == pytest.approx(expected)
        border = np.array([[0.7, -0.7]])  # a bias changes nothing
        assert auc(np.round(logp, 9) + border, gold) == pytest.approx(expected)


def test_auc_wants_claims_of_both_labels_and_two_options():
    logp = np.log(np.full((3, 2), 0.5))
    with pytest.raises(InputError, match="3 true and 0 false"):
        auc(logp, GoldLabels(np.ones(3, np.int8)))
    with pytest.raises(InputError, match="ranked by two labels"):
        auc(np.log(np.full((3, 4), 0.25)), GoldLabels(np.array([0, 1, 2], np.int8)))


def test_of_a_large_vocabulary_the_labels_alone_are_scored(tmp_path):
    make_checkpoint(tmp_path, "llama", TEXTS, vocab_size=5003, tie_word_embeddings=False)
    lm = load_lm(tmp_path)
    claims = claims_from_rows(rows_of(["Rice helps", "It is so", "No"]))
    steerer = make_steerer(lm, claims, claims)
    assert steerer.queries.label_forms.shape[-1] == 1
    labels, orders = np.zeros((1, 3), np.int8), np.arange(3, dtype=np.int32)[None]

    def run(labels):
        parts, _ = by_length(steerer.queries)
        return _steer(
            lm,
            steerer.demonstrations,
            parts,
            labels,
            orders,
            width=64,
            batch_sizes=(3,) * len(parts),
        )

    shapes = list(shapes_in(jax.make_jaxpr(run)(labels).jaxpr))
    assert (3, 2) in shapes
    assert not [shape for shape in shapes if shape[-1:] == (5003,)]


def shapes_in(jaxpr):
    """Of all that is computed, in inner programs too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from shapes_in(inner)


@pytest.mark.slow
def test_many_queries_are_read_in_parts_of_their_widths(monkeypatch, lm, demonstrations):
    rng = np.random.default_rng(0)
    texts = [" ".join(["Rice"] * rng.integers(1, 6)) + f" {i}" for i in range(38)]
    many = claims_from_rows(rows_of([*texts, "rice " * 40, "No"]), preamble=PREAMBLE)
    steerer = make_steerer(lm, demonstrations, many)
    parts, places = by_length(steerer.queries)
    widths = [part.queries.shape[1] for part in parts]
    assert len(parts) > 1
    assert widths == sorted(set(widths))
    assert all((part.query_lengths <= part.queries.shape[1]).all() for part in parts)
    again = np.concatenate([part.query_lengths for part in parts])[places]
    np.testing.assert_array_equal(again, steerer.queries.query_lengths)
    found = steerer(np.array([1, 0, -1, 1]))
    # All as wide as the longest; the tests above hold that to one prompt a query.
    monkeypatch.setattr("icmjax.steering.in_context.PART_ENDS", (1,))
    assert len(by_length(steerer.queries)[0]) == 1
    np.testing.assert_allclose(found, steerer(np.array([1, 0, -1, 1])), atol=1e-5)


def test_claims_of_like_lengths_run_one_program(lm, demonstrations, queries):
    labels = np.zeros((1, 4), np.int8)
    _steer.clear_cache()
    for word in ("tea", "teas"):
        rows = rows_of([f"{word} helps people who drink it hot, with rice, {i}" for i in range(3)])
        longer = claims_from_rows(rows, preamble=PREAMBLE)
        make_steerer(lm, demonstrations, longer)(labels)
    assert _steer._cache_size() == 1
