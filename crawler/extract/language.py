"""The language of a text: what its page declares, checked by py3langid; a pure function.

The classifier is that of Lui and Baldwin, "langid.py" (ACL 2012), retrained by py3langid.
"""

from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

LIKELY, SURE = 0.5, 0.99  # of a probability that py3langid calibrates for length
_MIN_WORDS = 20  # to believe it against a page that declares its language
_MAX_CHARACTERS = 10_000
# Languages that it confuses: no reason to doubt a page.
_KIN = ({"no", "nb", "nn", "da"}, {"hr", "sr", "bs"}, {"id", "ms"}, {"cs", "sk"}, {"pt", "gl"})


def language_of(text: str, declared: str = "") -> str:
    """The ISO 639-1 code of a text's language, lower case; "" where it is unknown.

    The detector decides where nothing is declared, and corrects what is only when it is sure.
    """
    if not any(c.isalpha() for c in text):
        return declared
    found, probability = _identifier().classify(text[:_MAX_CHARACTERS])
    if not declared:
        return str(found) if probability >= LIKELY else ""
    kin = any({found, declared} <= family for family in _KIN)
    sure = probability >= SURE and len(text.split()) >= _MIN_WORDS
    return str(found) if sure and not kin else declared


@cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
