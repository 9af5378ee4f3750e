"""What in a press release is no news: headings that open a block of it, and sentences that are it.

Patterns of English and German, on text whose addresses and numbers are masked. A fuel figure in
running prose is news; a label with a figure is a note. Left to others: how far a block reaches
(`clean`), what repeats over a newsroom (`repeats`).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from crawler.extract.mask import EMAIL, PHONE

CONTACT, AUTHOR, ABOUT = "contact", "author", "about the company"
FUEL, MEDIA, LINKS, LEGAL = "fuel and CO2 note", "media note", "links", "legal note"


@dataclass(frozen=True, slots=True)
class Opening:
    """A heading of a block: its reason, and whether prose belongs to it, or lines alone."""

    reason: str
    prose: bool


def _words(text: str) -> str:
    return "|".join(text.split())


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


_LONGEST = 1500  # characters: no note is longer, and patterns take their time on what is
_REMEMBERED = 1024  # texts, none longer: cleaning asks of each again, until nothing changes
_EDGE = " *#•·:.–—-|>»►▶"
_URL = re.compile(
    r"(?:https?://|www\.)\S+|\b(?:[\w-]+\.)+(?:com|de|org|net|eu|info|io|example|co\.uk|at|ch)\b(?:/\S*)?",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(re.escape(EMAIL) + "|" + re.escape(PHONE))
_LABEL = r"e-?mails?|mail|tel\w*|phone|fon|fax|mobil\w*|cell|web|internet|twitter|[tmfpew]"
_LABELS = re.compile(rf"\b(?:{_LABEL})\b\s?[.:]*\s*(?=\[|$)", re.IGNORECASE)

# --- headings ------------------------------------------------------------------------------------

_WHOM = (
    "for the a an and or & our your us of at to please further more additional any information "
    "details press media pr public relations investor corporate communications communication "
    "company editorial news journalists editors enquiries inquiries questions department office "
    "team person persons people international national global für die der den das und an bei zur "
    "zum bitte presse medien journalisten redaktion redaktionen ihr ihre ihren unser unsere "
    "weitere fragen informationen rückfragen presserückfragen abteilung unternehmenskommunikation"
)
_CONTACT_HEADING = _any(
    rf"(?:(?:{_words(_WHOM)})[\s/:,-]*){{0,6}}"
    r"(?:contacts?|contact (?:us|details|information|persons?)|enquiries|inquiries|kontakte?"
    r"|kontaktdaten|kontaktadresse|\w*ansprechpartner(?:in|innen|\W?innen)?|rückfragen"
    r"|presserückfragen|pressestelle|press office|media relations|press team|newsroom desk)"
    rf"(?:[\s/:,-]*(?:{_words(_WHOM)}))*",
    r"(?:press|media|pr|editorial|investor)[\s-]+(?:contacts?|enquiries|inquiries)\b.{0,60}",
    r"(?:presse|medien|redaktions|pr)-?\s?kontakte?\b.{0,60}",
    r"(?:ihre?|unsere?)?\s*ansprechpartner\S*(?: (?:für|bei|der|im)\b.{0,50})?",
    r"for (?:further|more|additional) information(?:,? please)?(?: contact)?",
    r"für (?:weitere informationen|rückfragen|presseanfragen)(?: wenden sie sich bitte an)?",
    r"herausgeber|issued by|impressum",
)
_AUTHOR_HEADING = _any(
    r"authors?|autor(?:in|en)?|about the authors?|über (?:den autor|die autorin|die autoren)",
    r"zur autorin|zum autor",
)
_FUEL_HEADING = _any(
    r"(?:information (?:on|about) |angaben zu[rm]? |official |hinweise? zu[rm]? )?"
    r"(?:fuel consumption|consumption|co[2₂][ -]?emissions?|energy consumption|"
    r"kraftstoffverbrauch|verbrauch|co[2₂]-emissionen|verbrauchs-)"
    r"(?:,? (?:and|und|&) (?:co[2₂][ -]?emissions?|co[2₂]-emissionen|emissions?\w*|range|"
    r"emissionsangaben|emissionswerte|emissionen|fuel consumption|consumption))?"
    r"(?: (?:information|data|figures|values|note|notice|disclaimer))?",
)
_MEDIA_HEADING = _any(
    r"(?:article |related )?(?:media|press|picture|photo|image|offline|video)[ -]?"
    r"(?:material|attachments?|downloads?|gallery|kit|images?|photos?|footage|library|service)",
    r"article (?:media material|offline attachments)|downloads?|attachments?|images?|photos?|pictures?",
    r"(?:presse)?(?:bilder|fotos|bildmaterial|downloads|anhänge|mediathek|bildergalerie|pressemappe)",
    r"(?:image|photo|picture) (?:captions?|credits?)|bildunterschrift(?:en)?|bildnachweise?",
)
_NOTES_HEADING = _any(
    r"(?:notes?|information) (?:to|for) (?:the )?(?:editors?|journalists|media|press)",
    r"editor['’]?s['’]? notes?|"
    r"(?:hinweise?|anmerkung(?:en)?) (?:für|an) (?:die )?(?:redaktion(?:en)?|medien|presse)",
)
_LINKS_HEADING = _any(
    r"(?:related |further |useful |more |quick |external )?links?|weiterführende links|weblinks",
    r"(?:related|further|more|latest|other) (?:articles?|news|stories|releases|press releases|topics)",
    r"(?:related|further|more|additional) (?:information|content|reading)|read (?:more|also|on)|see also",
    r"(?:weitere|mehr|verwandte|ähnliche) (?:informationen|infos|meldungen|artikel|themen|news|"
    r"pressemitteilungen|beiträge)|lesen sie auch|das könnte sie auch interessieren",
    r"(?:follow us(?: on.{0,40})?|folgen sie uns.{0,40}|social media|share(?: this.{0,30})?|teilen)",
    r"this article in other \w+|you may also like|tags|keywords|schlagworte?",
)
_LEGAL_HEADING = _any(
    r".{0,40}forward[- ]looking statements?|safe harbou?r(?: statement)?|(?:legal )?disclaimer",
    r"(?:legal|rechtliche[r]?|copyright) (?:notice|hinweise?|note)|haftungsausschluss",
    r"(?:hinweis(?:e)? zu )?zukunftsgerichtete[nr]? aussagen",
)
_COMPANY = (
    r"\b(?:AG|GmbH|SE|KG|KGaA|OHG|e\.\s?V|eG|Inc|Ltd|Limited|LLC|LLP|plc|PLC|Corp|Corporation|Co"
    r"|Company|Group|Gruppe|Holding|Konzern|Unternehmensgruppe|Stiftung|Foundation|Industries"
    r"|S\.?A|N\.?V|B\.?V|SpA|AB|Oy|A/S|GmbH & Co)\b"
)
_ABOUT_US = _any(
    r"(?:about|über) (?:us|uns|the (?:company|group|organi[sz]ation)|our company|das unternehmen"
    r"|die (?:unternehmens|firmen)?gruppe|den konzern)|zum unternehmen|kurzprofil|boilerplate",
    r"(?:company|corporate|unternehmens|firmen)[\s-]?(?:profile?|portrait|porträt|information(?:en)?"
    r"|background|description|beschreibung|overview)|who we are|wer wir sind",
)
_ABOUT_NAMED = re.compile(
    r"(?:About|ABOUT|Über|ÜBER|Zur|Zum|Zu)\s+(?:(?:the|The|die|den|das|der)\s+)?"
    r"(?P<name>[A-ZÀ-ÖØ-Þ0-9][^.:!?]{1,70}(?:\.[^.:!?]{0,12})?)|"
    r"(?P<brief>[A-ZÀ-ÖØ-Þ0-9][^.:!?]{1,50}) (?:at a glance|in brief|auf einen Blick|im Profil)"
)
_PORTRAIT = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"\b(?:is|are|ranks|ist|sind|zählt|gehört)\b.{0,40}\b(?:an?|the|one|among|ein\w*|der|die|das|zu)\b",
        r"\b(?:founded|established|family[- ]owned|gegründet|familienunternehmen|since|seit)\b",
        r"\b(?:headquarter\w*|based in|mit sitz in|hauptsitz|stammsitz|firmensitz|locations?|sites"
        r"|standorte?n?)\b",
        r"\b(?:employ\w*|staff|workforce|beschäftig\w*|mitarbeit\w*|people)\b",
        r"\b(?:revenue|turnover|sales of|umsatz\w*|countries|ländern|worldwide|weltweit)\b",
        r"\b(?:leading|market leader|specialist|führend\w*|marktführer|spezialist\w*)\b",
        r"\b(?:develops|manufactur\w*|produces|makes|builds|operates|provides|supplier|provider|maker"
        r"|offers|entwickelt|produziert|fertigt|stellt|baut|betreibt|hersteller\w*|anbieter\w*"
        r"|zulieferer|liefert|company|unternehmen|group|gruppe)\b",
    )
)


def opening(line: str, following: str = "") -> Opening | None:
    """The block that a heading opens, None for any other line; `following` is what comes next."""
    phrase = line.strip(_EDGE)
    if not phrase or len(phrase) > 90 or len(phrase.split()) > 12:
        return None
    for pattern, reason, prose in _HEADINGS:
        if pattern.fullmatch(phrase):
            return Opening(reason, prose or phrase.lower().startswith(("about", "über")))
    if _ABOUT_US.fullmatch(phrase) or _is_about(phrase, following):
        return Opening(ABOUT, prose=True)
    return None


_HEADINGS = (
    (_AUTHOR_HEADING, AUTHOR, False),
    (_CONTACT_HEADING, CONTACT, False),
    (_FUEL_HEADING, FUEL, False),
    (_MEDIA_HEADING, MEDIA, False),
    (_NOTES_HEADING, MEDIA, True),
    (_LINKS_HEADING, LINKS, False),
    (_LEGAL_HEADING, LEGAL, True),
)


def _is_about(phrase: str, following: str) -> bool:
    """Whether a heading names a company: by its legal form, or by the portrait under it."""
    match = _ABOUT_NAMED.fullmatch(phrase)
    if not match:
        return False
    name = match["name"] or match["brief"]
    traits = sum(bool(pattern.search(following)) for pattern in _PORTRAIT)
    if re.search(_COMPANY, name):
        return traits >= 1
    start = " ".join(following.split()[:12]).lower()
    named = any(word.lower() in start for word in re.findall(r"\w{3,}", name) if word[0].isupper())
    return traits >= (2 if named else 3)


# --- lines and sentences -------------------------------------------------------------------------


def is_prose(text: str) -> bool:
    """Whether a text is a full sentence or more, not a heading, name, address, label or link."""
    return _is_prose(text) if len(text) <= _LONGEST else _is_prose.__wrapped__(text)


@lru_cache(_REMEMBERED)
def _is_prose(text: str) -> bool:
    bare = _LABELS.sub("", _PLACEHOLDER.sub("", text)).strip()
    words = re.findall(r"[^\W\d_]+", bare)
    small = sum(word[0].islower() and len(word) > 1 for word in words)
    ends = re.search(r"[.!?…][\"'”“’»«)\]*¹²]*$", bare) is not None
    return ends and len(words) >= 5 and small >= 0.3 * len(words)


def is_heading(text: str) -> bool:
    """Whether a line may stand above a new section."""
    return (
        not is_prose(text)
        and len(text.split()) <= 10
        and text[-1:] not in ".;,!"
        and not re.search(r"\d|:.", text)
        and not _URL.search(text)
        and not _PLACEHOLDER.search(text)
    )


def is_card_line(text: str) -> bool:
    """Whether a line is a name, a role, an address or a link, as on a visiting card."""
    words = re.findall(r"[^\W\d_]{2,}", text)
    if is_prose(text) or not words or len(text.split()) > 12 or text[-1:] in ".!?":
        return bool(_PLACEHOLDER.search(text) or _URL.search(text)) and not is_prose(text)
    if _URL.search(text) or _PLACEHOLDER.search(text) or _ADDRESS.search(text):
        return True
    large = sum(word[0].isupper() for word in words)
    if _ROLE.search(text):
        return True
    return not any(c.isdigit() for c in text) and large >= 0.7 * len(words) and len(words) <= 5


_ADDRESS = re.compile(
    r"\b(?:D-)?\d{5} [A-ZÄÖÜ]|(?:straße|strasse|str\.|weg|platz|allee|street|road|avenue|lane|drive)"
    r",? \d|\d+ [A-Z]\w+ (?:Street|St|Road|Rd|Avenue|Ave|Lane|Drive|Way|Square)\b|\bBox \d|Postfach",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"\b(?:head|manager|director|officer|spokes\w+|leiter(?:in)?|sprecher(?:in)?|presse\w*|press"
    r"|communications?|\w*kommunikation|pr|media relations|redaktion|referent(?:in)?|public relations"
    r"|consultant|agentur|agency)\b",
    re.IGNORECASE,
)
_ASKS = _any(
    r"\bplease (?:contact|call|e-?mail|write to|get in touch|address|direct|send)\b",
    r"\b(?:for|if you|should you)\b.{0,80}\b(?:information|questions?|enquir\w+|inquir\w+|interviews?"
    r"|queries|accreditation|review copies|images)\b",
    r"\b(?:get in touch with|reach (?:us|our|the press)|contact (?:us|our|the press))\b",
    r"\b(?:rückfragen|presseanfragen|interviewanfragen|interviewwünsche|akkreditierung\w*)\b",
    r"\b(?:wenden sie sich|kontaktieren sie|erreichen sie|melden sie sich|schreiben sie)\b",
    r"\b(?:weitere|nähere) (?:informationen|auskünfte|details|infos)\b|\bansprechpartner",
    r"\b(?:steht|stehen)\b.{0,60}\bzur verfügung\b",
)
_ASKS_ALONE = _any(
    r"^(?:for (?:further|more|additional) (?:information|details)|for (?:press|media) (?:enquir|inquir)"
    r"\w+)\b.*\b(?:contact|call|write)\b",
    r"^(?:bei (?:rück)?fragen|für (?:rückfragen|weitere informationen|interviewanfragen|presseanfragen))"
    r"\b.*\b(?:wenden sie|kontaktieren sie|stehen?|melden sie|erreichen sie)\b",
)
_BYLINE = re.compile(
    r"(?:(?:[Bb]y|BY|[Vv]on|Text|Autor(?:in)?|Author|Written by|Words by|Reported by)\s*:?)\s+"
    r"(?:Dr\. |Prof\. )*[A-ZÀ-ÖØ-Þ][\w.'’-]+(?: (?:(?:von|van|de|der|und|and|&) )*"
    r"[A-ZÀ-ÖØ-Þ][\w.'’-]+){1,5}"
)
_FUEL_LABEL = re.compile(
    r"^[*¹²³\d\[\]().:–\s-]*(?:[^.:;!?]{0,70}[:;,(–-]\s*)?"
    r"(?:(?:combined|official|weighted|average|provisional|preliminary|kombinierte[rns]?|gewichtete[rns]?"
    r"|offizielle[rns]?|vorläufige[rns]?)[,]?\s+)*"
    r"(?:(?:fuel|energy|power|electric(?:ity)?|petrol|diesel|hydrogen|gas)(?: power| energy)? consumption"
    r"|electric range|co ?[2₂][ -]?(?:emissions?|emissionen|class(?:es)?|klassen?)"
    r"|(?:kraftstoff|strom|energie|benzin|diesel|gas|wasserstoff)verbrauch|elektrische reichweite"
    r"|(?:pure )?electric driving range|emissions? class|verbrauchswerte)\b(?P<rest>.*)$",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\([^()]*\)")
_FUEL_VERB = re.compile(
    r"^\W*(?:\w+\W+){0,4}?(?:is|was|are|were|has|have|had|fell|falls|drops?|dropped|can|could|will|would"
    r"|lies|lay|rose|rises|remains|stands|decreas\w+|improv\w+|must|should|may|goes|went|amounts"
    r"|ist|sind|war|waren|hat|haben|liegt|lag|beträgt|betrug|sinkt|sank|sanken|wird|werden|wurde\w*"
    r"|konnte\w*|kann|soll\w*|steigt|stieg|bleibt|blieb|fiel|fällt|reduziert|verringert)\b",
    re.IGNORECASE,
)
_FUEL_FIGURE = re.compile(
    r"\d[\d.,–\s-]*(?:l|litres?|liter|kwh|kg|g|km|mpg|m³)?\s?(?:/|per|pro|auf)?\s?(?:100)?\s?(?:km|miles)\b"
    r"|\b(?:l|kwh|g|kg)/(?:100 ?)?km\b|:\s*[A-G](?:\b|[–-])|\bin (?:l|kwh|g|km)\b",
    re.IGNORECASE,
)
_FUEL_NOTE = _any(
    r"co ?[2₂][ -]?emissions of new passenger cars|co ?[2₂]-emissionen neuer personenkraftwagen",
    r"\bguide(?:line)?s?\b.*\bfuel (?:economy|consumption)|leitfaden über (?:den|die)\b.*verbrauch",
    r"deutsche[nr]? automobil[ -]?treuhand|\bpkw-envkv\b|\bdat\.de\b",
    r"\b(?:prescribed|specified|required|legally|mandatory)\b.{0,40}\b(?:measur\w+|test).{0,15}"
    r"\b(?:procedures?|methods?|process|cycles?)",
    r"\bvorgeschriebene\w*\b.{0,30}\b(?:mess|prüf)verfahren",
    r"\b(?:values|figures|data|information|angaben|werte|\w*daten|\w*werte)\b.*\b(?:wltp|nedc|nefz"
    r"|regulation \(e[uc]\)|verordnung \(e[ug]\)|vo \(e[ug]\))",
    r"\b(?:wltp|nedc|nefz)\b.*\b(?:values|figures|data|angaben|werte)\b.*\b(?:determined|measured"
    r"|calculated|based|according|ermittelt|gemessen|berechnet|beziehen)\b",
    r"\b(?:consumption|co ?[2₂]|range|verbrauch\w*|reichweite)\b.*\b(?:driving style|fahrweise"
    r"|fahrstil|fahrverhalten)\b.*\b(?:depend\w*|vary|influence\w*|abhängig|abhängen|beeinfluss\w*)",
    r"\b(?:depend\w*|vary|hängt|hängen|abhängig)\b.*\b(?:driving style|fahrweise|fahrstil)\b",
    r"\bnot (?:relate|refer) to (?:a|an|any) (?:(?:single|specific|individual|particular) )+vehicle",
    r"\b(?:figures|values|ranges?|werte|spannbreiten?)\b.*\b(?:consider|include|take into account"
    r"|berücksichtigen)\b.*\b(?:equipment|tyres?|tires?|wheels?|\w*ausstattung\w*|reifen\w*)\b",
    r"\b(?:nicht auf ein einzelnes fahrzeug|nicht bestandteil (?:des|eines) angebot)",
)
_MEDIA_LABEL = re.compile(
    r"^[*(\[•\s-]*(?:photos?|images?|pictures?|fotos?|bild(?:er)?|grafik|video|abbildung|caption"
    r"|bildunterschrift|bildnachweis|bildquelle|(?:photo|image|picture)[ -]?(?:credits?|caption|rights)"
    r"|credits?|copyright|bildrechte|quelle|source|sperrfrist|embargo)\s*\(?\d*\)?\s*(?:[:©/]|$)",
    re.IGNORECASE,
)
_MEDIA_NOTE = _any(
    r"^(?!.*\b(?:said|says|sagte?)\b).*\b(?:images?|photos?|pictures?|photographs|footage|press kit"
    r"|press pack|press photos|logos?|visuals|b-roll)\b.*\b(?:(?:for|to) (?:free )?download|downloaded"
    r"|(?:is|are) available (?:at|on|from|under|in our|in the (?:press|media)|free|upon|on request)"
    r"|can be (?:found|obtained|downloaded))",
    r"\b(?:\w*bild(?:er|material|daten)?|\w*fotos?|pressemappe|footage|filmmaterial|logos?)\b.*"
    r"\b(?:download|herunter\w*|abruf\w*|druckfähig\w*|druckqualität)",
    r"\b(?:\w*bilder|bildmaterial|\w*fotos|pressemappe|filmmaterial)\b.*\b(?:finden sie|stehen?)\b",
    r"\babdruck\b.*\b(?:frei|kostenlos|honorar\w*)|\bbelegexemplar|\bhonorarfrei\b",
    r"\b(?:reprint|reproduction|use)\b.*\b(?:free of charge|royalty[- ]free)|\beditorial use only\b",
    r"\b(?:specimen|voucher) copy\b|\bnur zu redaktionellen zwecken\b",
    r"^(?:embargoed?|strictly embargoed|sperrfrist|not for (?:release|publication))\b",
)
_MEDIA_LINE = _any(
    r"^(?:download|print|drucken|herunterladen|pdf|zip|share|teilen|e-?mail this)\b.{0,60}$",
    r"\.(?:pdf|jpe?g|png|zip|docx?|mp4|eps)\b|\((?:pdf|jpe?g|png|zip|docx?|mp4|eps)\b[^)]*\)",
    r"\b\d+(?:[.,]\d+)? ?[km]b\b",
    r"^(?:press (?:release|information)|news release|media (?:release|information)|for immediate release"
    r"|pressemitteilung|presseinformation|medieninformation|medienmitteilung)\b.{0,60}$",
    r"^\d* ?(?:images?|photos?|bilder|fotos|characters|zeichen)\b.{0,30}$",
)
_END_MARK = re.compile(
    r"[\s\-–—*#=_.~<>+(\[]*(?:ends?|ende|schluss|fin|news ends|end of (?:press )?release)?"
    r"[\s\-–—*#=_.~<>+)\]]*",
    re.IGNORECASE,
)
_POINTS = _any(
    r"\b(?:more|further|additional|detailed|full) (?:information|details|news|stories|background)\b",
    r"\b(?:find out|learn|read|discover|see) more\b|\bmore (?:about|on|at)\b|^(?:please )?visit\b",
    r"\bplease visit\b|\bfollow (?:us|the)\b|^(?:see|go to|online|website|homepage|web)\b",
    r"\b(?:weitere|nähere|ausführliche) (?:informationen|infos|details|angaben)\b",
    r"\bmehr (?:informationen|infos|dazu|über|zu[rm]?|unter|auf)\b|\b(?:besuchen|folgen) sie\b",
    r"^(?:im internet|online|internet|website|homepage)\b|\bpressemitteilungen finden sie\b",
)
_CHANNEL = re.compile(
    r"\b(?:facebook|twitter|x|linkedin|instagram|youtube|xing|tiktok|whatsapp|flickr|pinterest|threads"
    r"|mastodon|bluesky|rss|newsletter|blog|website|homepage|web|internet|online|here|hier)\b",
    re.IGNORECASE,
)
_LINK_LINE = _any(
    r"^(?:back to|zurück zu\w*|home\b|next (?:article|release)|previous (?:article|release)|read more"
    r"|mehr (?:lesen|erfahren)|learn more|find out more|show all|view all|alle anzeigen|weiterlesen)\b",
)
_LEGAL_NOTE = _any(
    r"\bforward[- ]looking statements?\b|\bzukunfts(?:gerichtete|bezogene)\w* aussagen\b",
    r"\ball rights reserved\b|\balle rechte vorbehalten\b|^(?:©|copyright|\(c\)) ?\d{4}",
    r"\b(?:not constitute|nor constitute)\b.*\boffer\b|\bstellt (?:kein|weder)\b.*\bangebot",
    r"\b(?:assumes?|undertakes?) no obligation to update\b|\bkeine verpflichtung\b.*\baktualisieren",
)


def reason_of(sentence: str) -> str:
    """Why a sentence or line is noise, "" if it is none."""
    return "" if len(sentence) > _LONGEST else _reason_of(sentence)


@lru_cache(_REMEMBERED)
def _reason_of(sentence: str) -> str:
    prose = is_prose(sentence)
    masked = _PLACEHOLDER.search(sentence) is not None
    if (masked and (not prose or _ASKS.search(sentence))) or _ASKS_ALONE.search(sentence):
        return CONTACT
    if _BYLINE.fullmatch(sentence.rstrip(".")) and not prose:
        return AUTHOR
    if _is_fuel_note(sentence):
        return FUEL
    if _LEGAL_NOTE.search(sentence):
        return LEGAL
    if _MEDIA_LABEL.search(sentence) or _MEDIA_NOTE.search(sentence):
        return MEDIA
    if not prose and (_MEDIA_LINE.search(sentence) or _END_MARK.fullmatch(sentence)):
        return MEDIA
    return LINKS if _is_link(sentence, prose) else ""


def _is_fuel_note(sentence: str) -> bool:
    if _FUEL_NOTE.search(sentence):
        return True
    bare = _BRACKETS.sub("", sentence)
    if is_prose(bare) and not _FUEL_LABEL.search(bare):  # a model named with its figures
        return False
    label = _FUEL_LABEL.search(sentence)
    if not label or _FUEL_VERB.search(label["rest"]):
        return False
    return _FUEL_FIGURE.search(label["rest"]) is not None


def _is_link(sentence: str, prose: bool) -> bool:
    n_words = len(sentence.split())
    if _URL.search(sentence):
        bare = _URL.sub("", sentence)
        if n_words <= 35 and _POINTS.search(bare):
            return True
        return not prose and len(bare.split()) <= 8
    if prose:
        return False
    if sentence.count("|") >= 2 or _LINK_LINE.search(sentence):
        return True
    return len(_CHANNEL.findall(sentence)) >= max(2, 0.5 * n_words)
