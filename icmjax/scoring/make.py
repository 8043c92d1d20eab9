"""From claims and a language model to a scorer, checked on the host."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from icmjax.claims import ClaimSet
from icmjax.devices import use_compilation_cache
from icmjax.errors import Fault, InputError, Kind, check_kinds
from icmjax.lm import LanguageModel
from icmjax.prompts import (
    Template,
    TokenizedClaims,
    check_prompt_lengths,
    resolve_template,
    tokenize_claims,
)
from icmjax.scoring.blockwise import BlockwiseScorer, make_blockwise_scorer
from icmjax.scoring.chain_rule import ChainRuleScorer, make_chain_rule_scorer
from icmjax.scoring.orders import OrderMeanScorer
from icmjax.scoring.planner import MEMORY_BUDGET
from icmjax.scoring.sequential import Leave, SequentialScorer, make_sequential_scorer
from icmjax.scoring.subset import TreeSubsetScorer, make_tree_subset_scorer
from icmjax.scoring.tree import TreeScorer, make_tree_orders, make_tree_scorer

Method = Literal["sequential", "tree", "blockwise", "chain_rule"]
AnyScorer = SequentialScorer | TreeScorer | BlockwiseScorer | ChainRuleScorer | OrderMeanScorer


def make_scorer(
    lm: LanguageModel,
    claims: ClaimSet,
    method: Method = "tree",
    template: str | Template | None = None,
    leave: Leave = "claim",
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
    *,
    context_size: int | None = None,
    num_orders: int = 1,
    attention_temperature: float = 1.0,
    attention_scale: float = 1.0,
    is_shared: bool = True,
    rng_key: jax.Array | None = None,
    devices: Sequence[jax.Device] = (),
) -> AnyScorer:
    """A scorer of these claims under this model.

    Args:
      method: "tree", where every query reads the others in an order of its own; "sequential", where
        it reads them in their given order, for many times the tokens; "blockwise", where it reads
        them side by side, an approximation; "chain_rule", where it reads those before it.
      template: a template or its name; by default the model's own, then the one of the claims.
      leave: what a query's context leaves out: the claim itself (as the reference does), or its
        whole consistency group, so that an opposite cannot give its label away.
      batch_size: prompts ("sequential"), labellings ("tree"), queries ("blockwise") or texts
        ("chain_rule") computed at a time; changes memory and speed, not scores.
      memory_budget: bytes that a pass may take beside the weights; the same holds.
      context_size: the most others that a query reads, drawn anew for each query among those that
        are labelled; "sequential" only. N may then exceed the model's context.
      num_orders: K > 1 averages over K random orders, and gives the standard error.
      attention_temperature: of the attention to blocks; "blockwise" only.
      attention_scale: of the log-sum-exp of the attention to blocks; "blockwise" only.
      is_shared: whether a tree takes shapes that other numbers of claims share, so that they
        compile nothing, rather than those that pad least.
      rng_key: draws subsets and orders; by default from seed 0.
      devices: that share the queries of a tree, each with the weights and `memory_budget` of its
        own; by default one does all. "tree" only.

    Raises:
      InputError: an unknown method, `leave` or template; arguments that do not go together; a pass
        does not fit the memory budget; the devices cannot share the tree evenly; the model or the
        claims are not loaded.
      PromptError: a prompt does not fit the model, or its tokens do not; see `tokenize_claims`.
    """
    _check_inputs(lm, claims)
    faults = _choice_faults(method, leave)
    faults += _number_faults(
        batch_size=batch_size, context_size=context_size, num_orders=num_orders
    )
    is_tempered = (attention_temperature, attention_scale) != (1.0, 1.0)
    wanted = (
        ("context_size", context_size is not None, method == "sequential"),
        ("num_orders", num_orders > 1, method != "blockwise"),
        ("attention_temperature", is_tempered, method == "blockwise"),
        ('leave="group"', leave == "group", method != "chain_rule"),
        ("devices", len(devices) > 0, method == "tree"),
    )
    faults += [
        Fault(
            "An option goes with a method that has it.",
            f"{name if '=' in name else f'`{name}`'} with method={method!r}",
            name,
            "leave it out, or choose another `method`",
        )
        for name, is_wanted, is_possible in wanted
        if is_wanted and not is_possible
    ]
    if faults:
        raise InputError(faults)
    use_compilation_cache()
    tokens = _checked_tokens(lm, claims, template, context_size)
    rng_key = jax.random.key(0) if rng_key is None else rng_key
    units = claims.group_index if leave == "group" else np.arange(len(claims))
    if method == "blockwise":
        return make_blockwise_scorer(
            lm, tokens, units, batch_size, memory_budget, attention_temperature, attention_scale
        )
    if method == "chain_rule":
        return make_chain_rule_scorer(lm, tokens, rng_key, num_orders, batch_size, memory_budget)
    if method == "tree" and num_orders > 1:
        numbers = (num_orders, batch_size, memory_budget)
        return OrderMeanScorer(*make_tree_orders(lm, tokens, units, rng_key, *numbers, devices))
    if method == "tree":
        return make_tree_scorer(lm, tokens, units, batch_size, memory_budget, is_shared, devices)
    subset_key, order_key = jax.random.split(rng_key)
    scorer = make_sequential_scorer(
        lm, tokens, claims.group_index, leave, batch_size, memory_budget, context_size, subset_key
    )
    if num_orders == 1:
        return scorer
    keys = jax.random.split(order_key, num_orders)
    orders = jax.vmap(lambda key: jax.random.permutation(key, len(claims)))(keys)
    return OrderMeanScorer(scorer, {"order": orders.astype(jnp.int32)})


def make_subset_scorer(
    lm: LanguageModel,
    claims: ClaimSet,
    num_queries: int,
    template: str | Template | None = None,
    batch_size: int | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> TreeSubsetScorer:
    """A scorer of any S of these claims, `scorer(labels, queries)`, on a tree of their own.

    A sequential scorer has `score_queries` for the same.

    Args:
      num_queries: S, fewer than the claims.
      template, batch_size, memory_budget: as of `make_scorer`.

    Raises:
      InputError, PromptError: as `make_scorer`.
    """
    _check_inputs(lm, claims)
    faults = _number_faults(batch_size=batch_size, num_queries=num_queries)
    if num_queries >= len(claims):
        rule = "A subset of the claims is smaller than their number."
        found, remedy = f"{num_queries} of {len(claims)}", "ask about fewer, or use make_scorer"
        faults.append(Fault(rule, found, "num_queries", remedy))
    if faults:
        raise InputError(faults)
    use_compilation_cache()
    tokens = _checked_tokens(lm, claims, template, None)
    return make_tree_subset_scorer(lm, tokens, num_queries, batch_size, memory_budget)


def _check_inputs(lm: LanguageModel, claims: ClaimSet) -> None:
    load_lm = 'load it before, as lm = icmjax.load_lm("persona-world")'
    load_claims = 'load them before, as claims = icmjax.load_claims("claims.jsonl")'
    check_kinds(
        lm=Kind(lm, isinstance(lm, LanguageModel), "a model that is loaded", load_lm),
        claims=Kind(claims, isinstance(claims, ClaimSet), "claims that are loaded", load_claims),
    )


def _checked_tokens(
    lm: LanguageModel, claims: ClaimSet, template: str | Template | None, context_size: int | None
) -> TokenizedClaims:
    resolved = resolve_template(template, lm.default_template, claims)
    tokens = tokenize_claims(claims, resolved, lm.tokenizer, vocab_size=lm.config.vocab_size)
    check_prompt_lengths(tokens, lm.max_length, context_size)
    return tokens


def _choice_faults(method: str, leave: str) -> list[Fault]:
    choices = (("method", method, get_args(Method)), ("leave", leave, get_args(Leave)))
    return [
        Fault(f"{name} is one of {', '.join(known)}.", repr(value), name, "choose one of them")
        for name, value, known in choices
        if value not in known
    ]


def _number_faults(**numbers: int | None) -> list[Fault]:
    return [
        Fault(f"{NUMBER_RULES[name]}.", str(number), name, "1 or more")
        for name, number in numbers.items()
        if number is not None and number < 1
    ]


NUMBER_RULES = {
    "batch_size": "A batch has a prompt",
    "context_size": "A context of a bounded size has a claim",
    "num_orders": "Scores are averaged over one order or more",
    "num_queries": "A subset has a claim",
}
