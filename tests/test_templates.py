"""Templates: the wording of prompts, the whitespace that they own, and which one is used."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icmjax.claims import Claim, claims_from_rows
from icmjax.errors import InputError
from icmjax.prompts import TEMPLATES, get_template, resolve_template

CLAIM = Claim("0", "Japan", "0", "Is tea good?", "People from Japan would say: 'Yes'")
PREFERENCE = Claim("1", "", "0", "Tea?", "Yes.\r\nPlease.", "No.")


@pytest.mark.parametrize("name", ["truth", "persona", "solution"])
def test_claims_are_asked_about_as_the_reference_does(name):
    assert get_template(name).query_fn(CLAIM) == (
        "Question: Is tea good?\nClaim: People from Japan would say: 'Yes'\nI think this claim is"
    )


@pytest.mark.parametrize("question", ["", " \n"])
def test_claims_without_a_question_are_asked_about_alone(question):
    alone = CLAIM._replace(question=question)
    assert (
        get_template("preference")
        .query_fn(PREFERENCE._replace(question=question))
        .startswith("Response A: Yes.")
    )
    assert get_template("truth").query_fn(alone) == (
        "Claim: People from Japan would say: 'Yes'\nI think this claim is"
    )


def test_preferences_compare_two_responses():
    assert get_template("preference").query_fn(PREFERENCE) == (
        "Query: Tea?\n"
        "Response A: Yes.\r\nPlease.\n"
        "Response B: No.\n"
        "Claim: Response A is more helpful and harmless than Response B\n"
        "I think this claim is"
    )


def test_preferences_of_a_persona_name_the_persona():
    query = get_template("preference").query_fn(PREFERENCE._replace(persona="Democrats"))
    assert "Claim: Democrats prefer Response A to Response B\n" in query
    assert "helpful" not in query


def test_the_world_puts_a_claim_on_a_line():
    world = get_template("world")
    claim = CLAIM._replace(choice="Taxes can help")
    assert world.query_fn(claim) == "\nTaxes can help:"
    assert world.prompt_text("National poll.", [(claim, 1), (claim, 0)], claim) == (
        "National poll.\nTaxes can help: True\nTaxes can help: False\nTaxes can help:"
    )


def test_a_prompt_is_preamble_demonstrations_and_query():
    template = get_template("truth")
    query = template.query_fn(CLAIM)
    shown = [(CLAIM, 1), (PREFERENCE, 0)]
    assert template.prompt_text("  Of Japan. \n", shown, CLAIM) == (
        f"  Of Japan. \n\n\n{query} True\n\n{template.query_fn(PREFERENCE)} False\n\n{query}"
    )
    assert template.prompt_text(" \n", [], CLAIM) == query


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))
def test_the_space_before_a_label_belongs_to_the_label(template):
    """But in the reference's prompts, where it stands before a label that is read apart."""
    space = "" if template.is_label_apart else " "
    assert template.label_forms == ((f"{space}False",), (f"{space}True",))
    assert template.query_fn(PREFERENCE).endswith(" ") == template.is_label_apart
    assert not template.query_fn(PREFERENCE).endswith("\n")


blanks = st.text(" \t\r\n\u3000", max_size=3)


# The reference takes line breaks out of responses.
KEEPING = sorted(TEMPLATES.keys() - {"reference_preference"})


@given(blanks, blanks, st.sampled_from(KEEPING))
def test_texts_are_kept_as_they_are(before, after, name):
    query_fn = get_template(name).query_fn
    fields = ("question", "choice", "choice_2", "persona")
    claim = PREFERENCE._replace(persona="Finns")
    marked = query_fn(claim._replace(**{field: f"<{getattr(claim, field)}>" for field in fields}))
    spaced = {field: f"{before}{getattr(claim, field)}{after}" for field in fields}
    assert query_fn(claim._replace(**spaced)) == marked.replace("<", before).replace(">", after)


def test_unknown_templates_name_those_that_exist():
    with pytest.raises(InputError) as caught:
        get_template("truthful")
    assert all(name in caught.value.faults[0].remedy for name in TEMPLATES)


def test_what_is_asked_for_goes_before_the_models_own_and_that_before_the_datas():
    rows = [{"question": "q", "choice": c, "consistency_id": 0, "persona": "p"} for c in "ab"]
    claims = claims_from_rows(rows, rule="none")
    assert resolve_template("preference", "world", claims).name == "preference"
    assert resolve_template(None, "world", claims).name == "world"
    assert resolve_template(None, None, claims).name == "persona"
    assert resolve_template().name == "truth"


def test_other_options_are_written_out_after_one_space():
    rows = [{"question": "q", "choice": c, "consistency_id": c} for c in "ab"]
    claims = claims_from_rows(rows, options=("disagree", "un sure ", "agree"))
    template = resolve_template("truth", None, claims)
    assert template.label_forms == ((" disagree",), (" un sure ",), (" agree",))
    assert template.demonstration_text(CLAIM, 1).endswith("I think this claim is un sure \n\n")
    assert get_template("truth").label_forms == ((" False",), (" True",))


def test_reference_prompts_are_those_of_the_published_code():
    """They end in a space, and demonstrations have their label right after it."""
    claim = Claim("0", "", "0", " Q? ", "It is.\n")
    template = get_template("reference")
    query = "Question:  Q? \nClaim: It is.\n\nI think this claim is "
    assert template.query_fn(claim) == query
    assert template.demonstration_text(claim, 1) == f"{query}True\n\n"
    compared = Claim("0", "Party", "0", "Q", "one\ntwo", "three")
    assert get_template("reference_preference").query_fn(compared) == (
        "Human: Q\nResponse 1: onetwo\nResponse 2: three\n"
        "Claim: Response 1 is more helpful and harmless than Response 2.\nI think this claim is "
    )
    assert get_template("reference_persona").query_fn(compared) == (
        "Question: Q\nResponse 1: one\ntwo\nResponse 2: three\n"
        "Claim: Response 1 better matches the human response preference than Response 2.\n"
        "I think this claim is "
    )


def test_the_reference_prompt_is_chosen_by_the_data():
    rows = [
        {"question": "Q", "option": option, "options": ["Yes", "No"], "selections": [0.7, 0.3]}
        | {"consistency_id": 1}
        for option in ("Yes", "No")
    ]
    claims = claims_from_rows(rows, source="UnitedStates_train")
    template = resolve_template("reference", None, claims)
    assert template.name == "reference_country"
    assert template.query_fn(claims.claims[0]) == (
        'Question: Q\nClaim: The majority of people in United States would answer: "Yes".\n'
        "I think this claim is "
    )
    assert resolve_template("reference").name == "reference"
    # A claim that says it in its own words keeps them.
    other = claims.claims[0]._replace(choice="Most say yes")
    assert "Claim: Most say yes\n" in template.query_fn(other)
