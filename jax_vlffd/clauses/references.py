"""Takes the names of regions out of a text that only compare, locate or exclude (rules ours).

'Blurrier than the eyes', 'not the eyes, but the mouth', 'like the skin of an orange' do not speak of eyes or
skin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from jax_vlffd.clauses.claims import VERB, claims_of

#: What a name that only compares is replaced by.
REFERENT: Final = "referent"
PRONOUN: Final = re.compile(
    r"\b(?:it|its|they|their|them|these|both|he|she|the (?:former|latter))\b"
)
MODIFIER: Final = (
    r"(?:(?:the|an?|its|his|her|their|this|that|those|these|both|rest|of|left|right|upper|lower"
    r"|inner"
    r"|outer|other|two|either|each|entire|whole|any|every|most|all|some|one"
    r"|natural|surrounding|neighbou?ring|adjacent|person's|man's|woman's|subject's)\s+){0,5}"
)
#: Words after which a name only compares or locates.
_BEFORE_REFERENCE: Final = (
    r"unlike|short of|compar(?:es?|ed|ing) (?:\w+ ){0,4}(?:with|to)|not (?:extend|reach|spread"
    r"|spill|continue)(?: as far as| to| into| onto)?"
    r"|(?:compared|relative|next|close|adjacent|contrary) (?:to|with)|in (?:contrast"
    r"|comparison) (?:to|with)|as opposed to|compared against|judged by|against"
    r"|(?:differs?|different|differing|distinct)(?: in \w+)? from|above|below|beneath|underneath"
    r"|under"
    r"|beside|behind"
    r"|towards?|match(?:es|ing)?|fits?|suits?|(?:fits?|goes|go|moves?|consistent|inconsistent"
    r"|blends?|agrees?"
    r"|line|harmony|keeping|clash\w*|merges?|contrasts?) (?:\w+ )?(?:with|into|to)"
    r"|(?:same|similar) (?:\w+ ){0,3}as|as (?!well|much|far)\w+ as|follows? (?:the \w+ of)?|such"
    r" as that of|belong\w* (?:to|with|in|on)|(?:none|nothing|little|much|any|all) of the \w+ of"
    r"|(?:slid|slip|climb|creep|crawl|mov|drift|hang|wander|spill|run|stray|fall)\w* (?:\w+"
    r" )?(?:off|down|up|across"
    r"|out of|away from)"
)  # fmt: skip

_SIMILE: Final = re.compile(
    r"\b(?:as if|as though|belong\w* to (?:an?|another|some\w*))\b[^,.;:!?]*"
    r"|\blike (?:an?|the|some\w*) [\w' -]{0,30}? of (?:an?|another|some\w*)\b[^,.;:!?]*"
    r"|,? (?:which|that|as|than|like) (?:real|natural|human|normal|genuine|living) [\w' -]{3,20}?"
    r" (?:never|would|should|do|does"
    r"|have|has|is|are)\b[^,.;:!?]*"
)

_IN_PICTURE: Final = re.compile(
    r"\b(?:in|of|across) (?:the|this) (?:whole |entire )?(?:images?|pictures?|photo(?:graph)?"
    r"|frame|scene|portrait)\b"
)

#: Denied denials: 'not without flaws', 'fails to hide the seam'.
_DOUBLE: Final = re.compile(
    r"\b(?:not|never|cannot|hardly|nor|no|\w+n't|fail(?:s|ed)? to|unable to|(?:hard|difficult"
    r"|impossible) to)\s+"
    r"(?:(?:at all|quite|entirely|completely|wholly|fully|altogether|be|even)\s+){0,2}"
    r"(?:without|lack(?:s|ing)?(?: of)?|free (?:of|from)|devoid of|den(?:y|ied)|hide|hidden"
    r"|conceal(?:ed)?|mask(?:ed)?"
    r"|disguise[d]?|overlook(?:ed)?|miss(?:ed)?|ignore[d]?|unlike|avoid(?:ed)?|rid of)\b"
)

_NOT_FOR: Final = re.compile(r"\b(?:(?:if )?it were not for|were it not for|if not for|but for)\b")
_RELATIVE: Final = re.compile(r"\s*(?:that|which|whose)\b[^,.;:]*")
_NOT_OF_THIS_WORLD: Final = re.compile(r"\b(?:(?:does|do|did) not|cannot|\w+n't) exist\b")


class References:
    """Patterns of references, by a table of the words that name regions and of what is seen beside them."""

    def __init__(
        self,
        synonyms: Mapping[str, tuple[str, ...]],
        generic: re.Pattern[str],
        other: str,
        mention: re.Pattern[str],
    ):
        self._generic, self._mention = generic, mention
        names = "|".join("|".join(terms) for terms in (*synonyms.values(), (other,)))
        name = rf"{MODIFIER}(?:{names})\b"
        listed = rf"{name}(?:\s*(?:,|,?\s*(?:and|or|nor))\s+{name})*"
        # A list that is compared with ends at what has a verb of its own.
        more = rf"{name}(?!\s+(?:{VERB.pattern}))"
        rest = (
            rf"(?:(?:\s*,\s+{name})+(?:\s*,?\s+(?:and|or)\s+{name})?(?=\s*(?:[.;:]|$))"
            rf"|(?:\s+(?:and|or)\s+{more})*)"
        )
        compared = (
            r"\b(?P<list>than(?: (?:like|in|on|at|of|for))?|that of|those of)"
            rf"\s+{name}{rest}"
        )
        differing = (
            r"\b(?P<from>(?:differs?|different|differing|distinct)(?: in \w+)? from)"
            rf"\s+{name}{rest}"
        )
        located = (
            r"\b(?!\w+ (?:the|his|her|their) (?:chin"
            rf"|jaw)\w*)(?P<one>{_BEFORE_REFERENCE})\s+{MODIFIER}(?P<kind>(?:[\w-]+\s+){{0,2}}?){name}"
            rf"(?:\s+(?:and|or)\s+{more})*"
        )
        relative = (
            rf"\b(?P<relative>that|which)\s+(?:the|his|her|its|their)\s+(?:{names})"
            r"(?=\s+(?:does|do|would|could|can|did|will|cannot)\b)"
            r"|\b(?P<own>(?:which|as|than|(?:creases|pores|lines|texture|grain|details?) that))"
            rf" (?:real |human )?(?:{names})"
            r"(?= (?:has|have|does|do|should|would)\b)"
        )
        self._reference = re.compile(f"{compared}|{differing}|{located}|{relative}")
        # 'Not the eyes, but the mouth', 'the lips, not the eyes, are blurred'
        self._excluded = re.compile(
            rf"\bnot (?:(?:at|in|on|around) )?{listed},? (?=but\b)"
            r"|,?\s+(?:(?:and|but) )?(?:not|rather than|instead of) (?:(?:at|in|on|around)"
            rf" )?{listed}(?=\s*(?:,(?! (?:which|who|whose))|[.;:)]|$|that))"
        )
        # 'Not the sharpness of the eyes but their color'
        self._aspect = re.compile(
            rf"\bnot (?:(?:in|with) )?the [\w-]+ of (?P<name>{name})(?: that (?:is|are|looks?)"
            r" \w+)?,? (?=but\b)"
        )
        self._respective = re.compile(
            rf"(?P<names>{listed}) (?P<verb>is|are|looks?|seems?|has|have|shows?),?(?:"
            r" respectively,?)?"
            r" (?P<words>[^.;]*?)(?:,? respectively)?(?=[.;]|$)"
        )
        self._near_other = re.compile(
            rf"\b(?:near|beside|towards?|next to|up to|by) {MODIFIER}(?:{other})\b"
        )
        self._everywhere = re.compile(
            r"\b(?:everywhere|all over|throughout),? (?:just|only|but|except|save)(?: for)?(?:"
            r" not)?"
            rf" (?:(?:at|in|on|around|for) )?(?P<names>{listed})(?=\s*(?:[,.;]|$))"
        )
        parts = "|".join("|".join(synonyms[region]) for region in synonyms if region != "face")
        # 'The alar skin', 'the skin of the nose'
        self._skin_of = re.compile(
            rf"(?<=\s)skin (?:of|on) (?={MODIFIER}(?:{parts})\b)|(?<=\bnasal\s)skin\b"
            r"|(?<=\balar\s)skin\b"
        )
        self._between = re.compile(rf"\bbetween {name} and {name}")
        # 'Nobody has lips like that', 'no human nose bends twice'
        self._no_one = re.compile(
            rf"\b(?:nobody|no one)(?:'s)? (?=(?:(?:has|have|owns|with) )?{name})"
            r"|\bno (?:human|real|living|natural|normal|healthy|true)(?: being's)?"
            rf" (?=(?:{names})\b"
            r"(?!\s+(?:textures?|grain|details?|tones?|colou?rs?|pores|lines?|shapes?|movement)\b))"
        )
        # 'A nose does not bend this way'
        self._kind = re.compile(
            rf"\b(?:an?|real|human|natural|normal) (?P<name>{names}) (?:(?:does|do|can|would|will"
            r"|should|could) (?:not|never)|\w+n't|cannot|never)\b"
        )
        # 'All features except the eyes are sharp', 'no part but the nose is blurred'
        self._exception = re.compile(
            r"\b(?:(?P<all>all|every\w*|each)|no(?:thing|ne)?)\b"
            r"(?:(?!\b(?:is|are|has|have|looks?|and|does)\b)[^,.;:])*?(?:,?\s*\b(?:except|save"
            r"|apart from"
            r"|aside from|other than|bar|besides|with the exception of)(?: for)?|\s*\bbut(?: for)?)"
            rf"\s+(?P<names>{listed}),?(?=\s+\w)"
        )

    def remove(self, text: str) -> str:
        """The text without the names that only compare, locate or exclude."""
        text = self._no_one.sub("a ", _DOUBLE.sub("has good", text))
        text = _NOT_OF_THIS_WORLD.sub("is impossible", text)
        text = self._aspect.sub(r"\g<name> ", text)
        text = self._kind.sub(r"the \g<name>", text)
        text = self._exception.sub(
            lambda match: f"{match['names']}{' never' if match['all'] else ''}", text
        )
        text = _NOT_FOR.sub("because of", _IN_PICTURE.sub(" ", text))
        text = self._respective.sub(_respectively, text)
        text = self._generic.sub(lambda match: f" {'no ' * match[0].startswith('no ')}it ", text)
        text = self._near_other.sub(REFERENT, text)
        text = self._excluded.sub(" ", self._everywhere.sub(r". \g<names>", text))
        text = self._skin_of.sub("", text)
        for match in reversed([*_SIMILE.finditer(text), *self._between.finditer(text)]):
            rest = text[: match.start()] + self._mention.sub(" ", match[0]) + text[match.end() :]
            if self._mention.search(rest):  # 'it looks as if the nose had been cut out'
                text = rest
        reduced = self._reference.sub(self._refer, text)
        # 'A seam runs above the brows': with no other subject, the place is what is spoken of.
        has_subject = self._mention.search(reduced) or PRONOUN.search(reduced)
        return reduced if has_subject else text

    def _refer(self, match: re.Match[str]) -> str:
        relative = _RELATIVE.match(match.string, match.end())
        described = f"{match['kind'] or ''} {relative[0] if relative and match['one'] else ''}"
        if any(claim.is_fault for claim in claims_of(described)):
            return match[0]  # 'above a blurred mouth', 'above a mouth that is blurred'
        kinds = ("list", "from", "one", "relative", "own")
        return f"{next(match[kind] for kind in kinds if match[kind])} {REFERENT}"


def _respectively(match: re.Match[str]) -> str:
    """'The mouth and the eyes are bent and red, respectively': one statement for each."""
    names, said = (
        re.split(r",? and |, ", match[group].strip(" ,")) for group in ("names", "words")
    )
    if "respectively" not in match[0] or len(names) != len(said):
        return match[0]
    return "; ".join(
        f"{name} {match['verb']} {word}" for name, word in zip(names, said, strict=True)
    )
