"""Words that no caption may have: of the contrary verdict, of another picture, and to whoever reads it.

All tables are ours. Texts are lower-case when they are matched.
"""

from __future__ import annotations

import re
from typing import Final

from jax_vlffd.clauses.words import any_of

FORGERY: Final = (
    r"(?:forg(?:er(?:y|ies)|ed?|ing)|manipulat(?:ions?|ed?|ing)|tamper(?:s|ing|ed)?|edit(?:s|ing"
    r"|ed)?"
    r"|alter(?:ed|ations?|ing)|retouch(?:ing|ed)?|fak(?:es?|ed|ery|ing)|deep[ -]?fakes?|touched"
    r"|swap(?:s|ped|ping)?"
    r"|doctor(?:ed|ing)|artifacts?|changed|generated|photoshop(?:ped)?|synthetic|trickery"
    r"|counterfeit|fabricated"
    r"|decepti(?:on|ve)|deceit|hoax|fraud|foul play|interference|intervention)"
)
_NOT: Final = (
    r"(?:no(?! (?:mistake|doubt|question|wonder|surprise))(?:t|body|thing|ne)?|never|no one"
    r"|without|neither|nor"
    r"|hardly|scarcely|\w+n't|cannot|free (?:of|from))"
)
#: What explains a fault away.
_CAUSE: Final = (
    r"(?:contact lens(?:es)?|make-?up|cosmetics|lip ?(?:stick|liner|gloss)|powder|filters?|flash"
    r"|light(?:ing)?|lamps?"
    r"|shadows?|screen|sun(?:burn|light|tan)?|tan|allergy|fatigue|tiredness|motion|movement"
    r"|compression"
    r"|bit-?rate|codec|camera|sensor|lens|exposure|white balance|(?:auto)?focus|shutter|pose"
    r"|posture|age|genes?|genetics"
    r"|heredity|birth|injury|accident|surgery|illness|weather|perspective|distance|glare"
    r"|reflections?|shak(?:e|ing)|jpeg"
    r"|downscaling|resizing|wind|heat|the cold|emotion|speech|speaking|talking|laughing|chewing"
    r"|blinking|expression|nature"
    r"|birthmark|scar|mole|dimple|rosacea|acne|bruise|strands?|wrinkles?|(?:shallow )?depth of"
    r" field|video quality|image"
    r" quality|resolution)"
)
_UNFAIR: Final = (
    r"(?:wrong|unfair|mistaken?|error|premature|rash|unjust\w*|far-?fetched|absurd|baseless"
    r"|unfounded|hasty|too far"
    r"|nonsense|overblown|unwarranted|exaggerat\w+)"
)
_ACCUSE: Final = r"(?:call|label|consider|claim|say|brand|suspect|accus|think|speak|talk|suppos)\w*"
_PLAIN: Final = r"(?:ordinary|normal|natural|common|usual|typical|everyday)"
_PICTURE: Final = (
    r"(?:image|picture|photo(?:s|graphs?)?|portrait|still|frame|footage|video|recording|shot"
    r"|snapshot)"
)

#: Words that affirm a real face.
AUTHENTIC: Final = any_of(
    rf"""real(?! (?:\w+ ){{1,3}}(?:never|would|should|does|do|has|have|is|are|can|could|will)\b)(?!
        (?:human
        )?(?:skin|teeth|lips|eyes?|noses?|mouths?|people|light\w*|pores?|textures?|hair|lashes|depth|detail|definition|structure|anatomy|flesh|seams?|faults?|flaws?)\b),
        genuine, authentic, authenticity, unaltered, unedited, unmanipulated, untampered,
        unretouched, untouched, pristine, legit, legitimate, bona fide, (?:is|be|face|{_PICTURE})
        (?:an? )?original, as true as, the real (?:thing|person), {_PLAIN} (?:\w+
        ){{0,2}}{_PICTURE}, (?:by|of) nature, from birth, born (?:with|that way|like), person's own,
        (?:his|her|their) (?:very )?own (?:nose|mouth|eyes|face|skin|lips|teeth), as (?:it|they)
        (?:was|were) (?:recorded|taken|filmed|shot), straight from the camera, camera original,
        trustworthy, trust (?:this|the|it|me|him|her|my|what), reliabl[ey],
        (?:can|may|should|must|to) be (?:believed|trusted|accepted|relied on), believe
        (?:it|this|me|him|her|that (?:it|this)), vouch\w*, certif(?:y|ies|ied), harmless, innocent,
        innocuous, benign, nothing (?:more |very )?sinister, above suspicion, beyond suspicion,
        pass(?:es)? (?:as|for) (?:real|genuine|true), honest {_PICTURE}, true
        (?:{_PICTURE}|likeness|to life), (?:it|this) is (?:really )?(?:him|her), unprocessed,
        unfiltered, everything (?:is|looks|seems) (?:fine|normal|in order|natural|well|all
        right|right|as it), (?:perfectly|quite|entirely|completely|wholly|totally|absolutely)
        {_PLAIN}, in an? (?:\w+ )?{_PLAIN} (?:way|manner|fashion), {_PLAIN}
        (?:feature|trait|variation|asymmetry|phenomenon|for|among|at (?:this|that|his|her)|with
        age), (?:is|are) (?:very |quite )?common, i (?:am|'m) (?:\w+
        )?(?:convinced|certain|sure|confident), stands? by, nothing to (?:worry about|see here|get
        \w+ about|fear), so (?:is|are) (?:mine|yours|everyone's|everybody's|ours), (?:he|she|they)
        (?:was|were|is|are) born, {_PICTURE} (?:is|looks|seems) (?:\w+
        )?(?:sound|fine|clean|honest|true|right|all right|credible|believable), as (?:happens|is
        (?:usual|common|normal|typical|often)), happens (?:to|when|with)
        (?:people|everyone|anyone|many|all|the best), after all, in the family, which is
        (?:(?!not|never|hardly)\w+ )?{_PLAIN}, the (?:kind|sort|type) (?:that|which|of \w+)
        (?:every|any|all|most|we|you|one|people)\w*, as (?:it|they|he|she) always
        (?:is|are|does|do|has|have|looks?), (?:well known|known|common|typical|usual)
        (?:weakness|problem|limitation|issue|effect) (?:of|in|with), (?:do|does) that, (?:that|it)
        happens, read (?:anything|too much|much) into, no cause for (?:concern|alarm|worry), not to
        worry, looks like everyone's, just (?:how|what|as) (?:he|she|the person) looks?"""
)
#: What before an explanation denies it.
NOT_BY: Final = re.compile(rf"\b(?:{_NOT}|impossible)[^\w.;:!?]+(?:[\w'-]+[^\w.;:!?]+){{0,3}}$")
#: Words that explain a fault away.
EXPLAINED: Final = re.compile(
    r"\b(?:because of|due to|owing to|thanks to|results? (?:of|from)|effects? of|caused by"
    r"|explain\w*(?: by)?"
    r"|account\w* for(?: by)?|comes? (?:from|of)|stems? from|attribut\w* to|down to|blame[sd]?(?:"
    r" on)?|fault of"
    r"|(?:product|matter|question|trick|consequence|sign|play) of|produced by|created by|courtesy"
    r" of|made by)\W+"
    rf"(?:[\w'-]+\W+){{0,4}}?{_CAUSE}\b"
    r"|\b(?:only|just|merely|simply|probably|presumably|likely|doubtless|surely|perhaps|maybe"
    r"|nothing (?:but|more than)"
    r"|is|are|was|were|from|(?:turns? out|proves?) to be|\w+ed by)\s+(?:(?:an?|the|some|his|her"
    r"|their|bad|poor|cheap|harmless|heavy|strong|natural|normal|dry|good|mere"
    rf"|ordinary|simple|slight|low|old|his|her)\s+){{0,3}}{_CAUSE}\b(?! (?:of|that|which)"
    r" (?:an?other|no)\b)"
    rf"|\b{_CAUSE} (?:alone )?(?:(?:can|could|may|might|would|will) )?(?:explains?|accounts? for"
    r"|(?:is|are) (?:to blame|responsible)|causes?)\b"
    r"|\b(?:bit-?rate|compression|codec|camera|lens|filter|make-?up|shutter|jpeg|encoder"
    r"|lighting) (?:has |have |had )?"
    r"(?:swallow|blur|soften|smear|eat|ate|remov|smooth|distort|warp|redden|color|hid|cover)\w*"
    r"|\b(?:because|since) (?:he|she|we|i|nobody|people|everyone|everybody|phones?|cameras?|the"
    r" (?:person|man|woman|photographer|camera|subject|speaker|actor|actress|girl|boy))\b"
)
#: What before such a word turns it into the contrary.
UNLESS: Final = re.compile(
    r"(?:\b(?:no|not|none|never|hardly|nor|neither|nothing|nobody|without|free|cannot|than|too|if"
    r"|unlike|doubt\w*|less|far from"
    r"|might|almost|anything but|instead|undermin\w*|bel(?:y|ies)"
    r"|contradict\w*|scarcely|barely|fails?(?: to)?|hard to"
    r"|difficult to|impossible to|unable to)|n't)"
    r"[^\w.;:!?]+(?:[\w'-]+[^\w.;:!?]+){0,5}$"
)
#: Words that deny a forgery.
DENIED: Final = re.compile(
    rf"\b{_NOT}\s+(?:[\w'-]+\s+){{0,4}}(?:signs?|traces?|evidence|indications?|hints?|marks?"
    r"|proof|suspicion)(?:\s+(?:of"
    rf"|that)\s+(?:[\w'-]+\s+){{0,4}}{FORGERY}|\W*$)"
    rf"|\b{_NOT}\s+(?:(?!(?:only|just|well|fully|and"
    rf"|but)\b)[\w'-]+\s+){{0,5}}{FORGERY}\b(?!\s+(?:away"
    r"|out|in)\b)"
    r"|(?:n't| not) (?:prove|mean|say|show|signify|amount to) (?:anything|much|a thing)\b"
    r"|\b(?:it|this|that|they) (?:is|are) (?:none|not one)\b|\b(?:proves?|means?|shows?|says?)"
    r" (?:nothing|little)\b"
    rf"|\b{_ACCUSE}\b[^.;]{{0,40}}{FORGERY}\b[^.;]{{0,30}}\b{_UNFAIR}\b"
    rf"|\b{_UNFAIR}\b[^.;]{{0,30}}\b{_ACCUSE}\b[^.;]{{0,40}}{FORGERY}\b"
    rf"|\b{_NOT}\b[^.;]{{0,30}}\b(?:think|believ|conclu|suspect|infer|mean|impl|suggest|prove"
    rf"|indicate|mistake|jump|allege)\w*[^.;]{{0,40}}{FORGERY}\b"
    r"|\b(?:would|is|are|seems?) (?:\w+ ){0,2}(?:unfair|premature|far-?fetched|unfounded|baseless"
    r"|unwarranted)\b"
    r"|\b(?:(?<!no\s)(?<!without\s)(?<!beyond\s)doubt|den(?:y|ies)|dismiss|reject|refute|rules?"
    r" out|ruled out|excluded?|disprove[sd]?"
    r"|clear(?:ed)? of|acquit)\b"
    rf"[^.;]{{0,40}}{FORGERY}\b"
    rf"|\bno (?:need|reason|grounds?|basis|cause) (?:to|for)\b[^.;]{{0,30}}(?:{FORGERY}|doubt"
    r"|suspic\w+|worry|alarm)\b"
)
ELSEWHERE: Final = re.compile(r"\b(?:else|other|others|elsewhere|apart|except|beyond|besides)\b")
#: Words that say of a face that it is fake.
FAKE: Final = any_of(
    rf"""fak(?:e[ds]?|ery), forged, forger(?:y|ies), deep fakes?, deepfakes?, synthetic\w*,
        synthesi[sz]ed, swap(?:s|ped)?, manipulat(?:ed|ions?), altered, edit(?:ed|s), editing
        (?:program|software|suite|tools?), tampered, doctored, retouched, photoshop\w*,
        (?:ai|computer|machine) (?:generated|made), worked on, replaced, pasted, neural net\w*,
        algorithms?, software, gan, fabricat\w+, artificial(?:ly)?, counterfeit, impost[eo]r,
        composite, collage, montage, hoax, phony, bogus, sham, fraud\w*, fictitious, in-?authentic,
        unreal, trick(?:s|ery|ed)?, decei\w+, decepti\w+, morphed, spliced, cgi, face swap, by a
        (?:machine|computer|generator), (?:does|do|did) not exist, {_NOT} (?:\w+
        ){{0,2}}?(?:real|genuine|authentic|trust\w*|believe\w*|legitimate)(?!
        (?:seams?|faults?|flaws?|defects?|signs?)), too (?:good|perfect|smooth) to be"""
)
#: Words of another picture, which the detector does not see.
REFERENCE: Final = re.compile(
    rf"\b(?:(?:left|right)[\s-]+(?:hand\s+)?(?:{_PICTURE}|panel|version)"
    rf"|(?:left|right)[\s-]+(?:hand\s+)?(?:half|side) of the (?:{_PICTURE}|comparison|pair)|(?:in"
    r"|from) the (?:left|right) one\b"
    r"|(?:first|second|other|original|reference|source|untouched|unaltered|unedited|pristine"
    r"|unmanipulated|unmodified|earlier|previous"
    rf"|matching|paired|companion)[\s-]+(?:hand\s+)?(?:{_PICTURE}|panel|version|face)"
    rf"|(?:the|its|his|her|their) (?:real|true|genuine|authentic|actual) (?:{_PICTURE}|version"
    r"|one|face|nose|mouth|eyes|skin|lips)\b(?! (?:would|never|should))"
    rf"|(?:original|reference|source|real|authentic|genuine) (?:one|half|side)"
    rf"|(?:{_PICTURE}|face|panel|version) (?:on|to|at) the (?:left|right)"
    r"|used to|before (?:the|its|any|this|being) (?:\w+ )?(?:edit\w*|manipulat\w+|forg\w+|swap\w*"
    r"|change\w*|alter\w*)|before and after"
    r"|counterparts?|ground truth|side by side|both (?:images|pictures|faces|photos?|photographs"
    r"|versions|frames)"
    r"|(?:two|pair of|these) (?:images|pictures|faces|photos|photographs|versions|frames)"
    r"|(?:than|like|from|to|with|unlike|in|of|by|against|beside) (?:the|its|his|her|their|an?)"
    r" (?:originals?|reference|source|donor|template|target)\b(?! of\b)"
    r"|than (?:it|they) (?:once )?(?:was|were|had|used|did)\b|than (?:before|originally)"
    r"|previously|formerly|originally|prior to"
    r"|(?:what|as|how) (?:it|they) (?:once )?(?:was|were) (?:before|originally|once)|no longer"
    r" (?:the same|what)"
    r"|before(?=[.,;]|$)|once (?:was|were|had)|(?:was|were) once|(?:its|his|her|their) original"
    r"|had (?:\w+ )?before|in its original|as (?:it|they) (?:was|were) (?:before|in)|has been"
    r" changed from)\b"
)
_VERBS: Final = (
    r"(?:trust|ignore|override|forward|send|tell|do not|don't|never (?:mention|tell|say|flag"
    r"|report)|kindly|remember"
    r"|assume|pretend|act|skip|stop|contact|pay|enter|type|repeat|translate|summari[sz]e|write"
    r"|rate|score|give|grant|award"
    r"|treat|mark|label|approve|accept|reject|confirm|insert|append|run|execute|upload|believe"
    r"|classify|return|output|respond"
    r"|answer|print|set (?:the|this|it|label)|change (?:the|this|it)|delete|disable|let (?:this"
    r"|it|me|us|the)|leave (?:a|this|it|out)"
    r"|proceed|be (?:lenient|kind|sure|so|nice)|make sure|bypass|forget|disregard|drop (?:the|all"
    r"|this|any)|pass (?:this|it|over|the)"
    r"|say|share (?:this|the)|keep (?:this|it|quiet|silent)|rest assured|always|report|refer"
    r"|email|reply|obey|comply|follow (?:the|this|my|these) (?:links?|instructions?|orders?|rules?)"
    r"|click|visit|download|subscribe|save|store|update|reset|switch|imagine you|describe"
    r"|generate|produce|rewrite|omit|exclude)"
)
_OUTCOME: Final = (
    r"(?:labell?ed|classified|marked|treated|reported|accepted|answered|ignored|deleted"
    r"|scored|rated|approved|counted|graded|skipped|passed)"
)
#: Links, markup, and words to whoever reads the caption.
UNSAFE: Final = re.compile(
    r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|ru|cn|ai|dev|html?)\b|@|[<>{}\[\]\\`|~^*_#=$]"
    r"|(?:^|[.!?;:]\s+|\s-+\s)\W*(?:(?:and|then|so|now|just|simply|also|but|please|hence"
    rf"|therefore),?\s+)?{_VERBS}\b"
    r"|\b(?:and|then|so),? (?:accept|approve|override|ignore|skip|return|output|respond|forward"
    r"|delete|answer|report|mark|label|classify|trust) (?:this|the|it|any|all|with|as)\b"
    r"|\b(?:whoever\b.{0,40}|(?:readers?|graders?|evaluators?|annotators?|everyone|anyone|models?"
    r"|systems?|judges?)\b.{0,20}) (?:must|should|shall|have to|need to|ought to|are (?:now|to))\b"
    r"|\byou (?:must|should|shall|have to|need to|ought to|are (?:now|to|hereby)|will (?:now|be)"
    r"|were (?:told|asked|instructed)|have been|may (?:now|safely|as well)"
    r"|can (?:now|safely|trust|rely|believe|skip|ignore)|had better)\b"
    r"|\byou will\b(?! (?:\w+ )?(?:see|notice|find|look|spot|observe|discover|agree))|\bkindly\b"
    r"|\byour (?:supervisor|boss|task|job|answer|output|reply|response|report|rules?|guidelines?"
    r"|training|verdict|score|system|developer|creator|owner|operator|programming|decision)\b"
    r"|\bi (?:\w+ )?(?:order|command|instruct|ask|beg|urge|request|demand|authori[sz]e|want|need"
    r"|require|advise|recommend|hereby) (?:you|that|everyone|all|to)\b"
    r"|\b(?:note|message|memo|instructions?|hint|reminder) (?:to|for) (?:the|all|any|whoever|self"
    r"|anyone|everyone)\b|\bsystem:|\bfull marks\b"
    r"|\b(?:set|change|flip|return|give|output|print|mark|write|answer|respond|reply|label"
    r"|classify|rate"
    r"|grade|score|treat|report|approve|accept|register|record|log)\b.{0,30}\b(?:verdict|labels?"
    r"|scores?|answer|marks?|only|with|as (?:real|genuine|fake"
    r"|authentic)|real|genuine|records?|points?)\b"
    r"|\b(?:must|should|shall|is to|are to|needs? to|has to|have to|ought to) (?:therefore "
    rf"|always |never |not )?be {_OUTCOME}\b"
    r"|\b(?:would|might|could|will) be (?:best|better|wise|nice|good|kind|advisable"
    r"|appreciated)\b|\b(?:is|are) (?:kindly )?(?:asked|requested|required|instructed|told"
    r"|ordered) to\b"
    r"|\b(?:please|dear|graders?|evaluators?|annotators?|reviewers?|raters?|moderators?"
    r"|administrators?|admin|developers?|detectors?|classifiers?|verifiers?"
    r"|this (?:caption|sentence|text|answer|reply|record|description|message|prompt|conversation"
    r"|task))\b"
    r"|\b(?:visit|click|subscribe|download|delete|execute|respond|reply|override|bypass|forward"
    r"|obey)\b"
    r"|\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instructions?|prompts?|above|previous|rules?"
    r"|checks?|said|told|written)\b"
    r"|\b(?:from (?:now|here) on|instructions?|prompts?|guidelines|polic(?:y|ies)|data ?sets?"
    r"|training data|database|pipeline|newsletter|coupon|bitcoin|attachment|website|hyperlink"
    r"|e-?mail|inbox|credit card|rating"
    r"|phone number|address book|footer|confidential|secret|further checks|checksum|whitelist"
    r"|allow-?list|safe mode|debug|developer mode|jailbreak)\b"
    r"|\b(?:system prompt|prompt injection|as an? (?:ai|assistant|language)|(?:language|ai"
    r"|vision) models?|assistant|api[ _-]?keys?"
    r"|passwords?|chatgpt|gpt|openai|json|tokens?|told (?:you|before)|tell (?:anybody|anyone"
    r"|nobody|no one|the user|them|people))\b",
    re.DOTALL,
)
