"""Every error of the documentation, and the test of its message and its status.

A row has the page, its sentence, how the path ends, words of the message, and what provokes it: a
command, a call, or the test elsewhere that has both the words and the end. This file fails where a
page no longer says the sentence, where that test is gone or looks at something else, and where a
page speaks of an error that has no row.
"""

import ast
import dataclasses
import functools
import inspect
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
import transformers
from click.testing import CliRunner
from scorers import table_scorer

import icmjax
from icmjax.cli.commands import main
from icmjax.errors import (
    CheckpointError,
    ClaimsError,
    InputError,
    Preempted,
    PromptError,
    RunError,
    ScoreError,
)
from icmjax.lm.hf_config import config_from_hf

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS, DATA, EXPORTS = "docs/commands.md", "docs/data.md", "docs/exports.md"
FEEDBACK, LABELLING, MODELS = "docs/feedback.md", "docs/labelling.md", "docs/models.md"
SCALING, DESIGN, LIBRARY = "docs/scaling.md", "docs/design.md", "docs/library.md"
CONCEPTS, TUTORIAL, GPU = "docs/concepts.md", "docs/tutorial.md", "docs/gpu.md"
HOW, EXPERIMENTS, BENCHMARKS = "CONTRIBUTING.md", "experiments/README.md", "benchmarks/README.md"
OTHERS = ("README.md", "docs/api.md", "docs/bundled.md", "docs/extend.md")
PAGES = (COMMANDS, DATA, EXPORTS, FEEDBACK, LABELLING, MODELS, SCALING, DESIGN, LIBRARY, CONCEPTS,
         TUTORIAL, GPU, HOW, EXPERIMENTS, BENCHMARKS, *OTHERS)  # fmt: skip

# How paths end that are no errors.
WARNED = "warn"
PAGE_403, PAGE_413 = 403, 413  # of the page that asks


class Row(NamedTuple):
    """One error that a page tells of."""

    page: str  # or a public name, whose docstring is the page
    sentence: str
    end: int | str | type[Exception]  # a status, an exception, or what else its test asks for
    words: tuple[str, ...]  # of the message: what is wrong, and what to do
    provoked_by: str | tuple[object, ...] | Callable[[], object]


def of_rows(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


FILES = {
    "free.jsonl": of_rows({"claim": "Tea helps."}, {"claim": "Rice helps."}),
    "tied.jsonl": of_rows(
        *({"choice": text, "consistency_id": 0} for text in ("Rice helps", "Tea waits"))
    ),
    "maybe.jsonl": of_rows({"claim": "Tea", "label": "maybe"}, {"claim": "Rice", "label": 1}),
    "polls.jsonl": of_rows(
        *(
            {"claim": f"{word} helps.", "persona": word, "preamble": f"Poll of {word}."}
            for word in ("Peru", "Mali")
        )
    ),
    "object.json": '{"claim": "Tea helps."}',
    "polis.csv": "comment-id,agrees,comment-body\n1,3,Tea helps\n2,4,Rice helps\n",
    "helm.csv": "question\toptions\tpersona\nTea?\t['Yes', 'No']\tPeru\n",
    "votes.jsonl": of_rows(
        {
            "first_turn_prompt": "Tea?",
            **{f"first_turn_response_{letter}": letter * 3 for letter in "abcd"},
            "first_turn_preferred_response": "e",
            "annotator_country": "Peru",
        }
    ),
}
TASK = "persona-world:norvania:0"
LABEL = "search", "--model", "nowhere", "--out", "out", "--claims"


def at(name: str) -> str:
    """A test elsewhere, by its file without what all files begin with."""
    return f"tests/test_{name}"


def config_of(kind: str, **fields: object) -> Callable[[], object]:
    return lambda: config_from_hf(getattr(transformers, f"{kind}Config")(**fields))


@functools.cache
def bundled(max_length: int | None = None) -> icmjax.LanguageModel:
    return icmjax.load_lm("persona-world", max_length=max_length)


def task() -> icmjax.ClaimSet:
    return icmjax.load_task(TASK)[0]


def steered(steer_fn: Callable, lm: icmjax.LanguageModel, **changes: object) -> object:
    """Steer the world's claims by themselves, or by a changed copy of them."""
    claims, gold = icmjax.load_task(TASK)
    others = dataclasses.replace(claims, **changes)
    labels = {"gold": gold.labels} if steer_fn is icmjax.compare else gold.labels
    return steer_fn(lm, others, labels, claims, gold)


def asked_of_no_numbers() -> object:
    scorer = table_scorer(0, 2)
    scorer = dataclasses.replace(scorer, bias=scorer.bias.at[1].set(jnp.nan))
    return icmjax.ask(scorer, icmjax.load_claims("free.jsonl"), 1, "zero_shot_entropy")


def answered_both() -> object:
    """Two answers of which a rule allows one."""
    claims = icmjax.load_claims("tied.jsonl", rule="exactly_one_true")
    answers = {claim.id: True for claim in claims.claims}
    return icmjax.answer(table_scorer(0, 2), claims, answers, icmjax.Bootstrap(), jax.random.key(0))


WARNED_OF = "consistency groups", "do not agree", "not told from chance"
REFUSED_MODELS = "So these are refused: weights that are quantised already"
KEEPS = "It keeps to `--memory-budget`, or is refused."
SAVED = "The search is saved, the command says how it goes on, and its status is 143."
# fmt: off
ROWS = [
    # Commands.
    Row(COMMANDS, "input or options are refused; stderr says what was expected, what "
        "was found, where, and what to do", 2, ("found:", "to do:"),
        at("cli.py::test_bad_input_gets_a_message_and_status_2")),
    Row(COMMANDS, "| 130 | Ctrl-C; a search says with which command it goes on |", 130,
        ("--iterations 5 --quiet --resume",),
        at("runs_answers.py::test_a_search_that_is_interrupted_says_how_to_go_on")),
    Row(COMMANDS, "| 143 | SIGTERM; a search has saved itself, and says with which command it goes "
        "on |", 143, ("preempted after 1 steps; go on with: icmjax search --model ",),
        at("preemption.py::test_a_command_that_is_preempted_says_how_it_goes_on")),
    # Claims.
    Row(DATA, "`.json` is a list of objects", 2,
        ("dict instead of a list of rows", ".json is a list of objects"),
        ("check", "--claims", "object.json")),
    Row(DATA, 'pip install "icmjax[datasets]"', ClaimsError, ('pip install "icmjax[datasets]"',),
        at("claims_sources.py::test_without_the_library_its_extra_is_named")),
    Row(DATA, "| the same, and a network |", ClaimsError, ("no network, and no copy",
        "save_to_disk"), at("claims_sources.py::test_what_the_hub_refuses_is_a_fault")),
    Row(DATA, "Where there are several splits one has to be named.", ClaimsError,
        ("the splits train, test", "@train"),
        at("claims_sources.py::test_saved_datasets_are_read")),
    Row(DATA, "Rows of a folder do not know which file they stand in.", ClaimsError, ("whose",),
        at("claims_sources.py::test_folders_without_claims_are_faults")),
    Row(DATA, "`--rule`, or opposites by their text", 2, ("a pair rule says what ties them",
        "--rule none"), ("check", "--claims", "tied.jsonl")),
    Row(DATA, "two sides on consecutive rows", ClaimsError, (":question",),
        at("claims.py::test_political_rows_need_their_other_side")),
    Row(DATA, "A label is True or False, 1 or 0, or one of `--options`.", 2,
        ("A label is one of False, True", "name the options"),
        ("check", "--claims", "maybe.jsonl")),
    Row(DATA, "Where none of these names the persona of its claims, `check` and `search` warn of",
        WARNED, ("warning: ", "says that these are claims of Japan, Peru"),
        at("cli_check.py::test_what_is_not_there_is_said")),
    Row(DATA, "The claims of one search have the same.", 2, ("one preamble, or none",
        "--persona", "--personas all"), ("check", "--claims", "polls.jsonl")),
    Row(DATA, "A name with a comma stands in double quotes together with ours", 2,
        ("ours=yours, with commas between", "question=Q,choice=A"),
        ("check", "--claims", "free.jsonl", "--columns", '"claim=A, in full')),
    Row(DATA, "takes a file's columns of other names, ours first", 2, ("did you mean Text?",),
        at("cli_claims.py::test_every_command_names_what_is_wrong")),
    Row(DATA, "call them `.tsv`", 2, ("Commas separate the cells", "tabs", "with commas instead"),
        ("check", "--claims", "helm.csv")),
    Row(DATA, "these are bare statements, which are refused after a run over persona statements",
        2, ("claims of the kind truth, after claims of the kind persona",),
        at("cli_predict.py::test_claims_of_another_kind_are_refused")),
    Row(DATA, "a vote that names no response of its row is a fault", 2,
        ("none of the responses",), ("check", "--claims", "votes.jsonl")),
    Row(DATA, "Files of Polis and of the polarised issues are not read", 2,
        ("One column of a file holds its claims", "--columns claim=comment-body"),
        ("check", "--claims", "polis.csv")),
    # Exports.
    Row(EXPORTS, "`--out PATH` chooses another place, and is refused where something else is.", 2,
        ("not written over",), at("exports.py::test_what_is_there_is_not_written_over")),
    Row(EXPORTS, "| the folder `lm_eval` | `--claims` |", 2, ("asks about held-out claims",),
        at("exports.py::test_options_that_say_nothing_of_a_format_are_refused")),
    Row(EXPORTS, "on claims of your own, which need gold labels", 2, ("icmjax predict",),
        at("exports.py::test_claims_without_gold_or_among_the_shown_are_no_questions")),
    Row(EXPORTS, "cuts prompts that are longer than a model's context, from the left. icmjax "
        "refuses them.", 2, ("fits the model's context", "use a model with a longer context"),
        ("check", "--claims", TASK, "--model", "persona-world", "--max-length", 20)),
    Row(EXPORTS, "Templates whose label is read apart from the space before it (`reference` and "
        "its like) are refused", 2, ("the space before a label",),
        at("exports.py::test_labels_that_the_harness_would_read_otherwise_are_refused")),
    Row(EXPORTS, "Other algorithms draw no samples, and a ladder that is annealed draws each from "
        "another law: they are refused.", RunError, ("a run of ICM", "annealed"),
        at("exports.py::test_what_is_no_sample_is_not_called_a_draw")),
    Row(EXPORTS, '`pip install "icmjax[arviz]"`', 2, ('pip install "icmjax[arviz]"',),
        at("exports.py::test_a_library_that_is_missing_is_named")),
    # Feedback.
    Row(FEEDBACK, "Ctrl-C loses none.", 130, ("1 of 2 questions done",),
        at("ask.py::test_a_round_that_is_cut_off_goes_on")),
    Row(FEEDBACK, "Set `label` in the rows of the file between the two.", 2,
        ("set `label` in the rows of",),
        at("cli_runs.py::test_answers_to_other_claims_are_refused")),
    # Labelling.
    Row(LABELLING, "Where tied claims say no rule, the command asks for one", 2,
        ("a pair rule says what ties them", "--rule none"), (*LABEL, "tied.jsonl")),
    Row(LABELLING, "`check` and `search` warn where none of them does.", WARNED,
        ("warning: ", "says that these are claims of Japan, Peru"),
        at("cli_check.py::test_what_is_not_there_is_said")),
    Row(LABELLING, KEEPS, 2, ("more than the budget",),
        at("cli.py::test_bad_input_gets_a_message_and_status_2")),
    Row(LABELLING, "An evaluation keeps to it too.", 2, ("more than the budget",),
        at("cli.py::test_evaluate_refuses_a_budget_that_nothing_fits")),
    Row(LABELLING, "A damaged checkpoint is warned of, and the one before it used.", WARNED,
        ("warning: the last checkpoint is damaged", "goes on from the one before it"),
        at("preemption.py::test_a_damaged_checkpoint_is_told_of_when_the_search_goes_on")),
    Row(LABELLING, "SIGTERM, with which schedulers end a job, lets the running block end", 143,
        ("preempted after 1 steps",),
        at("preemption.py::test_a_command_that_is_preempted_says_how_it_goes_on")),
    Row(LABELLING, SAVED, 143, ("--quiet --resume",),
        at("preemption.py::test_a_command_that_is_preempted_says_how_it_goes_on")),
    Row(LABELLING, "Ctrl-C ends it at once, with 130.", 130, ("nothing was kept; start anew with",),
        at("runs_answers.py::test_a_search_that_is_interrupted_early_keeps_nothing")),
    Row(LABELLING, "What the run warns of (one label for nearly all, marginals near an even guess",
        WARNED, ("says False of 100% of the claims", "near even"),
        at("marginals.py::test_a_favoured_label_and_an_even_guess_are_said")),
    Row(LABELLING, "few groups, chains that differ, an accuracy that is not told from chance)",
        WARNED, WARNED_OF, at("report.py::test_what_the_run_itself_shows_is_warned_of")),
    Row(LABELLING, "`evaluate` steers the model on held-out claims whose gold labels are known.", 2,
        ("icmjax predict",), at("cli_predict.py::test_an_evaluation_says_which_gold_it_lacks")),
    Row(LABELLING, "Claims that are among the demonstrations, and their opposites, are left out", 2,
        ("Held-out claims are not among the demonstrations", "all 6 are"),
        at("cli.py::test_demonstrations_are_not_held_out")),
    Row(LABELLING, "Nothing is written over.", 2, ("not written over",),
        at("cli_predict.py::test_predictions_are_not_written_over")),
    # The library.
    Row(LIBRARY, "Call `icmjax.use_cores(2)` before all else", RuntimeError,
        ("jax_num_cpu_devices", "before"), lambda: jax.devices() and icmjax.use_cores(2)),
    Row(LIBRARY, "It then raises `icmjax.errors.Preempted`, and the run that it was given "
        "holds all that it took.", Preempted,
        ("ended as it was asked to, after",),
        at("preemption.py::test_a_search_ends_where_its_caller_says")),
    Row(LIBRARY, "SIGTERM of one ends all of them at the same step, and they are resumed together.",
        143, ("preempted after ", "--resume"), at("preemption.py::"
        "test_hosts_of_a_job_are_preempted_and_resumed_together")),
    # Models.
    Row(MODELS, "as transformers does up to the model's length; longer prompts are refused",
        CheckpointError, ("as long as the model was made for", "Give 64 or less"),
        lambda: config_from_hf(
            transformers.LlamaConfig(
                max_position_embeddings=64,
                rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
            ),
            max_length=65,
        )),
    Row(MODELS, "(`pip install 'icmjax[quantize]'`)", CheckpointError, ("pip install",),
        at("quantized.py::test_what_cannot_be_kept_so_is_refused")),
    Row(MODELS, "The checkpoint itself has to be one that is not quantised.", CheckpointError,
        ("quantised by gptq",), at("lm_loading.py::test_quantised_models_are_told_so")),
    Row(MODELS, "A field of `config.json` that transformers reads and that changes the computation "
        "is computed or refused", CheckpointError, ("sliding_window", "relu"),
        at("lm_loading.py::test_what_would_change_the_computation_is_refused")),
    Row(MODELS, REFUSED_MODELS, CheckpointError, ("quantization_config",),
        at("lm_loading.py::test_what_would_change_the_computation_is_refused")),
    Row(MODELS, "heads rotated in part where the family does not do so", CheckpointError,
        ("Heads of a llama model are rotated whole",), config_of("Llama", rope_parameters={
            "rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5})),
    Row(MODELS, "DoRA and other adapters than LoRA", CheckpointError, ("use_dora = True", "IA3"),
        at("lm_adapters.py::test_what_is_no_plain_addition_is_refused")),
    Row(MODELS, "`mlp_only_layers`", CheckpointError, ("mlp_only_layers", "Use a model without it"),
        config_of("Qwen3Moe", mlp_only_layers=[1])),
    Row(MODELS, "`decoder_sparse_step` of mixed Qwen3-MoE models", CheckpointError,
        ("decoder_sparse_step", "Use a model without it"),
        config_of("Qwen3Moe", decoder_sparse_step=2)),
    Row(MODELS, "all families that are not in the table (gpt-oss among them", CheckpointError,
        ("of a family that the decoder computes", "Use a model of one of"), config_of("GptOss")),
    # Many chips, and one.
    Row(SCALING, '"Planned" is what `icmjax` refuses a pass by.', InputError,
        ("fewer or shorter claims",),
        at("planner.py::test_what_does_not_fit_the_budget_is_refused")),
    Row(SCALING, "A plan that is too high refuses early", InputError, ("fewer or shorter claims",),
        at("planner.py::test_what_does_not_fit_the_budget_is_refused")),
    Row(SCALING, "Several machines are one search where each runs the same command with "
        "`--distributed`.", 2, ("told of one another", "say --mesh instead"),
        at("mesh.py::test_a_process_that_nobody_told_of_others_is_refused")),
    Row(SCALING, "SIGTERM of one ends all of them at the same step, and the same command with "
        "`--resume` goes on.", 143, ("preempted after ", "--resume"), at("preemption.py::"
        "test_hosts_of_a_job_are_preempted_and_resumed_together")),
    Row(SCALING, "`--personas` is refused with several.", 2, ("2 processes",),
        at("cli_personas.py::test_processes_do_not_share_several_searches")),
    Row(GPU, "Where there is neither it is refused.", CheckpointError,
        ("runs on TPUs and NVIDIA GPUs", 'Use attention="einsum"'),
        lambda: icmjax.load_lm("persona-world", attention="flash")),
    # What can go wrong.
    Row(CONCEPTS, "One label for all claims is very coherent. | a warning; `labels` says it",
        WARNED, ("of the labels are the same one",),
        at("runs_answers.py::test_a_collapsed_search_warns")),
    Row(CONCEPTS, "| marginals near even, a warning |", WARNED, ("near even",),
        at("marginals.py::test_a_favoured_label_and_an_even_guess_are_said")),
    Row(CONCEPTS, "| wide intervals; a warning below 30 groups of claims |", WARNED,
        WARNED_OF[:1], at("report.py::test_what_the_run_itself_shows_is_warned_of")),
    Row(TUTORIAL, "says that ten pairs of claims are few", WARNED, WARNED_OF[:1],
        at("report.py::test_what_the_run_itself_shows_is_warned_of")),
    Row(TUTORIAL, "for claims in your own words take a real model", 2, ("knows every word",
        "use a real model", "those of its made-up world"),
        ("check", "--claims", "free.jsonl", "--model", "persona-world")),
    # The design.
    Row(DESIGN, "A file whose groups have several claims and no rule is asked about: `--rule` "
        "names it.", ClaimsError, ("3 groups of several claims, none",),
        at("claims_opposites.py::test_tied_claims_without_a_rule_are_asked_about")),
    Row(DESIGN, "What does not join is refused.", PromptError, ("start of a text",
        "preamble"), at("tokens.py::"
        "test_claims_that_begin_otherwise_are_refused_where_a_first_word_is_special")),
    Row(DESIGN, "Nothing is ever cut off.", PromptError, ("1 more than the",),
        at("tokens.py::test_a_prompt_that_does_not_fit_says_by_how_much_and_what_would")),
    Row(DESIGN, "a field that the family's class declares is computed or refused", CheckpointError,
        ("is_causal",),
        at("lm_loading.py::test_what_would_change_the_computation_is_refused")),
    Row(DESIGN, "what it cannot do is refused", CheckpointError, ("does not cap scores",),
        at("lm_segments.py::test_fused_attention_that_cannot_run_is_refused")),
    Row(DESIGN, '`attention="flash"` asks for our own kernel, on TPUs and NVIDIA GPUs.',
        CheckpointError, ("runs on TPUs and NVIDIA GPUs",),
        at("lm_segments.py::test_fused_attention_that_cannot_run_is_refused")),
    Row(DESIGN, '`attention="cudnn"` asks for NVIDIA\'s fused kernel, in 16 bits and without '
        "capped scores.", CheckpointError, ("takes bfloat16",),
        at("lm_segments.py::test_fused_attention_that_cannot_run_is_refused")),
    Row(DESIGN, "A scorer keeps to its `memory_budget`, or `make_scorer` refuses it and says by "
        "how much.", InputError, ("more than the budget", "allow more memory"),
        lambda: icmjax.make_scorer(bundled(), task(), memory_budget=1000)),
    Row(DESIGN, "`--devices 2` takes what JAX has", 2, ("give 1 to",),
        at("cli.py::test_bad_input_gets_a_message_and_status_2")),
    Row(DESIGN, "Between them the host refuses scores that are not finite", ScoreError,
        ("claim 4",), at("icm.py::test_scores_that_are_not_finite_name_their_claims")),
    Row(DESIGN, "It then raises `Preempted`, and what it took is saved.", Preempted,
        ("ended as it was asked to, after",),
        at("preemption.py::test_a_search_ends_where_its_caller_says")),
    Row(DESIGN, "It raises all faults at once.", InputError, ("start_labels", "num_iterations"),
        at("tempering.py::test_config_faults_are_reported_together")),
    Row(DESIGN, "enumerated (at most 256)", ClaimsError, ("more than 256",),
        at("moves.py::test_hard_rules_without_a_consistent_labelling_are_refused")),
    Row(DESIGN, "A model that gives one label to nine tenths of the claims zero-shot is warned of",
        WARNED, ("says False of 100% of the claims",),
        at("marginals.py::test_a_favoured_label_and_an_even_guess_are_said")),
    Row(DESIGN, "Demonstrations and queries have the same options and preamble.", InputError,
        ("same preamble",), at("steering.py::test_claim_sets_that_do_not_go_together")),
    Row(DESIGN, "One process at a time asks, or writes questions into the run's folder, by the "
        "run's lock.", 2, ("One process at a time",),
        at("ask.py::test_nobody_else_writes_the_questions_meanwhile")),
    Row(DESIGN, "a reply that says another one is refused", InputError,
        ("True, and False that somebody wrote meanwhile",),
        at("ask_page.py::test_two_labels_of_one_claim_are_both_said")),
    Row(DESIGN, "and comes from this page where it writes; others get 403", PAGE_403, ("Origin",),
        at("ask_page.py::test_others_are_refused")),
    Row(DESIGN, "A body over 4 KiB gets 413.", PAGE_413, ("MAX_BODY + 1",),
        at("ask_page.py::test_a_reply_is_small_and_means_something")),
    Row(DESIGN, "with a `RunWarning` that names the one that was passed over", WARNED,
        ("warning: the last checkpoint is damaged", "whose digest is not the one in its name"),
        at("preemption.py::test_a_damaged_checkpoint_is_told_of_when_the_search_goes_on")),
    Row(DESIGN, "What is broken is named", 2, ("found:", "where:", "to do:"),
        at("runs_damage.py::test_every_command_names_what_is_damaged")),
    Row(DESIGN, "A resumed search must have the same configuration", 2,
        ("num_iterations = 13, before 12",),
        at("cli.py::test_a_resume_under_another_configuration_shows_the_difference")),
    Row(DESIGN, "since one process writes a run", RunError, ("is writing it",),
        at("runs.py::test_folders_that_are_refused")),
    Row(DESIGN, "a complete one, which nobody touches", RunError, ("resume=True",),
        at("runs.py::test_folders_that_are_refused")),
    Row(DESIGN, "renamed, never through a link", ClaimsError,
        ("What is written over is a plain file", "a symbolic link"),
        lambda: icmjax.write_claims(icmjax.load_claims("free.jsonl"), "link.jsonl")),
    Row(DESIGN, "An `InputError` is a message on stderr and exit status 2.", 2,
        ("A claim file exists", "to do:"), ("check", "--claims", "absent.jsonl")),
    Row(DESIGN, "A fault of the library names arguments as Python does", ClaimsError,
        ('rule="none"', "--rule none"),
        at("errors.py::test_a_command_spells_arguments_as_options")),
    Row(DESIGN, "Ctrl-C, 130, loses no answer", 130, ("1 of 2 questions done",),
        at("ask.py::test_a_round_that_is_cut_off_goes_on")),
    Row(DESIGN, "Ctrl-C ends `ask` like the page does: 0, or 2 where the search was refused.", 2,
        ("A rule.",), at("ask.py::test_a_round_that_is_over_ends_with_its_own_status")),
    Row(DESIGN, "An option that has no meaning for an algorithm is refused.", 2,
        ("An option means something for the algorithm icm", "--replicas 4", "leave it out"),
        (*LABEL, "free.jsonl", "--algorithm", "icm", "--replicas", 4)),
    Row(DESIGN, "`RANGES` says which numbers an option takes; all are checked before anything is "
        "read.", 2, ("where: {option}", "to do: give"), at("cli_options.py::"
        "test_numbers_out_of_range_are_refused_wherever_they_are_taken")),
    Row(DESIGN, "Ctrl-C ends a command with status 130", 130, ("interrupted",),
        at("cli_options.py::test_an_interrupt_ends_with_130")),
    Row(DESIGN, "and a search says how to resume it", 130, ("--quiet --resume",),
        at("runs_answers.py::test_a_search_that_is_interrupted_says_how_to_go_on")),
    Row(DESIGN, "SIGTERM ends a search (`search`, `answer`) with status 143", 143,
        ("preempted after 1 steps",),
        at("preemption.py::test_a_command_that_is_preempted_says_how_it_goes_on")),
    Row(DESIGN, "A search that is through completes, with status 0.", 0, ("write_results",),
        at("preemption.py::test_a_command_that_is_through_completes")),
    Row(DESIGN, "A second SIGTERM ends the process at once", "-signal.SIGTERM", ("the first",),
        at("preemption.py::test_a_second_sigterm_ends_the_process")),
    Row(DESIGN, "Shells report 143 of a process that SIGTERM killed at once, too.", 143,
        ("preempted ",),
        at("kills.py::test_a_search_that_is_killed_at_random_ends_with_the_same_bits")),
    Row(DESIGN, "| 2 | input that is refused |", 2, ("found:", "to do:"),
        at("cli.py::test_bad_input_gets_a_message_and_status_2")),
    Row(DESIGN, "| 130 | Ctrl-C |", 130, ("interrupted",),
        at("cli_options.py::test_an_interrupt_ends_with_130")),
    Row(DESIGN, "| 143 | SIGTERM: resume it |", 143, ("--quiet --resume",),
        at("preemption.py::test_a_command_that_is_preempted_says_how_it_goes_on")),
    # Contributing, experiments, benchmarks.
    Row(HOW, "Errors are subclasses of `InputError`. They state the rule, what was found, where, "
        "and what to do.", InputError, ("found:", "where:", "to do:"),
        at("errors.py::"
                "test_faults_of_one_cause_are_shown_together_and_other_causes_each")),
    Row(HOW, "All faults of an input are collected and raised at once.", 2,
        ("--orders", "--alpha", "--limit"),
        at("cli_options.py::test_all_faults_are_told_at_once")),
    Row(EXPERIMENTS, "A command needs no options, but for the folder of public data that "
        "`polarized_issues.py`", 2, ("no folder", "akonya/polarized-issues-data"),
        at("experiments.py::test_the_votes_are_asked_for")),
    Row(EXPERIMENTS, "`wording.py`, `borders.py` and `in_vivo.py` read", 2,
        ("name it with --data",),
        at("in_vivo.py::test_without_the_data_the_message_says_what_to_do")),
    Row(EXPERIMENTS, "A folder keeps one configuration: other options want another `--out`.", 2,
        ("4 then, 5 now", "name another folder with --out"),
        at("experiments.py::test_another_configuration_is_refused")),
    Row(BENCHMARKS, "Without torch the rows of transformers are left out, and a line says so.", 0,
        ("torch is absent",), at("bench.py::"
        "test_engines_on_torch_are_left_out_with_a_line_where_it_is_absent")),
    Row(BENCHMARKS, "refused: 57 MiB at the least", InputError, ("fewer or shorter claims",),
        at("planner.py::test_what_does_not_fit_the_budget_is_refused")),
    # The library's own pages: what docstrings say that is raised.
    Row("load_claims", "it lists all faults found", ClaimsError, ("{broken", "1:choice"),
        at("claims.py::test_all_faults_are_raised_at_once")),
    Row("load_gold", "labels are outside of the options", ClaimsError,
        ("A label is one of False, True", "name the options"),
        lambda: icmjax.load_gold("maybe.jsonl")),
    Row("load_personas", "or no persona is named", ClaimsError,
        ("Claims name their personas", 'columns={"persona": "NAME"}'),
        lambda: icmjax.load_personas("free.jsonl")),
    Row("write_claims", "the path does not end in .jsonl", ClaimsError,
        ("Claims are written as JSONL", "name it free.jsonl"),
        lambda: icmjax.write_claims(icmjax.load_claims("free.jsonl"), "free.csv")),
    Row("load_lm", "The devices of the mesh cannot share the weights evenly", InputError,
        ("3 devices for 4 heads",), at("mesh.py::test_a_mesh_that_does_not_fit_is_refused")),
    Row("load_lm", "The folder or one of its files is absent", CheckpointError,
        ("A model is a folder, a bundled model or", "Did you mean persona-world?"),
        lambda: icmjax.load_lm("persona-wrld")),
    Row("use_cores", "JAX has its devices already", RuntimeError,
        ("jax_num_cpu_devices", "before"), lambda: jax.devices() and icmjax.use_cores(2)),
    Row("make_scorer", "arguments that do not go together", InputError,
        ("An option goes with a method that has it", "another `method`"),
        lambda: icmjax.make_scorer(bundled(), task(), context_size=2)),
    Row("make_scorer", "a prompt does not fit the model", PromptError,
        ("fits the model's context", "use a model with a longer context"),
        lambda: icmjax.make_scorer(bundled(20), task())),
    Row("make_subset_scorer", "as `make_scorer`", InputError, ("is smaller than",),
        at("subset.py::test_a_subset_is_smaller_than_its_set")),
    Row("make_subset_scorer", "as `make_scorer`", PromptError,
        ("fits the model's context", "use a model with a longer context"),
        lambda: icmjax.make_subset_scorer(bundled(20), task(), 2)),
    Row("run_search", "the search ended as it was asked to", Preempted,
        ("ended as it was asked to, after",),
        at("preemption.py::test_a_search_ends_where_its_caller_says")),
    Row("run_search", "the rules or the clamped labels do not fit", ClaimsError,
        ("hard pair rules", "one entry for each claim"),
        at("icm.py::test_clamped_labels_that_do_not_fit")),
    Row("run_search", "the scorer gave a label log-prob that is not finite", ScoreError,
        ("claim 4",), at("icm.py::test_scores_that_are_not_finite_name_their_claims")),
    Row("run_search", "what `run` kept is of another version", RunError,
        ("version of icmjax that began it",),
        at("runs.py::test_steps_that_another_version_kept_are_refused")),
    Row("search_together", "have different shapes, or the algorithms differ", InputError,
        ("have one shape", "by one algorithm"),
        at("together.py::test_what_cannot_run_together_is_refused")),
    Row("search_together", "as of `run_search`", ClaimsError, ("integers",),
        at("together.py::test_what_cannot_run_together_is_refused")),
    Row("search_together", "as of `run_search`", ScoreError, ("claim 1",),
        at("together.py::test_what_cannot_run_together_is_refused")),
    Row("search_together", "as of `run_search`", Preempted, ("stop_fn=stop",),
        at("together.py::test_each_goes_on_alone_from_what_all_kept_together")),
    *(Row(name, "a field is out of its range", InputError,
          ("`num_chains` must be", "give `num_chains` a value in that range"), call)
      for name, call in (
          ("ICM", lambda: icmjax.ICM(num_chains=0)),
          ("ParallelTempering", lambda: icmjax.ParallelTempering(num_chains=0)),
      )),
    Row("FixedAccuracy", "a field is out of its range", InputError,
        ("none with 3 errors", "4 labels up to 1, 10 claims"),
        at("fixed_accuracy.py::test_what_cannot_be_is_refused")),
    *(row
      for name, call in (("evaluate", icmjax.evaluate), ("compare", icmjax.compare))
      for row in (
          Row(name, "the claim sets do not go together", InputError,
              ("have the same preamble", "claims of the same kind"),
              functools.partial(lambda call: steered(call, bundled(), preamble="Poll."), call)),
          Row(name, "a prompt does not fit the model", PromptError,
              ("fits the model's context", "fewer demonstrations"),
              functools.partial(lambda call: steered(call, bundled(4)), call)),
      )),
    Row("evaluate", "a label log-prob that is judged by `gold`", ScoreError, ("claim 1",),
        at("steering.py::test_scores_that_are_no_numbers_are_refused")),
    Row("compare", "a label log-prob is not a finite number", ScoreError, ("claim 'c2'",),
        at("runs_scores.py::test_scores_that_are_no_numbers_name_their_claims")),
    Row("make_steerer", "they differ", InputError, ("same preamble",),
        at("steering.py::test_claim_sets_that_do_not_go_together")),
    Row("make_steerer", "as of `tokenize_claims`", PromptError, ("knows every word",
        "use a real model"), lambda: icmjax.make_steerer(
            bundled(), icmjax.load_claims("free.jsonl"), icmjax.load_claims("free.jsonl"))),
    Row("open_run", "the folder is in use or not writable", RunError, ("is writing it",
        "can be written to", "has begun"), at("runs.py::test_folders_that_are_refused")),
    Row("read_run", "the folder holds no run", RunError, ("holds the results of a search",
        "name the folder of a run"), lambda: icmjax.read_run("absent")),
    Row("report", "the folder holds no complete run", RunError, ("holds the results of a search",
        "name the folder of a run"), lambda: icmjax.report("absent")),
    Row("export", "the format is not known, lacks what it is made from", InputError,
        ("chosen by its name", "made from queries", "queries for sft"),
        at("exports.py::test_the_library_exports_what_the_command_does")),
    Row("export", "the run is not complete, or has not what the format is made from", RunError,
        ("has a template",), at("exports.py::test_a_run_of_the_library_needs_a_template")),
    Row("ask", "the selector is unknown or its evidence cannot be had", InputError,
        ("A selector is known", "has a scorer"),
        at("ask.py::test_the_library_asks_and_answers")),
    Row("ask", "a score is not finite", ScoreError, ("finite", "wider dtype"),
        asked_of_no_numbers),
    Row("answer", "an answer is about none of the claims", ClaimsError, ("claim 'x'",),
        at("ask.py::test_the_library_asks_and_answers")),
    Row("answer", "see `hold_answers`", InputError,
        ("Answers go together under the pair rules", "correct an answer"), answered_both),
    Row("run_search", "the algorithm is a name or a class", InputError,
        ("an algorithm with its settings", "icmjax.ICM()"),
        lambda: icmjax.run_search(None, icmjax.claims.no_rules(), icmjax.ICM, None)),
    Row("load_task", "names an unknown group", InputError, ("names a group of the world",
        "did you mean hestonia"), lambda: icmjax.load_task("persona-world:hestona:0")),
]
# fmt: on


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The claim files that the commands and the calls name."""
    folder = tmp_path_factory.mktemp("documented")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "link.jsonl").symlink_to(folder / "beyond.jsonl")
    return folder


def plain(text: str) -> str:
    return " ".join(text.split())


@functools.cache
def text_of(page: str) -> str:
    """A page, or the docstring of a public name."""
    if page in PAGES:
        return plain((ROOT / page).read_text())
    return plain(inspect.getdoc(getattr(icmjax, page)) or "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.page}: {row.sentence[:40]}")
def test_a_path_ends_as_it_is_documented(row, folder, monkeypatch):
    assert row.sentence in text_of(row.page), "the page no longer says it"
    monkeypatch.chdir(folder)
    if isinstance(row.provoked_by, str):
        source = source_of(*row.provoked_by.split("::"))
        end = re.escape(row.end.__name__ if isinstance(row.end, type) else str(row.end))
        # A status is a number like others: it is looked for where a test speaks of one.
        ended = rf"(?:status|code)s?\b.*(?<!\w){end}(?!\w)|\.run\({end},"
        looked_for = ended if isinstance(row.end, int) else rf"(?<!\w){end}"
        assert re.search(looked_for, source), f"it does not look for {row.end}"
        said = source
    elif isinstance(row.provoked_by, tuple):
        result = CliRunner().invoke(main, [str(word) for word in row.provoked_by])
        assert isinstance(result.exception, SystemExit), result.exception
        assert (result.exit_code, result.stdout) == (row.end, "")
        said = plain(result.stderr)
    else:
        with pytest.raises(row.end) as caught:
            row.provoked_by()
        said = plain(str(caught.value))
    for words in row.words:
        assert words in said


@functools.cache
def source_of(path: str, name: str) -> str:
    """A test with all of its file that it uses: helpers, fixtures, tables."""
    text = (ROOT / path).read_text()
    parts = {}
    for node in ast.parse(text).body:
        for target in getattr(node, "targets", [node]):
            parts[getattr(target, "id", getattr(target, "name", None))] = node
    assert name in parts, f"{path} has no {name}"
    found, open_names = {}, [name]
    while open_names:
        part = open_names.pop()
        if part in parts and part not in found:
            node = parts[part]
            found[part] = ast.get_source_segment(text, node) or ""
            for marker in getattr(node, "decorator_list", []):
                found[part] += ast.get_source_segment(text, marker) or ""
            open_names += [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
            open_names += [each.arg for each in ast.walk(node) if isinstance(each, ast.arg)]
    return "\n".join(found.values())


def raised_by(name: str) -> set[str]:
    """What a public name's docstring says that it raises."""
    doc = inspect.getdoc(getattr(icmjax, name)) or ""
    told = doc.partition("Raises:\n")[2].partition("\n\n")[0]
    heads = re.findall(r"^ +((?:\w+, )*\w+):", told, re.MULTILINE)
    return {error for head in heads for error in head.split(", ")}


def test_all_that_public_names_raise_has_a_row():
    names = re.findall(r"::: icmjax\.(\w+)", (ROOT / "docs" / "api.md").read_text())
    told = {(name, error) for name in names for error in raised_by(name)}
    assert len(told) > 30
    assert told == {(row.page, row.end.__name__) for row in ROWS if row.page not in PAGES}


# Words that tell of an error, and the sentences with them that tell of none.
OF_ERRORS = re.compile(
    r"refuse|\bfaults?\b|\bwarn|\bmust\b|\bha(?:s|ve) to be\b|Ctrl-C|SIGTERM|\braise[sd]\b"
    r"|InputError|\b403\b|\b413\b|\bwants? another\b"
)
NO_ERRORS = {
    COMMANDS: ("`--log FILE` keeps these lines and the warnings",),
    EXPORTS: ("what the search warned of",),
    LABELLING: ("So the choice must name the persona itself", "what was asked and found, warnings"),
    MODELS: ("Which models can be used, how that is checked", "## What is refused",
             "so that they have to be rotated alike"),
    TUTORIAL: ("what was found in two sentences, warnings", "Read the warnings."),
    HOW: ("ruff and mypy, both must pass", "A test must be able to fail."),
    DESIGN: ("| `summary.json` | last",),
    "docs/api.md": ("::: icmjax.InputError",),
}  # fmt: skip


def sentences(page: str) -> Iterator[str]:
    """The sentences, cells and items of a page without its programs."""
    text = re.sub(r"```.*?```", "\n\n", (ROOT / page).read_text(), flags=re.DOTALL)
    for block in re.split(r"\n\s*\n|\n(?=[-|*#] ?)", text):
        yield from re.split(r"(?<=[.:]) (?=[A-Z*`\[])", plain(block).removeprefix("- "))


def test_every_page_is_read_for_errors():
    """But for those that tell of measurements and of other people's code."""
    apart = {"docs/measured.md", "docs/objective.md", "docs/reference.md"}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert pages - apart <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_all_that_a_page_says_of_errors_has_a_row(page):
    told = [row.sentence for row in ROWS if row.page == page]
    others = NO_ERRORS.get(page, ())
    said = [sentence for sentence in sentences(page) if OF_ERRORS.search(sentence)]
    for sentence in said:
        assert any(each in sentence or sentence in each for each in (*told, *others)), sentence
    for other in others:
        assert any(other in sentence for sentence in said), f"no longer said: {other}"
