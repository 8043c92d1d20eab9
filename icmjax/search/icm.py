"""Internal Coherence Maximization: Algorithms 1 and 2 of Wen et al. (arXiv:2506.10139)."""

import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from icmjax.claims import PairRules, violated_pairs
from icmjax.scoring import OBJECTIVES, Objective
from icmjax.search.base import (
    Labelling,
    Outcome,
    Scorer,
    check_ranges,
    gain,
    metropolis_accept,
    names_fields,
    score_labels,
    select,
    unscored,
)
from icmjax.search.fix import at_least_one_pair, consistency_fix
from icmjax.search.seeds import (
    draw_claim,
    first_of_groups,
    random_seeds,
    reference_seeds,
    spread_labels,
    tied_groups,
)

COOLING_RATES = {False: 0.99, True: 2.0}  # by whether the search is as the authors' code has it
VIOLATION = 1e3  # nats that a violated pair weighs where labels are completed: more than any label


class ICMState(NamedTuple):
    """Where C independent chains are."""

    current: Labelling  # [C]
    best: Labelling  # [C]: the highest utility among the states with the most labelled claims
    is_settled: Array  # bool [C, E], violated pairs that no relabelling of `current` improves
    is_turned_back: Array  # bool [C, N], flips of `current` that their fix can only turn back
    is_free: Array  # bool [C, N], False where the label is clamped
    groups: Array  # int32 [C, N], consistency groups, each by its first claim
    num_steps: Array  # int32 [C]
    num_accepted: Array  # int32 [C], accepted proposals that changed a label
    num_passes: Array  # int32 [C], labellings scored
    is_nonfinite: Array  # bool [C, N], claims that ever had a score that is not finite


class ICMInfo(NamedTuple):
    """What one step did, in each of C chains."""

    claim: Array  # int32 [C], the claim drawn; -1 in step 0, which scores the seeds, and when done
    proposed_label: Array  # int8 [C], its argmax label; -1 as above
    proposed_utility: Array  # float32 [C], of the proposal after its consistency fix
    utility: Array  # float32 [C], after the step
    is_flip: Array  # bool [C], whether the drawn claim's argmax label is not the one that it has
    is_move: Array  # bool [C], whether the proposal differs, after its fix, from what was before
    is_accepted: Array  # bool [C]
    num_fixes: Array  # int32 [C], pairs that the consistency fix relabelled
    num_passes: Array  # int32 [C], labellings scored in the step
    num_labelled: Array  # int32 [C], after the step
    num_violated: Array  # int32 [C], after the step
    inverse_temperature: Array  # float32 [C]
    labels: Array  # int8 [C, N], after the step


@names_fields
@dataclasses.dataclass(frozen=True)
class ICM:
    """The search of Wen et al.: simulated annealing over single labels, each proposed by argmax.

    Algorithm 1. Label K random claims at random and fix their consistency. Then, for n = 1, 2, ...,
    draw a claim, give it the label that the model finds most probable given all the other labelled
    claims, fix the consistency, and accept with probability min(1, exp(ΔU/T)) at the temperature
    T = max(T_min, T_0/(1 + β ln n)). An unlabelled claim whose consistency group has a labelled one
    is drawn with weight `partner_weight`, every other free claim, labelled or not, with weight 1,
    as in the authors' code. The groups are given to `init`; by default pair rules tie them.

    Algorithm 2, the consistency fix: up to `max_fixes` times draw a violated pair, score every
    consistent choice of its two labels, and take the best where it raises U.

    What the paper leaves open: breaking a hard rule costs infinitely much, so that its fix is
    always taken and a proposal that breaks more of them is always rejected. U of fewer labelled
    claims is not comparable with U of more, so the best state is the one of highest U among those
    with the most labelled claims. Claims still unlabelled after `num_iterations` are completed from
    the best state, the most certain one first, each with its argmax label and consistency fix and
    without an acceptance test.

    A proposal that changes nothing is not scored again, nor is a pair tried again from labels from
    which it brought nothing, nor a flip that broke one pair alone and that its fix turned back from
    the same labels before, so that late in a search most steps cost no pass. `lax.map` runs the
    chains one after another for that reason: under `vmap` every branch would be computed, and each
    chain would pay for the passes of all.

    Attributes:
      alpha: weight of the mutual predictability in U.
      objective: "log_prob" or "log_odds"; see `icmjax.mutual_predictability`.
      num_seeds: K; all free claims where there are fewer.
      num_iterations: how many n; None for ⌈N (ln N + 3)⌉, in which an even draw meets every claim
        with probability above 0.95.
      initial_temperature: T_0, in units of U.
      final_temperature: T_min, in units of U.
      cooling_rate: β; None for 0.99, and with the `reference_deviations` for 2.
      max_fixes: the most pairs that one consistency fix tries; 0 for no fix.
      partner_weight: weight of an unlabelled claim with a labelled partner.
      num_chains: C; chain c is the same whatever C. The seeds of chain 0 are random, as Algorithm 1
        has them. Those of chains 1 to Y have one label each, the last option first: of a biased
        model that may be the highest U, which random seeds hardly draw and consistency fixes keep
        away from. The others start with all claims labelled: see `spread_labels`. Of a few claims
        many labellings are all their own argmax and thus final: there more chains find more.
      reference_deviations: search as the authors' code does where it differs from their paper: U
        averages log-odds, whatever `objective`; the cooling rate is 2, and n in the temperature is
        one plus the number of accepted flips; seeds are whole groups, half of them true; a
        consistency fix makes up to `max_fixes` changes and tries all violated pairs before it
        gives up; its choices of a contradiction are one claim true and the other false, and of
        equal answers both true or both false; a proposal's first fix is taken even where U falls; a
        proposal that changes nothing is left without a fix; the last state is the result; and no
        chain starts otherwise than the first. `docs/reference.md` lists what still differs.
      block_size: the most steps between two visits of the host (progress bar, trace, checkpoint).

    Raises:
      InputError: a field is out of its range.
    """

    alpha: float = 50.0
    objective: Objective = "log_prob"
    num_seeds: int = 8
    num_iterations: int | None = None
    initial_temperature: float = 10.0
    final_temperature: float = 0.01
    cooling_rate: float | None = None
    max_fixes: int = 10
    partner_weight: float = 100.0
    num_chains: int = 1
    reference_deviations: bool = False
    block_size: int = 16

    info_type: ClassVar[type] = ICMInfo

    def __post_init__(self) -> None:
        ranges = {
            "alpha": (self.alpha > 0, "a number above 0"),
            "objective": (self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            "num_seeds": (self.num_seeds >= 0, "0 or more"),
            "num_iterations": (
                self.num_iterations is None or self.num_iterations >= 0,
                "0 or more, or None",
            ),
            "initial_temperature": (self.initial_temperature > 0, "a number above 0"),
            "final_temperature": (self.final_temperature > 0, "a number above 0"),
            "cooling_rate": (
                self.cooling_rate is None or self.cooling_rate >= 0,
                "0 or more, or None",
            ),
            "max_fixes": (self.max_fixes >= 0, "0 or more"),
            "partner_weight": (self.partner_weight > 0, "a number above 0"),
            "num_chains": (self.num_chains >= 1, "1 or more"),
            "block_size": (self.block_size >= 1, "1 or more"),
        }
        check_ranges(self, ranges)

    def iterations(self, num_claims: int) -> int:
        """How many claims Algorithm 1 draws."""
        if self.num_iterations is not None:
            return self.num_iterations
        return math.ceil(num_claims * (math.log(num_claims) + 3))

    def num_steps(self, num_claims: int) -> int:
        """The seeds' step and the iterations; completing labels may take some more."""
        return 1 + self.iterations(num_claims)

    def expected_tokens(self, scorer: Any) -> int | None:
        """Not known: it depends on the labels that are found."""
        del scorer
        return None

    def inverse_temperature(self, iteration: Array) -> Array:
        """1/T of iteration n ≥ 1, int32 `[...]` → float32 `[...]`."""
        log_n = jnp.log(jnp.maximum(iteration, 1).astype(jnp.float32))
        rate = self.cooling_rate
        rate = COOLING_RATES[self.reference_deviations] if rate is None else rate
        temperature = self.initial_temperature / (1 + rate * log_n)
        return 1 / jnp.maximum(self.final_temperature, temperature)

    def init(
        self,
        rng_key: Array,
        rules: PairRules,
        clamped: Any,
        num_options: int,
        groups: Any = None,
    ) -> ICMState:
        """C chains with the clamped labels and random seeds, not scored yet: step 0 does that.

        Args:
          rng_key: a typed key.
          rules: the pair rules.
          clamped: int8 `[N]`, labels that never move, -1 where free.
          num_options: Y.
          groups: int `[N]`, the consistency group of every claim; None for the claims that pair
            rules tie.
        """
        given = tied_groups(rules, len(clamped)) if groups is None else groups
        return self._init(
            rng_key, rules, jnp.asarray(clamped, jnp.int8), num_options, first_of_groups(given)
        )

    @functools.partial(jax.jit, static_argnames=("self", "num_options"))
    def _init(
        self, rng_key: Array, rules: PairRules, clamped: Array, num_options: int, groups: Array
    ) -> ICMState:
        num_chains, is_free = self.num_chains, clamped < 0

        def draw(chain: Array) -> Array:
            if self.reference_deviations:
                return reference_seeds(rng_key, chain, clamped, groups, self.num_seeds, num_options)
            seeded = random_seeds(rng_key, chain, clamped, self.num_seeds, num_options)
            spread = spread_labels(rng_key, chain - num_options - 1, clamped, rules, num_options)
            return jnp.where(chain <= num_options, seeded, spread)

        labels = jax.vmap(draw)(jnp.arange(num_chains, dtype=jnp.int32))
        per_chain = jnp.zeros((num_chains,), jnp.int32)
        first = unscored(labels, num_options)
        return ICMState(
            current=first,
            best=first,
            is_settled=jnp.zeros((num_chains, len(at_least_one_pair(rules).pairs)), bool),
            is_turned_back=jnp.zeros(labels.shape, bool),
            is_free=jnp.broadcast_to(is_free, labels.shape),
            groups=jnp.broadcast_to(jnp.asarray(groups), labels.shape),
            num_steps=per_chain,
            num_accepted=per_chain,
            num_passes=per_chain,
            is_nonfinite=jnp.zeros(labels.shape, bool),
        )

    def is_finished(self, state: ICMState) -> Array:
        """Whether all iterations are done and the best state is wholly labelled, bool `[C]`."""
        num_steps = self.num_steps(state.is_free.shape[-1])
        return (state.num_steps >= num_steps) & jnp.all(state.best.labels >= 0, axis=-1)

    def step(
        self, rng_key: Array, state: ICMState, scorer: Scorer, rules: PairRules
    ) -> tuple[ICMState, ICMInfo]:
        """One iteration of Algorithm 1 in every chain."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            rng_key, jnp.arange(len(state.num_steps), dtype=jnp.int32)
        )
        return lax.map(
            lambda chain: self._step_chain(chain[0], chain[1], scorer, rules), (keys, state)
        )

    def _step_chain(
        self, rng_key: Array, state: ICMState, scorer: Scorer, rules: PairRules
    ) -> tuple[ICMState, ICMInfo]:
        claim_key, fix_key, accept_key = jax.random.split(rng_key, 3)
        num_steps = self.num_steps(state.is_free.shape[0])
        is_seeding = state.num_steps == 0
        is_finished = self.is_finished(state)
        is_completing = (state.num_steps >= num_steps) & ~is_finished
        is_drawing = ~(is_seeding | is_finished)

        before = select(is_completing, state.best, state.current)
        is_certain = _most_certain_unlabelled(before, rules)
        drawn = draw_claim(
            claim_key, before.labels, state.is_free, state.groups, self.partner_weight
        )
        is_chosen = jnp.where(
            is_completing, is_certain, jnp.arange(len(is_certain), dtype=jnp.int32) == drawn
        )
        most_probable = jnp.argmax(before.label_log_probs, axis=-1).astype(jnp.int8)
        new = jnp.where(is_completing, _most_probable_consistent(before, rules), most_probable)
        labels = jnp.where(is_chosen & is_drawing, new, before.labels)
        is_same = jnp.all(labels == before.labels)
        is_flip = ~is_same & is_drawing & ~is_completing
        # With one violated pair the fix has nothing to draw: it ends as it did the last time.
        is_one_violated = jnp.sum(violated_pairs(labels, rules)) == 1
        is_known_end = is_flip & state.is_turned_back[drawn]
        objective: Objective = "log_odds" if self.reference_deviations else self.objective
        is_unfixed = is_finished | (is_drawing & is_same & self.reference_deviations)
        fix = consistency_fix(
            fix_key,
            jnp.where(is_known_end, before.labels, labels),
            known=before,
            is_known=~is_seeding,
            is_settled=state.is_settled,
            is_free=state.is_free,
            rules=at_least_one_pair(rules),
            max_fixes=jnp.where(is_unfixed | is_known_end, 0, self.max_fixes),
            score_fn=lambda labels: score_labels(labels, scorer, rules, self.alpha, objective),
            is_reference=self.reference_deviations,
            is_first_taken=is_drawing & self.reference_deviations,
        )
        proposal = fix.labelling

        time = 1 + state.num_accepted if self.reference_deviations else state.num_steps
        inverse_temperature = self.inverse_temperature(time)
        is_accepted = metropolis_accept(accept_key, gain(proposal, before) * inverse_temperature)
        is_accepted |= is_seeding | is_completing
        current = select(is_accepted, proposal, before)
        more = jnp.sum(current.labels >= 0) - jnp.sum(state.best.labels >= 0)
        is_best = is_seeding | (more > 0) | ((more == 0) & (gain(current, state.best) > 0))
        is_best |= self.reference_deviations
        is_move = jnp.any(proposal.labels != before.labels)
        # A pair of `before` that was left untried might be drawn the next time.
        is_untried = violated_pairs(before.labels, at_least_one_pair(rules)) & ~fix.is_settled
        is_turned_back = is_flip & is_one_violated & ~is_move & ~jnp.any(is_untried)
        turned_back = state.is_turned_back.at[drawn].max(is_turned_back)
        # The authors' code counts an accepted proposal though its fix turned it back.
        is_counted = is_flip if self.reference_deviations else is_move

        new_state = ICMState(
            current=current,
            best=select(is_best, current, state.best),
            is_settled=jnp.where(is_accepted, fix.is_settled, state.is_settled),
            is_turned_back=turned_back & ~(is_accepted & is_move) & ~is_completing,
            is_free=state.is_free,
            groups=state.groups,
            num_steps=state.num_steps + (~is_finished).astype(jnp.int32),
            num_accepted=state.num_accepted
            + (is_counted & is_accepted & ~is_seeding).astype(jnp.int32),
            num_passes=state.num_passes + fix.num_passes,
            is_nonfinite=state.is_nonfinite | fix.is_nonfinite,
        )
        info = ICMInfo(
            claim=jnp.where(is_drawing & ~is_completing, drawn, -1),
            proposed_label=jnp.where(
                is_drawing & ~is_completing, most_probable[drawn], jnp.int8(-1)
            ),
            proposed_utility=proposal.utility,
            utility=current.utility,
            is_flip=is_flip,
            is_move=is_move,
            is_accepted=is_accepted,
            num_fixes=jnp.where(is_known_end, 1, fix.num_fixes),
            num_passes=fix.num_passes,
            num_labelled=jnp.sum(current.labels >= 0, dtype=jnp.int32),
            num_violated=current.num_violated,
            inverse_temperature=inverse_temperature,
            labels=current.labels,
        )
        return new_state, info

    def scored_labels(self, info: ICMInfo) -> tuple[np.ndarray, np.ndarray]:
        """The proposals, before their fix, which labels no further claims."""
        labels, steps, chains = np.array(info.labels), *np.nonzero(info.claim >= 0)
        labels[steps, chains, info.claim[steps, chains]] = info.proposed_label[steps, chains]
        return labels, np.asarray(info.num_passes)

    def tokens_per_pass(self, scorer: Scorer, labels: np.ndarray) -> int:
        """Of one pass of the scorer."""
        return scorer.tokens_per_pass(labels)

    def finish(self, state: ICMState, trace: ICMInfo) -> Outcome:
        """The best of the chains; its marginals are its leave-one-out label probabilities."""
        best = state.best
        order = np.lexsort((-best.utility, best.num_hard_violated))
        labelling = Labelling(*(field[order[0]] for field in best))
        num_steps = self.num_steps(best.labels.shape[-1])
        moves = np.asarray(trace.is_move[1:num_steps])
        diagnostics: dict[str, Any] = {
            "num_steps": int(state.num_steps.max()),
            "num_passes": int(state.num_passes.sum()),
            "acceptance_rate": float(
                (trace.is_accepted[1:num_steps] & moves).sum() / max(moves.sum(), 1)
            ),
            "num_completed": (state.num_steps - num_steps).tolist(),
            "best_chain": int(order[0]),
            "chain_utilities": best.utility.tolist(),
            "chain_passes": state.num_passes.tolist(),
        }
        return Outcome(labelling, np.exp(labelling.label_log_probs), diagnostics)


def _most_certain_unlabelled(labelling: Labelling, rules: PairRules) -> Array:
    """Of the most certain half of the unlabelled claims, those that no rule ties: bool `[N]`.

    Of two that a rule ties the more certain one, so that the other's label can keep the rule.
    Halves complete N labels in about log2 N steps, the least certain claims last, given most.
    """
    is_unlabelled = labelling.labels < 0
    certainty = jnp.max(labelling.label_log_probs, axis=-1)
    order = jnp.argsort(jnp.where(is_unlabelled, -certainty, jnp.inf), stable=True)
    rank = jnp.argsort(order).astype(jnp.int32)
    is_chosen = is_unlabelled & (2 * rank < jnp.sum(is_unlabelled, dtype=jnp.int32))
    first, second = rules.pairs[:, 0], rules.pairs[:, 1]
    later = jnp.where(rank[first] > rank[second], first, second)
    is_tied = jnp.zeros_like(is_chosen).at[later].max(is_chosen[first] & is_chosen[second])
    return is_chosen & ~is_tied


def _most_probable_consistent(labelling: Labelling, rules: PairRules) -> Array:
    """Each claim's most probable label of those that violate fewest pairs: int8 `[N]`."""
    labels, logp = labelling.labels, labelling.label_log_probs
    num_violated, tables = jnp.zeros_like(logp), jnp.asarray(rules.penalties)
    for side, by_own in ((0, tables), (1, jnp.swapaxes(tables, 1, 2))):
        other = labels[rules.pairs[:, 1 - side]]
        index = jnp.maximum(other, 0).astype(jnp.int32)[:, None, None]
        cost = jnp.take_along_axis(by_own, index, axis=2)[..., 0]
        cost = jnp.where((other >= 0)[:, None], cost, 0.0)
        num_violated = num_violated.at[rules.pairs[:, side]].add(cost)
    return jnp.argmax(logp - VIOLATION * num_violated, axis=-1).astype(jnp.int8)
