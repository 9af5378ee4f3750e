"""E-mail addresses and telephone numbers in kept text become `[e-mail]` and `[phone]`.

A telephone number is known by its form (a plus, a trunk zero, an area code in brackets) or by the
words before it; years, prices, ranges and results are none. Left to others: dropping the
blocks that hold most of them (`clean`).
"""

import re

EMAIL = "[e-mail]"
PHONE = "[phone]"

_DOT = r"(?:\.|\s?[(\[{<]\s?(?:dot|punkt|\.)\s?[)\]}>]\s?)"
_DOMAIN = rf"[\w-]+(?:{_DOT}[\w-]+)+"
_EMAILS = (  # each with a sign it cannot do without, which is searched first and rarely found
    (
        re.compile("[@＠]"),
        re.compile(
            r"(?:mailto:)?(?:\"[^\"\s]{1,64}\"|[\w.!#$%&'*+/=?^`{|}~-]{1,64})"
            rf"\s?[@＠]\s?{_DOMAIN}"
        ),
    ),
    (
        re.compile(r"[(\[{<]"),
        re.compile(
            rf"[\w.+-]{{1,64}}(?:\s?[(\[{{<]\s?(?:dot|punkt)\s?[)\]}}>]\s?[\w+-]{{1,64}}){{0,3}}"
            rf"\s?[(\[{{<]\s?(?:at|ät|[@＠])\s?[)\]}}>]\s?{_DOMAIN}",
            re.IGNORECASE,
        ),
    ),
    (re.compile(" AT "), re.compile(r"[\w.+-]{1,64} AT [\w-]+(?: DOT [\w-]+)+")),
)

_GAP = r"[ .\-‐‑–/()]{1,3}"
_MAYBE = r"[ .\-‐‑–/()]{0,3}"
_START = r"(?<![\w.,+/=\-–:])(?<!\d )"
_EXTENSION = r"(?:,?\s?\b(?:ext|extension|x|durchwahl|dw|nebenstelle)\b\.?:?\s?-?\d{1,6})?"
_LABELS = (
    r"tel|telefon|telephone|telefonnummer|rufnummer|phone|fon|fax|telefax|hotline|infoline"
    r"|whatsapp|durchwahl|servicenummer"
)
_LABELLED = re.compile(
    rf"(?<![^\W\d_])(?P<label>(?:(?:{_LABELS})\b\.?\s?(?:(?:no|nr|number)\b\.?)?\s?:?"
    r"|(?:mobil|mobile|cell|handy|[tmfp])\s?[.:]|(?:call|dial|ring)\b(?: us)?(?: on| at)?)\s*)"
    rf"(?P<number>\(?\+?\d(?:{_MAYBE}\d){{4,15}}{_EXTENSION})(?![\w,]\d)",
    re.IGNORECASE,
)
_SHORT = re.compile(r"(?i:\b(?:fax|durchwahl|dw|ext)\b\.?\s?:?\s?)-\d{1,5}\b")
_BARE = tuple(
    re.compile(_START + form + _EXTENSION + r"(?![\w]|,\d)", re.IGNORECASE)
    for form in (
        rf"\(?(?:\+\s?|00)[1-9]\d{{0,3}}\)?(?:{_MAYBE}\d)+",
        r"(?:1[-. ])?(?:\(\d{3}\) ?|\d{3}[-. /])\d{3}[-. ]\d{4}",
        r"555-\d{4}",
        r"1?-?8\d\d-[A-Z][A-Z0-9-]{5,}",
        rf"(?:\(0\s?\d{{1,5}}\)|\(0\)\s?\d{{2,5}}|0[1-9]\d{{0,4}}|0 \d{{2,4}}(?= ?/)){_GAP}"
        rf"\d+(?:{_GAP}\d+){{0,5}}",
        r"0[1-9]\d{8,10}",
    )
)
# A day, month and year, or a span of months, however written: no telephone number.
_DATE = re.compile(
    r"\d{1,2}\D+(?:\d{1,2}\D+)?(?:(?:19|20)\d\d|\d\d)(?:\D+\d{1,2}\D+(?:19|20)\d\d)?"
)
_UNIT = re.compile(
    r"\s?(?:[%°€$£²³]|(?:percent|per cent|prozent|euros?|eur|usd|chf|dollars?|pounds?"
    r"|million(?:en)?|billion|milliarden|units|stück|people|menschen|kilomet(?:er|re)s?|miles|meter|hours|stunden"
    r"|tons?|tonnen|km|kg|kwh|mwh|gwh|mm|cm|hp|ps|kw|nm|gb|mb|rpm)\b)",
    re.IGNORECASE,
)
_MIN_DIGITS, _MAX_DIGITS = 7, 17  # E.164 allows 15; "(0)" and an extension come on top


def mask(text: str) -> str:
    """`text` with a placeholder for each e-mail address and telephone number; idempotent."""
    while (masked := _once(text)) != text:
        text = masked
    return text


def _once(text: str) -> str:
    for sign, pattern in _EMAILS:
        if sign.search(text):
            text = pattern.sub(EMAIL, text)
    if not any(c.isdigit() for c in text):
        return text
    text = _LABELLED.sub(_labelled, text)
    text = _SHORT.sub(PHONE, text)
    for pattern in _BARE:
        text = pattern.sub(_bare, text)
    return text


def _labelled(match: re.Match[str]) -> str:
    number = match["number"]
    strict = match["label"].rstrip()[-1:] not in ".:"
    least = _MIN_DIGITS - 1 if strict else 5
    if _n_digits(number) < least or _is_quantity(match, number):
        return match[0]
    return match["label"] + PHONE


def _bare(match: re.Match[str]) -> str:
    found = match[0]
    n = _n_digits(found)
    vanity = any(c.isalpha() for c in found)
    if not vanity and not (found.startswith("555-") or _MIN_DIGITS <= n <= _MAX_DIGITS):
        return found
    if _DATE.fullmatch(found) or _is_quantity(match, found):
        return found
    if re.fullmatch(r"\d{3} \d{3} \d{4}", found):  # bare groups: perhaps three numbers
        return found
    return f"({PHONE}" if found.startswith("(") and ")" not in found else PHONE


def _is_quantity(match: re.Match[str], found: str) -> bool:
    """Whether a unit follows: then it counts something."""
    return bool(_UNIT.match(match.string, match.end())) and "(" not in found


def _n_digits(text: str) -> int:
    return sum(c.isdigit() for c in text)
