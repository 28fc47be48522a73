"""Sentences with their pronouns masked or exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

MALE, FEMALE, NEUTRAL = "male", "female", "neutral"
NONE = "none"
"""No pronoun among a model's first choices."""

FORMS: Mapping[str, tuple[str, str, str]] = {
    MALE: ("he", "his", "him"), FEMALE: ("she", "her", "her"), NEUTRAL: ("they", "their", "them"),
}  # fmt: skip
"""Category -> nominative, possessive, accusative."""

CATEGORY = {form: category for category, forms in FORMS.items() for form in forms}
"""Pronoun -> category."""

ENDINGS = ".,!?;:"

AFTER_OBJECT = (
    "a", "about", "after", "again", "an", "and", "as", "at", "because", "before", "but", "by", "for", "from", "if",
    "in", "into", "of", "off", "on", "or", "out", "over", "so", "that", "the", "to", "up", "upon", "when", "where",
    "whether", "while", "who", "with",
)  # fmt: skip
"""Words that begin no noun phrase of one who has something: "her" before them is an object."""


def masked(sentence: str, mask: str) -> Iterator[str]:
    """The sentence once for each of its pronouns, that one replaced by the mask; punctuation behind it stays."""
    words = sentence.split()
    for place, word in enumerate(words):
        if letters(word) in CATEGORY:
            behind = word[-1] if word[-1] in ENDINGS else ""
            yield " ".join([*words[:place], mask + behind, *words[place + 1 :]])


def letters(word: str) -> str:
    """A word as pronouns are listed."""
    return re.sub(r"[^a-z]", "", word.lower())


def category_in(sentence: str) -> str | None:
    """The category of the first pronoun in a sentence."""
    return next((CATEGORY[letters(word)] for word in sentence.split() if letters(word) in CATEGORY), None)


def versions(sentence: str, *, published: bool) -> dict[str, str]:
    """Category -> the sentence with pronouns of that category. Raises ValueError for a sentence without pronouns.

    "her" stands for two cases. It becomes "him" at the end of a phrase and before a word that begins no noun phrase,
    else "his"; ``published``: always "his", as published scores were made.
    """
    own = category_in(sentence)
    if own is None:
        raise ValueError("the sentence has no pronoun")
    return {
        category: sentence if category == own else exchanged(sentence, own, category, published=published)
        for category in FORMS
    }


_PLURAL = {"was": "were", "is": "are", "has": "have"}


def exchanged(sentence: str, own: str, wanted: str, *, published: bool) -> str:
    """The sentence with pronouns of category ``own`` in category ``wanted``, and the verb behind them agreeing."""
    nominative, possessive, accusative = FORMS[own]
    new_nominative, new_possessive, new_accusative = FORMS[wanted]
    text = _replaced(sentence, nominative, new_nominative)
    if possessive == accusative and not published:
        text = _replaced(text, accusative, new_accusative, rf"(?=$|[^\w ]| (?:{'|'.join(AFTER_OBJECT)})\b)")
    text = _replaced(_replaced(text, possessive, new_possessive), accusative, new_accusative)
    plural = wanted == NEUTRAL
    for singular, many in _PLURAL.items() if plural or not published else ():  # published scores mend plurals only
        old, new = (singular, many) if plural else (many, singular)
        for subject in (new_nominative, new_nominative.capitalize()):
            text = re.sub(rf"\b{subject} {old}\b", f"{subject} {new}", text)
    return text


def _replaced(text: str, old: str, new: str, behind: str = "") -> str:
    text = re.sub(rf"\b{old}\b{behind}", new, text)
    return re.sub(rf"\b{old.capitalize()}\b{behind}", new.capitalize(), text)
