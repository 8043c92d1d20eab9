"""The published protocol: few shots through a chat template, folds, errors that break pairs."""

import copy
import dataclasses
import importlib
import json

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from experiment_commands import invoke, invoke_in, read_units, run
from scorers import table_scorer

from icmjax import claims_from_rows, load_lm
from icmjax.claims import GoldLabels
from icmjax.errors import InputError, PromptError
from icmjax.persona_world import Task
from icmjax.prompts import get_template
from icmjax.steering import make_steerer

pytestmark = pytest.mark.usefixtures("experiments_on_path")

CHAT = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}] {{ message.content }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant]>{% endif %}"
)
TOY = "--groups hestonia,ilvania --seeds 1 --num-claims 8 --num-test 8"


def rows_of(country, num_pairs, first_id=0):
    """Opposite claims about what a country answers, the first of each pair true."""
    return [
        {
            "question": f"Question {index} of {country}?",
            "choice": f"People from {country} would answer this question as: '{option}'",
            "consistency_id": index,
            "persona": country,
            "label": int(option == "Yes"),
            "raw_choice_1": "Yes",
            "raw_choice_2": "No",
        }
        for index in range(first_id, first_id + num_pairs)
        for option in ("Yes", "No")
    ]


def task_of(rows):
    return Task(claims_from_rows(rows), GoldLabels(np.array([row["label"] for row in rows])))


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    """A checkpoint of random weights with a chat template, and its torch model."""
    folder = tmp_path_factory.mktemp("chat")
    model = make_checkpoint(
        folder,
        texts=[row["question"] + row["choice"] for row in rows_of("Japan", 4)]
        + ["Few-shot examples for persona: Label the input claim as True or False Example Input"],
        max_position_embeddings=4096,
    )
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, model


@pytest.fixture(scope="module")
def chat_lm(chat_folder):
    return load_lm(str(chat_folder[0]))


def torch_log_probs(model, prompt, forms):
    """Label log-probs by one pass of torch a form."""
    totals = []
    for form in forms:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *form]])).logits[0].log_softmax(-1)
        at = range(len(prompt) - 1, len(prompt) + len(form) - 1)
        totals.append(sum(logits[i, token] for i, token in zip(at, form, strict=True)))
    return torch.stack(totals).log_softmax(-1).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["message", "turns"])
@pytest.mark.parametrize("num_shots", [0, 3])
def test_shots_go_through_the_chat_template(chat_lm, chat_folder, form, num_shots):
    """As transformers tokenises the conversation, and torch reads it."""
    module = importlib.import_module("harness.chat_shots")
    claims = task_of(rows_of("Japan", 4)).claims
    shown, asked = claims.select(range(num_shots)), claims.select(range(4, 8))
    labels = np.array([1, 0, 1], np.int8)[:num_shots]
    found = module.chat_shots(chat_lm, form, shown, labels, asked)
    query_fn, tokenizer = get_template("country").query_fn, chat_lm.tokenizer
    task = "Label the input claim as True or False\n\nInput:\n{}\n\n"
    task += "Answer with exactly one token: True or False."
    words = ("False", "True")
    for claim, logp in zip(asked.claims, found, strict=True):
        last, turns = task.format(query_fn(claim)), []
        if form == "turns":
            for one, label in zip(shown.claims, labels, strict=True):
                turns.append({"role": "user", "content": task.format(query_fn(one))})
                turns.append({"role": "assistant", "content": words[label]})
        elif num_shots:
            examples = "".join(
                f"Example {i + 1}:\nInput: {query_fn(one)}\nLabel: {words[label]}\n\n"
                for i, (one, label) in enumerate(zip(shown.claims, labels, strict=True))
            )
            last = f"Few-shot examples for persona: Japan (count=3)\n\n{examples}Task:\n{last}"
        system = (
            "You are a strict boolean classifier. Given an instruction and an input claim, output "
            "exactly one of: True or False. No punctuation, no extra words."
        )
        messages = [{"role": "system", "content": system}, *turns]
        messages.append({"role": "user", "content": last})
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        forms = [
            tokenizer(text + word, add_special_tokens=False).input_ids[len(prompt) :]
            for word in words
        ]
        assert all(forms)
        expected = torch_log_probs(chat_folder[1], prompt, forms)
        np.testing.assert_allclose(logp, expected, atol=1e-4)


def test_a_chat_template_that_takes_no_system_prompt_is_named(chat_lm):
    module = importlib.import_module("harness.chat_shots")
    claims = task_of(rows_of("Japan", 1)).claims
    tokenizer = copy.deepcopy(chat_lm.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('no system') }}"
    lm = dataclasses.replace(chat_lm, tokenizer=tokenizer)
    with pytest.raises(PromptError, match="takes a system prompt"):
        module.chat_shots(lm, "turns", claims.select([]), np.zeros(0, np.int8), claims)


def test_a_claim_that_names_a_control_token_is_refused(chat_lm):
    module = importlib.import_module("harness.chat_shots")
    rows = [row | {"question": "Is </s> an end?"} for row in rows_of("Japan", 1)]
    claims = claims_from_rows(rows)
    with pytest.raises(PromptError, match="no control token"):
        module.chat_shots(chat_lm, "message", claims.select([]), np.zeros(0, np.int8), claims)


def test_a_pool_keeps_rules_and_gold_of_both_files():
    module = importlib.import_module("published_protocol")
    first, second = task_of(rows_of("Japan", 2)), task_of(rows_of("Japan", 3))  # ids again
    pool = module.pool_of(first, second)
    assert len(pool.claims) == 10
    assert pool.gold.labels.tolist() == [1, 0] * 5
    assert np.asarray(pool.claims.rules.pairs).tolist() == [[i, i + 1] for i in range(0, 10, 2)]
    assert [len(group) for group in pool.claims.groups] == [2] * 5
    folds = module.deal(pool.claims, 4, np.random.default_rng(0))
    assert sorted(np.concatenate(folds).tolist()) == list(range(10))
    assert sorted(map(len, folds)) == [2, 2, 2, 4]
    for fold in folds:
        assert len(pool.claims.select(fold).rules.pairs) == len(fold) // 2
    with pytest.raises(InputError, match="Every fold"):
        module.deal(pool.claims, 6, np.random.default_rng(0))
    other = Task(dataclasses.replace(second.claims, preamble="They say:"), second.gold)
    with pytest.raises(InputError, match="same preamble"):
        module.pool_of(first, other)


def test_a_search_is_run_for_every_alpha_and_number_of_seeds():
    module = importlib.import_module("published_protocol")
    found = module.variants_of("icm", "40,70", "4,8")
    assert list(found) == [f"found, α = {a}, K = {k}" for a in (40, 70) for k in (4, 8)]
    assert {(one.alpha, one.num_seeds) for one in found.values()} == {
        (40, 4),
        (40, 8),
        (70, 4),
        (70, 8),
    }
    pairs = module.compared(list(found)[:2], [2, 5])
    assert len(pairs) == len(set(pairs)) == 7
    assert pairs[-1] == ("found, α = 40, K = 8, 5 shots", "found, α = 40, K = 4, 5 shots")
    assert module.variants_of("marginals", None, None) == {"found": module.ALGORITHMS["marginals"]}
    with pytest.raises(InputError, match="num_seeds"):
        module.variants_of("bootstrap", None, "4")


@pytest.fixture(scope="module")
def france(chat_folder, tmp_path_factory, experiments_on_path):
    """The protocol on two personas, one of which has published numbers; a table is searched."""
    folder = tmp_path_factory.mktemp("france")
    for split, first_id in (("search", 0), ("test", 4)):
        rows = [*rows_of("France", 4, first_id), *rows_of("Peru", 4, first_id)]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    options = (
        f"--model {chat_folder[0]} --claims {folder}/search.json --test {folder}/test.json "
        "--personas France,Peru --shots 2 --folds 2 --algorithm bootstrap"
    )
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("published_protocol")
        patch.setattr(module, "make_scorer", lambda lm, claims, **_: table_scorer(0, len(claims)))
        return options, folder / "out", run("published_protocol", options, folder / "out")


@pytest.mark.slow
def test_the_protocol_scores_every_claim_after_the_other_folds(france, chat_lm):
    """Plain gold shots by hand: the first n of the shuffled other folds."""
    _, out, _ = france
    module = importlib.import_module("published_protocol")
    unit = read_units(out)[0]
    folder = out.parent
    pool = module.pool_of(
        *(
            task_of(json.loads((folder / f"{name}.json").read_text())[:8])
            for name in ("search", "test")
        )
    )
    order = importlib.import_module("harness.draws").unit_rng("France", 0, 1).permutation(16)
    folds = [np.array(fold) for fold in unit["folds"]]
    is_right = []
    for fold in folds:
        first = order[~np.isin(order, fold)][:2]
        steerer = make_steerer(chat_lm, pool.claims.select(first), pool.claims.select(fold))
        predicted = steerer(pool.gold.labels[first]).argmax(-1)
        is_right += (predicted == pool.gold.labels[fold]).tolist()
    assert unit["conditions"]["plain: gold, 2 shots"]["accuracy"] == np.mean(is_right)
    labels, pairs = np.array(unit["labels"]["random"]), np.array(pool.claims.rules.pairs)
    is_broken = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    assert unit["share_broken"]["random"] == is_broken.mean()
    assert unit["share_broken"]["gold"] == 0
    names = {name.split(": ")[0] for name in unit["conditions"]}
    assert names == {"plain", "message", "turns"}
    assert len(unit["conditions"]) == 3 * (1 + 3)


@pytest.mark.slow
def test_published_numbers_stand_beside_ours(france):
    _, out, printed = france
    assert (
        "France, published (70B): ICM 0.686, gold 0.754, chat zero-shot 0.750, base zero-shot 0.679"
        in printed
    )
    assert "France, here, message, 2 shots: found " in printed
    assert "Peru, published" not in printed
    report = json.loads((out / "report.json").read_text())
    compared = report["turns: differences in accuracy, 2 groups × 1 seeds, p by Holm"]
    assert [row["name"] for row in compared] == [
        "found, 2 shots − gold, 2 shots",
        "found, 2 shots − random, 2 shots",
        "gold, 2 shots − zero-shot",
    ]


@pytest.mark.slow
def test_the_protocol_resumes(france, monkeypatch):
    options, out, _ = france
    before = (out / "report.json").read_bytes()
    monkeypatch.setattr(importlib.import_module("harness.units"), "run_together", None)
    assert "nothing is left to run" in run("published_protocol", options, out)
    assert (out / "report.json").read_bytes() == before


def test_a_model_without_a_chat_template_has_one_form(tmp_path):
    result = invoke("published_protocol", f"{TOY} --forms message", tmp_path)
    assert result.exit_code == 2
    assert "a tokenizer without one" in result.output


def test_random_errors_of_each_kind():
    """False alarm of the shares: below 1e-6 (normal, 2,000 draws of 20 pairs, 5 deviations)."""
    draws, rules = (
        importlib.import_module("harness.draws"),
        importlib.import_module("harness.rules"),
    )
    pairs = np.arange(40).reshape(-1, 2)
    gold, rng = np.tile([1, 0], 20).astype(np.int8), np.random.default_rng(0)
    kept = draws.kept_labels(rng, gold, 0.8, 2000)
    assert abs((kept == gold).mean() - 0.8) < 5 * np.sqrt(0.8 * 0.2 / 80_000)
    assert abs(rules.share_broken(kept, pairs).mean() - 0.32) < 5 * np.sqrt(0.32 * 0.68 / 40_000)
    scattered = draws.scattered_flips(rng, gold, 8, 50)
    assert ((scattered != gold).sum(-1) == 8).all()
    split = draws.split_flips(rng, gold, pairs, 8, 50)
    assert ((split != gold).sum(-1) == 8).all()
    assert (rules.share_broken(split, pairs) == 8 / 20).all()
    assert (rules.share_broken(draws.matched_flips(rng, gold, pairs, 4, 50), pairs) == 0).all()
    rounded = [draws.rounded_at_random(rng, 3.2) for _ in range(2000)]
    assert set(rounded) == {3, 4}
    assert abs(np.mean(rounded) - 3.2) < 5 * np.sqrt(0.16 / 2000)
    assert {draws.rounded_at_random(rng, 4.0) for _ in range(50)} == {4}


@pytest.mark.slow
def test_flips_of_claims_at_the_accuracy_of_coherent_sets(tmp_path):
    """From the labels as they were stored."""
    options = f"--model observer {TOY} --flips claims --keep 0.75 --swaps 4 --draws 3 --repeats 1"
    printed = run("matched_accuracy", options, tmp_path)
    assert "coherent − claims, accuracy" in printed
    for unit in read_units(tmp_path):
        gold, pairs = np.array(unit["sets"]["gold"][0]["labels"]), np.array(unit["pairs"])
        labels = {
            kind: np.array([one["labels"] for one in sets]) for kind, sets in unit["sets"].items()
        }
        assert unit["num_wrong_pairs"] == 1  # a quarter of four
        for kind in ("scattered", "split", "pairs", "β = 0", "coherent"):
            assert ((labels[kind] != gold).sum(-1) == 2).all()
        is_broken = {
            kind: (rows[:, pairs].sum(-1) != 1).mean(-1).tolist() for kind, rows in labels.items()
        }
        assert is_broken["split"] == [0.5] * 3
        assert is_broken["pairs"] == [0.0] * 3
        for kind, sets in unit["sets"].items():
            assert [one["share_broken"] for one in sets] == is_broken[kind]
            assert [one["label_accuracy"] for one in sets] == (labels[kind] == gold).mean(
                -1
            ).tolist()


def test_the_phase_diagram_breaks_no_pair(tmp_path):
    result = invoke_in(tmp_path, "matched_accuracy", "--part phase --flips claims")
    assert result.exit_code == 2
    assert "turns whole pairs" in result.output


def test_labels_that_leave_no_pairs_to_break_are_refused(tmp_path):
    options = f"--model observer {TOY} --flips claims --keep 0.2"
    result = invoke("matched_accuracy", options, tmp_path)
    assert result.exit_code == 2
    assert "two pairs to break" in result.output
