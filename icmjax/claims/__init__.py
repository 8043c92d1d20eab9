"""Claims about a persona: files, schemas, pair rules, gold labels; on the host, without a model."""

from icmjax.claims.claim_set import BINARY_OPTIONS, UNLABELLED, Claim, ClaimSet, GoldLabels
from icmjax.claims.columns import columns_text, parse_columns
from icmjax.claims.consistency import (
    RULES,
    PairRules,
    Rule,
    consistent_options,
    count_violations,
    no_rules,
    violated_pairs,
)
from icmjax.claims.files import read_rows
from icmjax.claims.labels import label_index
from icmjax.claims.loading import (
    claims_from_rows,
    gold_from_rows,
    load_claims,
    load_gold,
    load_personas,
)
from icmjax.claims.opposites import are_opposite
from icmjax.claims.tables import column_names
from icmjax.claims.writing import write_claims

__all__ = [
    "BINARY_OPTIONS",
    "RULES",
    "UNLABELLED",
    "Claim",
    "ClaimSet",
    "GoldLabels",
    "PairRules",
    "Rule",
    "are_opposite",
    "claims_from_rows",
    "column_names",
    "columns_text",
    "consistent_options",
    "count_violations",
    "gold_from_rows",
    "label_index",
    "load_claims",
    "load_gold",
    "load_personas",
    "no_rules",
    "parse_columns",
    "read_rows",
    "violated_pairs",
    "write_claims",
]
