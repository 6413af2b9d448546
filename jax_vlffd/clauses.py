"""Reads the clauses of a caption: their regions, the types that they state, and whether they deny them.

A caption is cut at marks and conjunctions; a type belongs to the regions of its own clause. Names that only
compare or locate ('blurrier than the eyes', 'below the nose') are references and name no region. Whoever scores
captions and whoever checks them reads by these rules. They are ours, as are all tables; `vocabulary` holds the
words of regions and types, this module those of grammar and judgment.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple


class Claim(NamedTuple):
    """One statement about a region: `types` are those that its words may mean, empty for no type.

    It is `explicit` if its own words judge; a bare 'tone' or 'shape' is taken for a fault.
    """

    types: frozenset[str]
    is_fault: bool
    words: str
    is_explicit: bool = True


class Clause(NamedTuple):
    """A clause with the regions it speaks of and what it claims of each of them.

    `regions` includes those that it takes over from the clause before, `named` does not; `is_other` marks one
    about something else (hair, neck, everything else).
    """

    regions: tuple[str, ...]
    named: tuple[str, ...]
    claims: tuple[Claim, ...]
    is_other: bool
    text: str

    @property
    def is_clean(self) -> bool:
        """Whether it only says that something is as it should be."""
        return bool(self.claims) and not any(claim.is_fault for claim in self.claims)


def _any(*words: str) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


#: What is seen beside the four regions.
_OTHER: Final = (
    r"hair(?!line)|ears?|earlobes?|necks?|throat|background|glasses|spectacles|heads?|shoulders?|clothes"
    r"|collar|shirt"
    r"|hat|(?:every|any)thing else|nothing else|(?:no|all|every|any) other|all else|elsewhere|the others?"
    r"|rest|remainder|remaining|surroundings?|images?|pictures?|photo(?:s|graphs?)?|frame|scene"
)
_MAX_READ: Final = (
    4_000  # characters; no caption is longer, and the time grows with the square of a sentence
)
_REFERENT: Final = "referent"
#: Words after which a name only compares or locates.
_BEFORE_REFERENCE: Final = (
    r"unlike|(?:compared|relative|next|close|adjacent|contrary) (?:to|with)|in (?:contrast"
    r"|comparison) (?:to|with)"
    r"|(?:differs?|different|differing|distinct)(?: in \w+)? from|above|below|beneath|underneath|under"
    r"|beside|besides"
    r"|towards?|match(?:es|ing)?|fits?|(?:fits?|goes|go|moves?|consistent|blends?|agrees?"
    r"|line) (?:\w+ )?(?:with|into|to)"
    r"|as \w+ as|follows? (?:the \w+ of)?"
)  # fmt: skip
_MODIFIER: Final = (
    r"(?:(?:the|an?|its|his|her|their|this|that|those|these|both|rest|of|left|right|upper|lower|inner"
    r"|outer|other"
    r"|natural|surrounding|neighbou?ring|adjacent|person's)\s+){0,5}"
)
_SIMILE: Final = re.compile(r"\b(?:as if|as though)\b[^,.;:!?]*", re.IGNORECASE)
_STRONG: Final = re.compile(
    r"[;!?]|\.(?=\s|$)|\s-+\s|\b(?:but|while|whilst|whereas|although|though|however|yet|since|because|except)\b"
    r"|,\s*(?:so|then)\b|:(?=\s)|,?\s*(?:something|the same|which|that) (?:cannot|can't|can hardly) be said\b",
    re.IGNORECASE,
)
_WEAK: Final = re.compile(r",|\b(?:and|or|nor|plus|with)\b", re.IGNORECASE)
_OF_SKIN: Final = re.compile(
    r"\b(?:skin|facial)(?=[\s-]+(?:textures?|grain|details?|pores?|tones?|colou?rs?)\b)",
    re.IGNORECASE,
)
_NEW_SUBJECT: Final = re.compile(r"^\W*(?:and|or)?\s*(?:it|they|he|she|there)\s+\w+", re.IGNORECASE)
_STOPS: Final = re.compile(r"^[.!?]")
_RELATIVE: Final = _any("which", "who", "whose")
_PRONOUN: Final = _any("it", "its", "they", "their", "them", "these", "both", "he", "she")
_NO_VERB: Final = re.compile(
    r"of|in|on|at|area|region|as|so|too|also|with|being|around|both|alike|together|likewise|if|perhaps"
    r"|probably",
    re.IGNORECASE,
)
_VERB: Final = _any(
    "is", "are", "was", "were", "has", "have", "had", "looks?", "shows?", "seems?", "appears?", "lacks?",
    "does", "do",
    "can", "could", "differs?", "keeps?", "remains?", "runs?", "lies?", "sits?",
)  # fmt: skip
_NEGATION: Final = (
    r"(?:no|not|none|cannot|never|without|lack(?:s|ing|ed)?|miss(?:es|ing)|lost|losing|nor|neither|hardly"
    r"|barely|scarcely|too little|(?<!a )little|less|devoid|hid(?:es?|den|ing)|eras(?:es?|ed|ing)"
    r"|free (?:of|from)|absence"
    r"|nothing|nobody|\w+n't|deprived|insufficient(?:ly)?|few|far from|lose|loses"
    r"|remov(?:es?|ed|ing))"
)
_NEGATED: Final = re.compile(
    rf"\b{_NEGATION}\b(?! (?:more|less) than\b)(?:(?!,?\s*(?:(?:and|or)\s+"
    rf"|(?<=,)\s*)(?:also\s+)?{_VERB.pattern})"
    r"\W+(?!(?:but|only|the reason)\b)[\w'-]+){0,5}\W*$"
    r"|\bloss of(?:\s+[\w-]+)?\s+$",
    re.IGNORECASE,
)
_WITHOUT_THE: Final = re.compile(
    r"^\W*(?:and )?(?:without|were it not for) (?:the|these|this|its|his|her|their)\b",
    re.IGNORECASE,
)
_TOO: Final = re.compile(
    r"\b(?:too|overly|unnaturally|suspiciously|artificially|unusually|implausibly|impossibly"
    r"|than(?: (?:is|a))?)\s+$",
    re.IGNORECASE,
)
_NEGATED_AFTER: Final = re.compile(
    r"^[\s\"')]+(?:(?!(?:that|which|who|referent|and|or|but)\b)[\w'-]+\s+){0,3}?(?:missing|absent|gone"
    r"|lost|lacking|vanish(?:ed|es)?|erased|hidden|removed|stops?|ends?"
    r"|disappear(?:s|ed)?|cannot|unseen|invisible|wiped|(?:is|are|was|were|be) not)\b",
    re.IGNORECASE,
)
#: Judgments without a type.
_GOOD: Final = _any(
    "natural(?:ly)?", "normal(?:ly)?", "authentic", "genuine", "flawless(?:ly)?", "regular", "intact",
    "untouched",
    "unaltered", "unchanged", "unaffected", "unremarkable", "convincing(?:ly)?", "credibl[ey]",
    "believabl[ey]", "plausibl[ey]",
    "realistic(?:ally)?", "correct(?:ly)?", "proper(?:ly)?", "consistent(?:ly)?", "coherent(?:ly)?",
    "perfect(?:ly)?",
    "healthy", "faultless", "impeccabl[ey]", "spotless", "harmonious(?:ly)?", "accurate(?:ly)?", "clean",
    "fine(?=\\s*(?:$|,|and\\b))",
    "(?:one|you|we) (?:would|might|could) expect", "as expected", "as (?:it|they) should(?: be)?",
    "in order", "agrees?",
    "rich(?:ly)?", "keeps?", "retains?", "preserv(?:es|ed)", "beyond (?:doubt|reproach)",
    "unblemished", "unsuspicious", "ordinary", "(?:is|are|looks?|just|quite|all) right", "good(?! deal)",
    "(?<!as )well(?! as)", "admirabl[ey]", "sound",
    "even(?= (?:tones?|tone|textures?|colou?r|skin|light\\w*))", "matches",
    "free of (?:faults?|flaws?|artifacts?)",
    "undisturbed", "immaculate(?:ly)?", "unobtrusive", "unmanipulated", "unedited", "pristine", "real", "true",
    "nothing (?:wrong|amiss|odd|strange|suspicious|unusual)", "trustworthy",
)  # fmt: skip
_BAD: Final = _any(
    "unnatural(?:ly)?", "odd(?:ly)?", "wrong(?:ly)?", "off", "strange(?:ly)?", "inconsistent(?:ly)?",
    "implausibl[ey]",
    "impossibl[ey]", "suspicious(?:ly)?", "mismatch(?:e[ds]|ing)?", "false", "fake[d]?", "forged",
    "artificial(?:ly)?",
    "unusual(?:ly)?", "uneven(?:ly)?", "incorrect(?:ly)?", "manipulat\\w+", "altered", "edited",
    "tamper\\w+", "faults?",
    "flaws?", "artifacts?", "amiss", "unrealistic(?:ally)?", "abnormal(?:ly)?", "unlikely", "unhealthy",
    "irregular\\w*",
    "forger(?:y|ies)", "out of place", "lifeless", "damaged?", "affected", "betrays?", "anomal\\w+",
    "defects?", "errors?",
    "not (?:fit|match|belong|agree|correspond)", "swapped", "replaced", "pasted", "retouched", "doctored",
    "worked on",
)  # fmt: skip

_B, _T, _C, _S, _E = (
    frozenset({kind}) for kind in ("blur", "texture", "color", "structure", "boundary")
)
#: Words that state a fault, and the types that they can mean.
_FAULTS: Final[tuple[tuple[frozenset[str], re.Pattern[str]], ...]] = (
    (_B, _any(r"blur\w*", "unsharp", r"smudg\w*", r"smear\w*", "fuzz(?:y|iness)", "haz[ey]", "hazily",
          "fogg?y?", "bleary",
              "mushy", "out of focus", r"(?:de|un)focus\w*", "indistinct", "ill[- ]defined",
              r"dissolv\w*", "vague",
              "low[- ]resolution", "pixel?lated")),
    (_B | _T, _any("soft", "softer", "soften(?:ed|s|ing)?", "softness", "too smooth")),
    (_B | _C, _any("muddy", "washed[- ]out")),
    (_T | _B, _any(r"smooth\w*(?! (?:transition|into|in\b))", "featureless")),
    (_T, _any("wax", "wax(?:y|en)", "plastic", r"porcelain\w*", r"airbrush\w*", r"doll\w*", "rubbery",
          "coarse", "rough",
              "grainy", "noisy", "printed", "too (?:even|uniform)")),
    (_C, _any(r"discolou?r\w*", r"redd\w+", "red", r"pink\w*", r"orange\w*", r"yellow\w*", r"green\w*",
          "blue", "bluer",
              r"bluish", "purple", "violet", "purplish", r"gr[ae]y\w*", "ashen", "pale[rd]?", "paleness",
              "sallow",
              r"tint\w*", r"ting(?:e|es|ed)", "tan", "tanned", r"(?:over|de|under)?-?saturat\w*", "ruddy",
              "greener")),
    (_S, _any(r"distort\w*", r"deform\w*", r"misshape\w*", r"warp\w*", r"asymmetr\w*", "bent", "bends?",
          r"crooked\w*",
              r"twist\w*", r"contort\w*", r"misalign\w*", "lopsided", r"skew\w*", "askew", r"stretch\w*",
              r"squash\w*",
              r"elongat\w*", r"malform\w*", r"bulg\w*", "bulbous", "kink(?:ed|s)?", r"slant\w*",
              "misplaced", "displaced",
              r"off-?cent\w+", r"flattened", r"disproportion\w*", r"dislocat\w*", "out of shape",
              r"narrow\w*", "widened",
              "different heights?", "different sizes?", "different directions?", r"diagonal\w*",
              "swollen", "shrunken", r"doubl(?:ed|ing)", "duplicated", r"pull(?:ed|s)", "dragged",
              r"shift(?:ed|s)", r"tilt(?:ed|s)?", "hangs?", "droop(?:s|ing|ed)?",
              r"unaligned", r"squeez\w+", r"inflated", r"pinched", "at an angle", "rotated",
              r"mis-?proportioned", "disjointed",
              "larger", "bigger", "smaller", "longer", "shorter",
              "too (?:wide|long|short|large|small|big|thick|thin|high|low)",
              r"squint\w*", "to one side")),
    (_E, _any(r"boundar\w*", "seams?", "blending", r"(?<!the )edges?(?! of\b)", "(?<!vermilion )borders?",
          "rims?(?! of a mask)", r"stitch\w*",
              "halos?", r"rectang\w+",
              "(?:a|faint|visible|thin|hard|sharp|fine|dark|bright|dividing|clear) line", "cut-?outs?",
              r"outlines? of the patch", r"demarcat\w*", "framed by",
              r"(?<!smooth )(?<!natural )(?<!seamless )transitions?", "hard cut")),
)  # fmt: skip
#: Words that state that a region is sound in one respect.
_SOUND: Final[tuple[tuple[frozenset[str], re.Pattern[str]], ...]] = (
    (_B, _any(r"(?:sharp\w*|crisp\w*|clear(?:er)?)"
              r"(?!\s+(?:edges?|lines?|borders?|seams?|bound\w+|transitions?|rims?|visible))",
              "in focus", "in (?:perfect|good|sharp) focus", "well[- ]defined", "clarity")),
    (_S, _any("(?:well[- ])?aligned", r"symmetric\w*", "symmetry", "straight", "undistorted", "undeformed",
              "well[- ](?:formed|shaped|proportioned|placed)", "(?:is|are|looks?) even", "level")),
    (_E, _any(r"seamless\w*", r"blends? (?:in|smoothly|well|naturally)", "smooth transition", "smoothly into")),
    (_T | _B, _any(r"details?", "detailed", "definition")),
    (_T, _any("pores?", "wrinkles?", "fine lines?", r"textures?", r"textured", "grain", "moles?",
          "blemish(?:es)?")),
)  # fmt: skip
#: Nouns of a type that judge nothing by themselves.
_TOPICS: Final[tuple[tuple[frozenset[str], re.Pattern[str]], ...]] = (
    (_C, _any(r"colou?r\w*", "hues?", "ton(?:es?|al|ality)", "shades?", r"pigment\w*", "casts?")),
    (_S, _any("shapes?", "shaped", "structur\\w*", "proportions?", "geometry", "anatomy")),
    (_E, _any(r"blend(?:s|ed)?")),
    (_S | _E, _any("contours?", "outlines?")),
)  # fmt: skip
#: Of the sound words, those that only sound if said to be good or to be there: 'an uneven texture'.
_NEUTRAL_TEXTURE: Final = re.compile(
    r"textur|grain|detail|definition|sharpness|clarity", re.IGNORECASE
)


class Reader:
    """Reads clauses by a table of the words that name regions, and what is generic of them."""

    def __init__(self, synonyms: Mapping[str, tuple[str, ...]], generic: re.Pattern[str]):
        self._generic = generic
        alternatives = [f"(?P<{name}>{'|'.join(words)})" for name, words in synonyms.items()]
        self._mention = _any(*alternatives, f"(?P<other>{_OTHER})")
        names = "|".join("|".join(words) for words in (*synonyms.values(), (_OTHER,)))
        name = rf"{_MODIFIER}(?:{names})\b"
        # A list after 'than' is compared with as a whole, up to what has a verb of its own.
        more = rf"{name}(?!\s+(?:{_VERB.pattern}))"
        compared = (
            rf"\b(?P<list>than|that of|those of)\s+{name}(?:\s*(?:,(?: and)?|and|or)\s+{more})*"
        )
        located = rf"\b(?P<one>{_BEFORE_REFERENCE})\s+{name}(?:\s+(?:and|or)\s+{more})*"
        relative = (
            rf"\b(?P<relative>that|which)\s+(?:the|his|her|its|their)\s+(?:{names})"
            r"(?=\s+(?:does|do|would|could|can|did|will|cannot)\b)"
        )
        self._reference = re.compile(f"{compared}|{located}|{relative}", re.IGNORECASE)

    def clauses(self, text: str) -> list[Clause]:
        """Returns the clauses of the first `_MAX_READ` characters of a text, in order."""
        text = self._generic.sub(" it ", text[:_MAX_READ])
        text = _SIMILE.sub(lambda match: self._mention.sub(" ", match[0]), text)
        text = self._reference.sub(lambda match: f"{match[str(match.lastgroup)]} {_REFERENT}", text)
        result: list[Clause] = []
        for part, is_new_sentence in self._parts(text):
            mentions = [str(match.lastgroup) for match in self._mention.finditer(part)]
            if len({*mentions} - {"other"}) > 1 and _OF_SKIN.search(
                part
            ):  # 'the nose has no skin texture'
                mentions = [
                    str(match.lastgroup)
                    for match in self._mention.finditer(_OF_SKIN.sub(" ", part))
                ]
            named = regions = tuple(dict.fromkeys(name for name in mentions if name != "other"))
            is_other = bool(mentions) and not regions
            if not mentions and result:
                if _RELATIVE.match(part.strip()) and _REFERENT in result[-1].text[-60:]:
                    is_other = True
                elif not is_new_sentence or _PRONOUN.search(part):
                    regions, is_other = result[-1].regions, result[-1].is_other
            result.append(Clause(regions, named, _claims(part), is_other, part))
        return result

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The clauses as text, and whether each begins a sentence."""
        start, is_new = 0, True
        for mark in (*_STRONG.finditer(text), None):
            end = mark.start() if mark else len(text)
            chunk = text[start:end]
            if (
                mark
                and mark[0] == ":"
                and not (self._mention.search(chunk) and self._states(chunk))
            ):
                continue  # 'Mouth: blurry', 'Missing texture: lips'
            for number, part in enumerate(self._split_lists(chunk)):
                if part.strip():
                    yield part, is_new and number == 0
            if mark:
                start = mark.end() if not mark[0][0].isalpha() else mark.start()
                is_new = bool(_STOPS.match(mark[0]))

    def _split_lists(self, text: str) -> list[str]:
        """Cuts at commas and 'and' where another region begins with a statement of its own."""
        cuts = [match.start() for match in _WEAK.finditer(text)]
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        parts = [pieces[0]]
        for number in range(1, len(pieces)):
            said = self._is_complete(parts[-1])
            if said and (
                _NEW_SUBJECT.match(pieces[number]) or self._begins_clause(pieces[number:])
            ):
                parts.append(pieces[number])
            else:
                parts[-1] += pieces[number]
        return parts

    def _is_complete(self, text: str) -> bool:
        """Whether a part has a region and a statement, if only a verb that the tables do not have."""
        ends = [match.end() for match in self._mention.finditer(text)]
        if not ends:
            return False
        rest = re.findall(r"[\w'-]+", text[ends[-1] :])
        return self._states(text) or (len(rest) > 1 and not _NO_VERB.fullmatch(rest[0]))

    def _begins_clause(self, pieces: list[str]) -> bool:
        for number, piece in enumerate(pieces):
            mention = self._mention.search(piece)
            if mention is None:
                return False
            after = piece[mention.end() :]
            rest = re.findall(r"[\w'-]+", after)
            is_elliptic = piece.startswith(",") and rest and not _NO_VERB.fullmatch(rest[0])
            if self._states(after) or _VERB.search(after) or is_elliptic:
                return True
            if self._states(piece[: mention.start()]):
                return number == 0
        return False

    def _states(self, text: str) -> bool:
        return bool(_claims(text))


@functools.lru_cache(maxsize=4096)  # parts are read again as the text is cut
def _claims(text: str) -> tuple[Claim, ...]:
    """What a clause claims of its regions."""
    return tuple(_find_claims(text))


def _find_claims(text: str) -> Iterator[Claim]:
    bad = [not _is_negated(text, match) for match in _BAD.finditer(text)]
    good = [
        not (_is_negated(text, match) or _TOO.search(text[: match.start()]))
        for match in _GOOD.finditer(text)
    ]
    typed = False
    for types, pattern in _FAULTS:
        for match in pattern.finditer(text):
            typed = True
            yield Claim(types, not _is_negated(text, match), match[0])
    # A judgment decides about nouns that do not judge themselves: 'an odd color', 'no natural texture'.
    judged_fault = any(bad) or (not any(good) and not (bad and not any(bad))) or not all(good)
    for types, pattern in _SOUND:
        for match in pattern.finditer(text):
            typed = True
            if _TOO.search(text[: match.start()]):  # 'too sharp'
                yield Claim(frozenset(), True, match[0])
                continue
            is_fault = _is_negated(text, match) or (
                bool(_NEUTRAL_TEXTURE.match(match[0])) and judged_fault
            )
            yield Claim(types, is_fault, match[0])
    for types, pattern in _TOPICS:
        for match in pattern.finditer(text):
            if typed and len(types) > 1:
                continue  # 'the contour is washed out'
            typed = True
            yield Claim(types, judged_fault, match[0], bool(bad or good))
    if not typed:
        for is_fault in (*bad, *(not sound for sound in good)):
            yield Claim(frozenset(), is_fault, "")


def _is_negated(text: str, match: re.Match[str]) -> bool:
    before = _WITHOUT_THE.sub("", text[: match.start()])
    return bool(_NEGATED.search(before) or _NEGATED_AFTER.match(text[match.end() :]))
