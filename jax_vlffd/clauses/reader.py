"""Reads the clauses of a caption: their regions, the types that they state, and whether they deny them.

A caption is cut at marks and conjunctions; a type belongs to the regions of its own clause. Names that only
compare or locate are references and name no region. Whoever scores captions and whoever checks them reads by
these rules, which are ours. `vocabulary` holds the words of regions, `words` those of faults and judgments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from jax_vlffd.clauses import words
from jax_vlffd.clauses.claims import VERB, Claim, claims_of
from jax_vlffd.clauses.references import MODIFIER, PRONOUN, REFERENT, References

#: What is seen beside the four regions.
_OTHER: Final = (
    r"hair(?!line)|ears?|earlobes?|necks?|throat|background|glasses|spectacles|heads?|shoulders?"
    r"|clothes"
    r"|collar|shirt|scarf|beard|moustache|mustache|hat|(?:every|any)thing else|nothing else"
    r"|(?:no|all|every|any) other|all else|elsewhere|the others?|features|parts"
    r"|theirs|rest|remainder|remaining|surroundings?|images?|pictures?|photo(?:s|graphs?)?|portrait"
    r"|frame|scene"
)

#: Characters of a sentence that are read together: the time grows with their square.
_MAX_SENTENCE: Final = 600

_LOCATED: Final = (
    r"above|below|beneath|underneath|under|beside|behind|near|against|next to|over|in|on|amid"
    r"|within|into|onto|around|from"
    r"|frames?|surrounds?|encloses?|meets?|touches|reveals?|accompanies"
)

_STRONG: Final = re.compile(
    r"[;!?]|\.(?=\s|$)|\s-+\s|\b(?:(?<!anything )(?<!nothing )but|while|whilst|whereas|although"
    r"|though|however"
    r"|yet|since|because|except)\b"
    r"|,\s*(?:so|then)\b|,\s*as (?=(?:it|they)\b)|:(?=\s)|,?\s*(?:something|the same|which|that)"
    r" (?:cannot|can't|can"
    r" hardly) be said\b"
)

_WEAK: Final = re.compile(rf",|\b(?:and|or|nor|plus|with|where|{_LOCATED})\b")

_LOCATION: Final = re.compile(rf"(?:{_LOCATED})\b")

_OF_SKIN: Final = re.compile(
    r"\b(?:skin|facial)(?=[\s-]+(?:textures?|grain|details?|pores?|tones?|colou?rs?)\b)"
)

_NEW_SUBJECT: Final = re.compile(
    r"^\W*(?:and|or)?\s*(?:(?:it|they|he|she|there)\s+\w+"
    r"|(?:its|their|his|her)\s+\w+\s+(?:is|are|looks?|seems?|appears?|has|have)\b)"
)

_STOPS: Final = re.compile(r"^[.!?]")

_RELATIVE: Final = re.compile(r"\b(?:which|who|whose)\b")


_ORDINAL: Final = re.compile(r"\bthe (?:(former|first)|(?:latter|second|last))\b(?! \w+ is\b)")

_NO_VERB: Final = re.compile(
    r"of|in|on|at|area|region|as|so|too|also|with|being|around|both|alike|together|likewise|if"
    r"|perhaps"
    r"|probably"
)


#: 'The mouth is not', 'not so the nose', '..., as are the eyes': the statement before, or its contrary.
_CONTRARY: Final = re.compile(
    r"^\W*(?:which|that|something|the same)?(?: that)? ?(?:cannot|can't|can hardly) be said\b"
    r"|^\W*(?:(?:and|but) )?(?:not so|(?:there (?:is|are) )?(?:none|not) (?:around|on|in|at|of"
    r"|near|along|over|for"
    r"|with))\b|(?:\b(?:is|are|was|were|does|do|did|has|have) not|n't|\b(?:is|are|does|do))\W*$"
)

_PRONOUN_VERB: Final = re.compile(
    r"\W*(?:but|and|though|yet|which)? ?(?:it|they|these|which) (?:is|are|does|do|has|have)\b"
)
_ORDINAL_SUBJECT: Final = re.compile(r"^\W*(?:and )?the (?:former|latter)\b")
_NONE: Final = re.compile(r"\W*(?:and |but )?(?:there (?:is|are) )?none\b")

_SAME: Final = re.compile(
    r"^\W*(?:and )?(?:as|so|nor|neither) (?:is|are|does|do|has|have)\b|\b(?:too|as well|likewise"
    r"|also|similarly|alike)\W*$"
    r"|^\W*(?:and )?(?:the same|likewise|ditto|similarly)\b"
)


class Clause(NamedTuple):
    """A clause with the regions it speaks of and what it claims of each of them.

    `regions` includes those that it takes over from the clause before, `named` does not; `is_other` marks one
    about something else (hair, neck, everything else), `is_bare` one that has neither a subject nor a claim.
    `sentence` counts the sentences of the text.
    """

    regions: tuple[str, ...]
    named: tuple[str, ...]
    claims: tuple[Claim, ...]
    is_other: bool
    text: str
    sentence: int = 0
    is_bare: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether it only says that something is as it should be."""
        return bool(self.claims) and not any(claim.is_fault for claim in self.claims)

    @property
    def is_faulty(self) -> bool:
        """Whether it states a fault."""
        return any(claim.is_fault for claim in self.claims)


class Reader:
    """Reads clauses by a table of the words that name regions, and what is generic of them."""

    def __init__(self, synonyms: Mapping[str, tuple[str, ...]], generic: re.Pattern[str]):
        alternatives = [f"(?P<{name}>{'|'.join(terms)})" for name, terms in synonyms.items()]
        self._mention = re.compile(rf"\b(?:{'|'.join(alternatives)}|(?P<other>{_OTHER}))\b")
        self._references = References(synonyms, generic, _OTHER, self._mention)

    def clauses(self, text: str) -> list[Clause]:
        """Returns the clauses of a text, in order; very long sentences are read in parts."""
        result: list[Clause] = []
        sentence = 0
        for chunk in _chunks(text.lower()):
            for part, is_new_sentence in self._parts(self._references.remove(chunk)):
                sentence += is_new_sentence
                result.append(self._clause(part, is_new_sentence, sentence, result))
        return result

    def _clause(
        self, part: str, is_new_sentence: bool, sentence: int, before: Sequence[Clause]
    ) -> Clause:
        mentions = [str(match.lastgroup) for match in self._mention.finditer(part)]
        if len({*mentions} - {"other"}) > 1 and _OF_SKIN.search(part):
            # 'the nose has no skin texture'
            mentions = [
                str(match.lastgroup) for match in self._mention.finditer(_OF_SKIN.sub(" ", part))
            ]
        named = regions = tuple(dict.fromkeys(name for name in mentions if name != "other"))
        claims = claims_of(part)
        is_other = bool(mentions) and not regions
        if not mentions and before:
            ordinal = _ORDINAL.search(part)
            pair = [name for clause in before for name in clause.named][-2:]
            if _RELATIVE.match(part.strip()) and REFERENT in before[-1].text[-60:]:
                is_other = True
            elif ordinal and len(pair) == 2:
                regions = (pair[0 if ordinal[1] else 1],)
            elif not is_new_sentence or PRONOUN.search(part):
                regions, is_other = before[-1].regions, before[-1].is_other
        if not claims and (mentions or _PRONOUN_VERB.match(part)) and before:
            if _SAME.search(part):
                claims = before[-1].claims
            elif _CONTRARY.search(part):
                is_same = _NONE.match(part) and words.NEGATION.search(before[-1].text)
                claims = (
                    before[-1].claims
                    if is_same
                    else tuple(
                        claim._replace(is_fault=not claim.is_fault) for claim in before[-1].claims
                    )
                )
        is_bare = not mentions and not claims
        return Clause(regions, named, claims, is_other, part, sentence, is_bare)

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """The clauses as text, and whether each begins a sentence."""
        start, is_new = 0, True
        for mark in (*_STRONG.finditer(text), None):
            end = mark.start() if mark else len(text)
            chunk = text[start:end]
            if (
                mark
                and mark[0] == ":"
                and not (
                    VERB.search(chunk) or (self._mention.search(chunk) and self._states(chunk))
                )
            ):
                continue  # 'Mouth: blurry', 'Missing texture: lips'
            for number, part in enumerate(self._split_lists(chunk)):
                if part.strip():
                    yield part, is_new and number == 0
            if mark:
                is_word = mark[0][0].isalpha() or mark[0].endswith("said")
                start = mark.start() if is_word else mark.end()
                is_new = bool(_STOPS.match(mark[0]))

    def _split_lists(self, text: str) -> list[str]:
        """Cuts at commas and 'and' where another region begins with a statement of its own."""
        cuts = [match.start() for match in _WEAK.finditer(text) if self._may_cut(text, match)]
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        parts = [pieces[0]]
        for number in range(1, len(pieces)):
            said = self._is_complete(parts[-1])
            if _ORDINAL_SUBJECT.match(pieces[number]) or (
                said
                and (
                    _NEW_SUBJECT.match(pieces[number])
                    or self._begins_clause(pieces[number:], parts[-1])
                )
            ):
                parts.append(pieces[number])
            else:
                parts[-1] += pieces[number]
        return parts

    def _may_cut(self, text: str, match: re.Match[str]) -> bool:
        """Whether to cut here: at a preposition only if what follows is described, 'above a blurred mouth'."""
        if not _LOCATION.match(match[0]):
            return True
        mention = self._mention.search(text, match.end())
        if mention is None or "," in text[match.end() : mention.start()]:
            return False
        relative = re.match(r"\s+(?:that|which|whose)\b.*", text[mention.end() :])
        return self._states(text[match.end() : mention.start()]) or (
            relative is not None and self._states(relative[0])
        )

    def _is_complete(self, text: str) -> bool:
        """Whether a part has a region and a statement, if only a verb that the tables do not have."""
        ends = [match.end() for match in self._mention.finditer(text)]
        if not ends:
            return False
        rest = re.findall(r"[\w'-]+", text[ends[-1] :])
        verb = VERB.search(text, ends[0])
        return (
            self._states(text)
            or (len(rest) > 1 and not _NO_VERB.fullmatch(rest[0]))
            or bool(verb and text[verb.end() :].strip())
        )

    def _begins_clause(self, pieces: list[str], before: str) -> bool:
        for number, piece in enumerate(pieces):
            mention = self._mention.search(piece)
            if mention is None:  # 'and the eyes, glassy and blue, ...'
                return number > 0 and self._states(piece)
            if _LOCATION.match(piece):  # 'above a blurred mouth'
                return number == 0
            after = piece[mention.end() :]
            rest = re.findall(r"[\w'-]+", after)
            is_elliptic = piece.startswith(",") and rest and not _NO_VERB.fullmatch(rest[0])
            if self._states(after) or VERB.search(after) or is_elliptic:
                return True
            if self._states(piece[: mention.start()]):
                return number == 0
            if number == 0 and not rest and self._is_noun_phrase(before):
                # 'blurry mouth, strange nose', whatever the adjective means
                own = re.sub(rf"^(?:,|and|or|\s)*{MODIFIER}", "", piece[: mention.start()])
                return bool(own.strip())
        return False

    def _is_noun_phrase(self, text: str) -> bool:
        mentions = [*self._mention.finditer(text)]
        return (
            len(mentions) == 1
            and not text[mentions[0].end() :].strip()
            and not VERB.search(text)
            and self._states(text[: mentions[0].start()])
        )

    def _states(self, text: str) -> bool:
        return bool(claims_of(text))


def _chunks(text: str) -> Iterator[str]:
    """A text in parts of whole sentences, each cut at spaces where it is longer than `_MAX_SENTENCE`."""
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        while len(sentence) > _MAX_SENTENCE:
            end = sentence.rfind(" ", 1, _MAX_SENTENCE)
            end = end if end > 0 else _MAX_SENTENCE
            yield sentence[:end]
            sentence = sentence[end:]
        yield sentence
