"""Vocabulary: labels, regions, forgery types, phrases and synonyms.

Everything that writes or reads a caption uses these tables: the annotator, the grounding check, the
scorer, the sentence bank of the detector. The module imports the grammar of `clauses` alone.

Regions and types are those of the paper (section 3.1); the phrases and the synonym table are ours.
"""

from __future__ import annotations

import functools
import re
from typing import Final, NamedTuple

from jax_vlffd.clauses.reader import Clause, Reader

REAL: Final = 0
FAKE: Final = 1
LABEL_NAMES: Final = ("real", "fake")

#: Facial regions, in the order of every flag vector ``regions`` ([4], 0/1).
REGIONS: Final = ("mouth", "nose", "eyes", "face")

#: Forgery types, in the order of every flag matrix ``types`` ([4, 5], rows as REGIONS).
TYPES: Final = ("color", "blur", "structure", "texture", "boundary")

#: Source of a caption's words: its annotation, a refined reply, the fallback for a rejected reply, or a file
#: that `launch.convert` read.
CAPTION_SOURCES: Final = ("raw", "refined", "fallback", "fftg", "ddvqa", "llava", "sharegpt")

#: The fixed sentence that states the verdict (paper: the "pre-defined" prompt's phrase for fakes).
VERDICTS: Final = ("This is a real face.", "This is a fake face.")


class Phrase(NamedTuple):
    """A predicate in both numbers: 'The mouth ``singular``', 'The eyes ``plural``'."""

    singular: str
    plural: str


#: Predicates for each forgery type, each true of any region: the first two of `texture` are the
#: paper's wording, the rest ours. No predicate names another region or states the verdict.
PHRASES: Final[dict[str, tuple[Phrase, ...]]] = {
    "color": (
        Phrase("has an unnatural color", "have an unnatural color"),
        Phrase("differs in tone from its surroundings", "differ in tone from their surroundings"),
        Phrase("shows an inconsistent hue", "show an inconsistent hue"),
        Phrase(
            "does not match the rest of the image in color",
            "do not match the rest of the image in color",
        ),
    ),
    "blur": (
        Phrase("looks blurry", "look blurry"),
        Phrase("lacks sharp detail", "lack sharp detail"),
        Phrase("is softer than the rest of the image", "are softer than the rest of the image"),
        Phrase("has lost fine detail", "have lost fine detail"),
    ),
    "structure": (
        Phrase("has a distorted shape", "have a distorted shape"),
        Phrase("is deformed", "are deformed"),
        Phrase("has an implausible structure", "have an implausible structure"),
        Phrase("looks out of shape", "look out of shape"),
        Phrase("is misshapen", "are misshapen"),
    ),
    "texture": (
        Phrase("lacks natural texture", "lack natural texture"),
        Phrase("has an uneven texture", "have an uneven texture"),
        Phrase(
            "has a texture unlike the rest of the image",
            "have a texture unlike the rest of the image",
        ),
        Phrase("shows unusual grain", "show unusual grain"),
    ),
    "boundary": (
        Phrase("has a visible blending boundary", "have a visible blending boundary"),
        Phrase("is framed by an unnatural edge", "are framed by an unnatural edge"),
        Phrase("shows a seam where it was blended in", "show a seam where they were blended in"),
        Phrase(
            "does not blend smoothly into its surroundings",
            "do not blend smoothly into their surroundings",
        ),
    ),
}

#: Predicates for a region whose forgery is of no type in TYPES (ours).
UNTYPED_PHRASES: Final = (
    Phrase("does not look natural", "do not look natural"),
    Phrase("looks out of place", "look out of place"),
    Phrase("does not fit the rest of the image", "do not fit the rest of the image"),
    Phrase("looks subtly wrong", "look subtly wrong"),
)

#: Sentences for a picture without visible forgery, real or fake. Both labels draw from the same ones, so
#: that without the verdict such a fake reads like a real and no label leaks (ours).
UNSUSPICIOUS: Final = (
    "Nothing in the image looks out of place.",
    "Everything looks natural and consistent.",
    "Color, shape and texture are consistent throughout the image.",
    "The features fit together naturally.",
    "All parts of the image match in color and light.",
    "The image looks natural throughout.",
    "There are no visible seams or distortions.",
    "Light, color and detail are in harmony.",
    "Every part of the image looks natural.",
    "There is nothing unusual to see.",
    "All of the features look natural.",
)  # fmt: skip

#: The types as nouns: 'Distortion and blur can be seen around the mouth' (ours).
TYPE_NOUNS: Final[dict[str, tuple[str, ...]]] = {
    "color": ("an unnatural color", "a mismatch in tone"),
    "blur": ("blur", "a loss of detail"),
    "structure": ("distortion", "deformation"),
    "texture": ("uneven texture", "unusual grain"),
    "boundary": ("a blending edge", "a seam"),
}

#: Nouns for a region, and whether each is plural.
REGION_NOUNS: Final[dict[str, tuple[tuple[str, bool], ...]]] = {
    "mouth": (("mouth", False), ("mouth area", False), ("lips", True)),
    "nose": (("nose", False), ("nose area", False)),
    "eyes": (("eyes", True), ("eye area", False), ("eye region", False)),
    "face": (("face", False), ("facial skin", False), ("skin of the face", False)),
}

#: Words that name a region (regular-expression alternatives, matched whole and without case): everyday words
#: and terms of facial anatomy.
REGION_SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "mouth": (
        "mouths?", "lips?", "teeth", "tooth", "tongues?", 
        "(?<!\\bhe )(?<!\\bshe )(?<!they )smil(?:es?|ing)", "gums",
        "(?<!\\bhe )(?<!\\bshe )(?<!they )(?:grin(?:s|ning)?|smirk(?:s|ing)?|pout(?:s|ing)?)",
        "lipstick", "frenul(?:um|a)", "bite",
        "philtrums?", "philtra", "cupid'?s bow", "commissures?", "vermil+ions?", "labial", "perioral",
        "oral", "incisors?",
        "molars?", "canines?", "dent(?:al|ition|ures?)", "gingivae?", "palate", "(?:over|under)bite",
    ),
    "nose": (
        "noses?", "nostrils?", "nasal", "columell(?:as?|ae|ar)", "alae?", "alar", "nares", "naris",
        "(?:nasal )?septum",
        "nasion", "rhinion", "pronasale", "subnasale", "snouts?", "(?:nasal )?dorsum", "supratip", "nose-?tip",
        "bridge(?! of (?:the|his|her|its) (?:glasses|spectacles))",
    ),
    "eyes": (
        "eyes?", "eyebrows?", "brows?", "eyelids?", "lids?", "(?:eye)?lash(?:es)?", "eyeballs?",
        "pupils?", "iris(?:es)?",
        "irides", "gaze", "stare", "squint(?:s|ing)?", "scler(?:as?|ae|al)", "cornea[sel]?",
        "conjunctivae?", "canth(?:us|i|al)",
        "(?:epi|tele)canth(?:us|al)", "palpebr(?:a|ae|al)", "(?:peri|infra|supra)?orbit(?:s|al)?", "caruncles?",
        "tear ducts?", "lacrimal", "tarsal", "eye[- ]?sockets?", "crow's feet", "(?:uni|mono)brow",
        "limbus", "\\w+-eyed",
        "retinas?", "eyelines?", "eye-?bags?",
    ),
    "face": (
        "faces?", "facial", "chins?", "cheeks?", "cheekbones?", "foreheads?", "jaws?", "jawlines?",
        "jaw-lines?", "skin",
        "complexion", "temples?", "glabell(?:as?|ae|ar)", "(?:naso|melo|mento)labial",
        "marionette lines?", "jowls?",
        "mandib(?:les?|ular)", "maxill(?:a|ae|ary)", "zygoma(?:s|ta|tic)?", "malar", "dimples?", "mentum",
        "menton", "gonion",
        "submental", "buccal", "tear troughs?", "hairline(?! cracks?)", 
        "countenance", "visage", "cheek-?bones?", "(?:laugh|frown) lines", "epidermis",
    ),
}  # fmt: skip

#: Words that name a forgery type beyond doubt; 'soft', 'edge' or 'smooth' could be of two (ours).
TYPE_SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "color": (r"(?:dis)?colou?r\w*", "hues?", "tints?", r"pigment\w*"),
    "blur": (r"blur\w*", "unsharp", r"smudg\w*"),
    "structure": (r"distort\w*", r"deform\w*", r"misshape\w*", r"warp\w*", r"asymmetr\w*"),
    "texture": (r"textur\w*", r"grain\w*", "waxy"),
    "boundary": (r"boundar\w*", "seams?", r"blending"),
}

#: Uses of 'face' that name the picture or the verdict and not the region; removed before matching.
#: 'The surrounding skin' is what a region is compared with, so it names no forged region either.
_GENERIC_FACE: Final = re.compile(
    r"\b(?:(?:real|fake|forged|genuine|authentic|manipulated|altered|unaltered|synthetic|deepfake)"
    r"\s+(?:human\s+)?faces?"
    r"|(?:this|that|a|an|any|another|one|human|whole|entire|else's)\s+(?:human\s+)?faces?"
    r"|(?<=rest of )(?:the|this|his|her)\s+face|(?:middle|cent(?:er|re)|midline|axis"
    r"|(?:other|no|any|every|each|all|most)\s+(?:other\s+)?(?:parts?|areas?|regions?)|all|whole)\s+of\s+(?:the|this|his|her)\s+face"
    r"|(?:run\w*|diagonally|hangs?|stretch\w*|extend\w*)\s+(?:\w+\s+)?across\s+the\s+face"
    r"|(?:the|his|her|their|\w+'s)\s+face(?=\s+(?:itself\s+)?(?:is|was|has\s+been|must\s+be|seems|looks|appears"
    r"|to\s+be)\s+(?:to\s+be\s+)?"
    r"(?:a\s+|an\s+|not\s+|clearly\s+|plainly\s+|obviously\s+|probably\s+|likely\s+|certainly\s+|entirely\s+)*"
    r"(?:real|fakes?d?|forge(?:d|ry)|genuine|authentic|original|manipulated|altered|unaltered|edited"
    r"|synthetic|deepfake|(?:ai|computer|machine)[\s-]\w+"
    r"|generated|swapped|tampered|doctored)\b)"
    r"|(?:\w+est|only|(?:most|least|more|less)\s+\w+)\s+(?:parts?|areas?|regions?)\s+of\s+(?:the|this|his|her)\s+face"
    r"|(?:anywhere|nowhere|elsewhere|else|everywhere)\s+(?:else\s+)?(?:in|on)\s+(?:the|this|his|her)\s+face"
    r"|(?:naked|your|my|one's|viewer's|catch\w*\s+(?:the|one's)|meets?\s+the|keen|trained|human)\s+eye|(?:my|your|our|one's)\s+(?:own\s+)?eyes|at\s+eye\s+level"
    r"|the\s+eye\s+(?:can|is\s+drawn|expects|sees|notices|catches|stumbles|follows|wanders|falls)"
    r"|face\s+(?:value|to\s+face)|(?:on|in)\s+the\s+face\s+of(?:\s+it)?|lip\s+service"
    r"|face[\s-]+(?:image|photo|photograph|picture|forgery|swap(?:s|ped|ping)?)"
    r"|(?<=surrounding\s)(?:facial\s+)?skin|(?:adjacent|neighbou?ring)\s+(?:facial\s+)?skin"
    r"|facial\s+(?:features?|landmarks?|expressions?|regions?|hair|image))\b",
    re.IGNORECASE,
)
_READER: Final = Reader(REGION_SYNONYMS, _GENERIC_FACE)
_TYPE_PATTERNS: Final = {
    kind: re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)
    for kind, words in TYPE_SYNONYMS.items()
}
#: Words that state the label or take it for granted ('blended' and 'unnatural' only describe).
_VERDICT_SENTENCE: Final = re.compile(
    r"\b(?:real|genuine(?:ly)?|(?:in)?authentic(?:ity)?|fake[ds]?|faking|forge[ds]?|forging"
    r"|forger(?:y|ies)|deep-?fakes?|manipulat(?:e[ds]?|ing|ions?)|(?:un)?altered|alterations?|tamper(?:ed|ing)"
    r"|(?:un)?edit(?:s|ed|ing)?|doctored|photoshopped|retouched|fabricated|counterfeit"
    r"|synthe(?:tic|tically|si[sz]ed)|(?:ai|computer)[\s-]generated|swap(?:s|ped|ping)?)\b",
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")

#: What a caption becomes when every one of its sentences states the verdict.
NEUTRAL_CAPTION: Final = "This is a face."


def clauses(text: str) -> list[Clause]:
    """Returns the clauses of a text, each with its regions and with what it claims of them (rules ours)."""
    return _READER.clauses(text)


@functools.lru_cache(maxsize=16_384)  # detectors give the same reasons for many pictures
def regions_named(text: str) -> frozenset[str]:
    """Returns the regions that a text names as forged, by exact terms or synonyms.

    Matching is by whole words and without case; the generic phrases 'fake face' and 'this face' do
    not name the region `face` (the rule is the paper's, section 4; the table is ours). Nor does a
    region count that is only compared with ('blurrier than the eyes'), or only called sound.
    """
    read = clauses(text)
    named = {region for clause in read if not clause.is_clean for region in clause.named}
    # 'The nose is well lit, but bent': the fault is stated where the region is not named again.
    spoken_of = {(clause.sentence, region) for clause in read for region in clause.named}
    named.update(
        region
        for clause in read
        if clause.is_faulty
        for region in clause.regions
        if (clause.sentence, region) in spoken_of
    )
    return frozenset(named)


def types_named(text: str) -> frozenset[str]:
    """Returns the forgery types that a text names beyond doubt (table ours)."""
    return frozenset(name for name, pattern in _TYPE_PATTERNS.items() if pattern.search(text))


def without_verdict(text: str) -> str:
    """Returns the caption without the sentences that state the verdict (ours, against label leakage).

    The result is NEUTRAL_CAPTION if no sentence remains, so it is never empty.
    """
    sentences = [
        s for s in _SENTENCE_END.split(text.strip()) if s and not _VERDICT_SENTENCE.search(s)
    ]
    return " ".join(sentences) or NEUTRAL_CAPTION
