"""A run's labelled claims in the forms that other tools take."""

from icmjax.runs.exports.formats import FORMATS, export

__all__ = ["FORMATS", "export"]
