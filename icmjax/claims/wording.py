"""Claims that name their persona, from what a survey says of it."""


def country_claim(country: str, option: str) -> str:
    """That a country's people answer a question so.

    A remark in brackets, such as "(Non-national sample)", is of the survey and not of the people.
    """
    return f"{country_people(country)} would answer this question as: '{option}'"


def country_people(country: str) -> str:
    """The people of a country, as the subject of a claim; "" for no country."""
    if not country:
        return ""
    name = country.partition(" (")[0].strip() or country
    return f"People from {with_article(name)}"


def with_article(country: str) -> str:
    """A country's name as it stands inside of a sentence."""
    is_plural_or_union = country.startswith("United ") or country.endswith((" Republic", "Islands"))
    if is_plural_or_union or country in ("Netherlands", "Philippines", "Bahamas", "Maldives"):
        return f"the {country}"
    return country
