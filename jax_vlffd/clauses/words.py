"""The words that clauses are read by: those of faults and of soundness, each with the types that they can mean.

All tables are ours. Texts are lower-case when they are matched; alternatives are divided by a comma and a space
or line break, and a space within one also matches a hyphen: 'out of focus', 'out-of-focus'.
"""

from __future__ import annotations

import re
from typing import Final


def any_of(words: str) -> re.Pattern[str]:
    """Returns a pattern for whole words: any of the alternatives of a table."""
    alternatives = (r"[\s-]+".join(word.split()) for word in re.split(r",\s+", words.strip()))
    return re.compile(rf"\b(?:{'|'.join(alternatives)})\b")


_TYPES: Final = {"b": "blur", "t": "texture", "c": "color", "s": "structure", "e": "boundary"}
Table = tuple[tuple[frozenset[str], re.Pattern[str]], ...]


def _table(words: dict[str, str]) -> Table:
    """Patterns with the types that their words can mean; keys are initials, 'e' for the edge of a boundary."""
    return tuple(
        (frozenset(_TYPES[letter] for letter in types), any_of(alternatives))
        for types, alternatives in words.items()
    )


#: Words that state a fault.
FAULTS: Final = _table(
    {
        "b": r"""blur\w*, unsharp\w*, smudg\w*, smear\w*, fuzz(?:y|ier|iness),
            haz(?:e|y|ily|ier|iness), fog(?:gy|ged|gier)?, mist(?:y|ed|ier)?, blear\w*,
            mush(?:y|ier)?, un-?focus\w*, de-?focus\w*, out of focus, soft focus, indistinct\w*,
            (?:ill|poorly|badly|barely|loosely|hardly) defined, undefined, dissolv\w*,
            vague(?:ly|r|ness)?, low res(?:olution)?, pix?el+at\w+, upscaled, up sampled, enlarged
            (?:too|from|beyond), veil(?:ed|s)?, murky, nebulous, diffused?, cloud(?:y|ed), steam\w*,
            frosted, swims?, swimming, vaseline, blocky, unclear, illegible, unreadable,
            unrecogni[sz]able, shapeless, bleeds? into (?:each other|one another), runs?
            (?:together|into each other|into one another),
            (?:no|not|neither|without|lack\w*|lost|hardly|never) (?:[\w-]+
            ){0,4}?(?:clear|sharp|crisp|distinct|defined|clean)
            (?:edges?|outlines?|contours?|borders?|boundar\w+|lines?|limits?), ghosting,
            compress(?:ed|ion artifacts?)""",
        "bt": r"""soft(?! (?:day)?light), softer, soften\w*, softness, softly(?! lit), too smooth,
            (?:over )?smooth\w*(?! (?:transition|into|in)), featureless, undetailed, melt\w*, wiped?
            (?:clean|smooth), indistinguishable, (?:rubbed|worn) (?:out|away)""",
        "bc": "muddy, milky, washed out, fade[sd]?, fading",
        "ct": r"""blotch\w*, patchy, mottled, streak\w*, stain\w*, painted, uniform(?:ly|ity)?,
            homogen\w+, monoton\w+, unvarying, unvaried, powder(?:y|ed)?""",
        "cts": "flat, flatness, flatly",
        "cs": "shift(?:ed|s)?",
        "ce": "halos?, haloes, fring(?:e|es|ing)",
        "t": r"""wax\w*, plastic\w*, porcelain\w*, airbrush\w*, doll\w*, rubber\w*, silicone, vinyl,
            latex, marble\w*, lacquer\w*, varnish\w*, gloss\w*, sheen, shiny, shinier, polished,
            clay, wooden, wood, paper\w*, cardboard, balloon\w*, eggshell, mannequin\w*, ceramic\w*,
            textureless, poreless, grainless, lashless, wrinkle free, bare, blank\w*, coarse\w*,
            rough\w*, gritty, leather\w*, scaly, bumpy, sandpaper\w*, grainy, nois(?:e|y), speck\w*,
            printed, too even, evenness, overly even, repetitive, repeating pattern, tiled,
            checker\w*, canvas, ironed, sanded, embossed, velvet\w*, matte, like (?:a )?(?:sheet of
            )?glass, as glass, glassy, cgi, computer game, (?:video )?game character, unpor\w+,
            synthetic looking""",
        "c": r"""(?:dis|mis)colou?r\w*, redd\w+, red(?:ness)?, reds, pink\w*, orange\w*, yellow\w*,
            green\w*, blue, bluer, bluish, purpl\w+, violet, lilac, mauve, magenta, crimson,
            scarlet, turquoise, olive, brown\w*, beige, bronze\w*, copper\w*, golden, rust\w*,
            gr[ae]y\w*, ashen, pale[rd]?, paleness, pall(?:or|id), chalk\w*, sallow, livid, flushed,
            jaundiced, an[ae]+mic, bloodless, sickly, bleach\w*, whiter, whitish, blackish,
            blackened, ghostly, lurid, garish, neon, tint\w*, ting(?:e|es|ed), tan, tanned,
            dye[ds]?, (?:over|de|under|un)?-?saturat\w*, ruddy, ruddier, colou?rless, monochrom\w+,
            glow\w*, relit, lit by, (?:over|under)-?exposed, warmer, cooler, colder, darker,
            darken\w*, lighter, brighter, brighten\w*, duller, (?:far |much
            )?(?:too|un\w+ly|odd?ly|strangely|abnormally|overly|suspiciously|artificially|implausibly|impossibly)
            (?:dark|bright|white|black|light|warm|cold|cool|vivid|dull|rosy|deep)""",
        "s": r"""distort\w*, deform\w*, mis-?shap\w*, warp\w*, asymmetr\w*, un-?symmetr\w*, bent,
            bends?, crook\w*, twist\w*, contort\w*, mis-?align\w*, lopsided\w*, skew\w*, askew,
            awry, stretch\w*, squash\w*, squish\w*, elongat\w*, malform\w*, bulg\w*, bulbous,
            kink(?:ed|s)?, slant\w*, mis-?placed?, displac\w+, off-?cent\w+, off axis, flatten\w*,
            disproportion\w*, dislocat\w*, out of (?:shape|line|position|proportion|alignment),
            narrow\w*, wider, widen\w*, broaden\w*, thicker, thickened, thinner, thinned, fuller,
            taller, higher, lower(?= than), different
            (?:heights?|sizes?|directions?|widths?|shapes?|angles?), diagonal\w*, swollen, swell\w*,
            puff(?:y|ed), shrun?k\w*, shrink\w*, sunken, collaps\w+, caved?, doubl(?:ed|ing),
            duplicat\w+, pull(?:ed|s|ing)?, drag(?:ged|s|ging)?, tug(?:ged|s)?, push(?:ed|es)?,
            slip(?:ped|s)?, slid(?:es?)?, tilt(?:ed|s|ing)?, lean(?:s|ing|ed)?, hangs?, droop\w*,
            sag(?:s|ged|ging)?, unaligned, squeez\w+, crush\w*, mangled, disfigur\w*, inflated,
            pinched, at (?:an|the wrong) angle, rotated, turned (?:to|the wrong),
            mis-?proportion\w*, disjoint\w*, larger, bigger, smaller, (?<!no\s)longer, shorter,
            oversized?, undersized?, enormous, twice (?:the|as|its), half (?:the size|its|as
            (?:wide|big|large)), too
            (?:wide|long|short|large|small|big|thick|thin|high|low|narrow|far
            apart|close|broad|round|pointed), far apart, sits? (?:too )?(?:low|high|lower)(?:er)?,
            hangs? lower, squint\w*, cross eyed, to (?:one|the wrong|the) side, sideways, veer\w*,
            diverg\w*, deviat\w*, drifts? apart, wander\w*, looks? past (?:each|one|the),
            look(?:s|ing)? in (?:different|two|separate|opposite), points?
            (?:away|left|right|down|up|off|sideways|to the (?:left|right|side|wrong)|in
            (?:an?|the|two|different)), zig-?zag\w*, wrench\w*,
            (?:two|different|opposite|separate|several) (?:\w+
            )?(?:directions|heights|sizes|levels|angles), slop(?:es|ed|ing), juts?, jutting,
            protrud\w+, wavy, wobbl\w*, folds? (?:under|into|in on), fused, (?:un|not )level, uneven
            (?:in|eyes|brows|lips|nostrils|heights?|sizes?), unevenly (?:\w+
            )?(?:placed|spaced|set|sized|shaped|high|large|open), unequal\w*, reshaped?,
            re-?sculpted, morphed, carv(?:ed|ing), (?:not|n't) (?:quite )?meet, zig, cut short,
            extra (?:tooth|teeth|nostril|lid), missing (?:tooth|teeth|nostril)""",
        "e": r"""cut lines?, lines? of (?:discontinuity|division|demarcation), discontinuit\w+,
            boundar\w*, seams?, blending(?! (?:step|process|operation)),
            (?<!the\s)(?<!its\s)(?<!their\s)edges?(?! of), (?<!vermilion\s)borders?, rims?(?! of a
            mask), stitch\w*, rectang\w+, boxe?[sd]?, box shaped, boxy, square frame, joins?, join
            line,
            (?:a|an|faint|visible|thin|hard|sharp|fine|dark|bright|dividing|clear|distinct|crisp|pale|straight|jagged|abrupt|obvious|telltale)
            line, line
            (?:around|along|between|across|divid\w+|separat\w+|surround\w+|encircl\w+|crosses|runs|that
            runs|follows), (?:a|hard|abrupt|sudden|visible|sharp) step, cut outs?, cutouts?,
            cuts?(?= (?:runs?|goes|along|across|over|through|around|between)),
            (?:straight|sharp|clean|visible|hard|clear) cuts?, a cut, cuts?
            (?:right|off|line|mark)s?, outlines? of the patch, patch
            (?:border|edge|boundary|outline)s?, demarcat\w*, framed by, divid(?:es|ing),
            separat(?:es|ing) (?:the|it), sets? off from, set apart (?:from|by),
            (?<!palpebral\s)(?<!lid\s)margins?, sutures?, scars?, overlap\w*,
            (?<!smooth\s)(?<!natural\s)(?<!seamless\s)transitions?(?! (?:is|are|looks?) (?:\w+
            )?(?:gradual|smooth|natural|soft|seamless|clean)), hard cut, abrupt\w*, unblended,
            jagged, paste marks?, cutting marks?, mask line""",
    }
)
#: Words that state that a region is sound in one respect: a fault where they are denied.
SOUND: Final = _table(
    {
        "b": r"""(?:razor |tack )?(?:sharp\w*|crisp\w*|clear(?:er)?)(?! (?:\w+
            )?(?:edges?|lines?|borders?|seams?|bound\w+|transitions?|rims?|visible|steps?|cuts?|contours?|outlines?)),
            in (?:perfect |good |sharp |clear )?focus, (?<!of[\s-])(?<!soft[\s-])focus(?:ed)?, well
            defined, clarity, acuity, resolution, legible, distinct(?:ly|ness)?(?!
            (?:lines?|edges?|borders?|boundar\w+|seams?|from|tone|colou?r))""",
        "bt": r"""details?, detailed, definition, individual\w*(?!
            (?:regions?|parts?|areas?|features?|faces?)), distinguish\w*, (?:be|being) (?:made
            out|told apart|resolved|counted|read|discerned|separated)""",
        "s": r"""(?:well )?aligned?, lines? up, symmetr(?:y|ic\w*), straight(?!
            (?:cuts?|lines?|edges?|borders?|seams?)), undistorted, undeformed, unbent,
            (?:well|nicely|beautifully|evenly|perfectly|finely|regularly|harmoniously)
            (?:formed|shaped|proportioned|placed|set|spaced|drawn), (?:is|are|looks?) even, level,
            parallel, in proportion, proportionate, balanced, cent(?:er|re)d""",
        "e": r"""seamless\w*, blends? (?:in|smoothly|well|naturally|softly|perfectly), smooth
            transition, smoothly into, merges?(?! into one), blend(?:s|ed)?(?! into
            (?:an?|each|one)), without (?:a|any) (?:break|step|join|interruption|jump), unbroken,
            uninterrupted, continuous\w*, gradual\w*""",
        "t": r"""pores?, wrinkles?, fine lines?, laugh lines?, textur(?:es?|ed|al), grain, moles?,
            blemish(?:es)?, freckl\w+, stubble, creases?, furrows?, grooves?, fine hairs?, peach
            fuzz""",
    }
)
#: Nouns of a type that judge nothing by themselves.
TOPICS: Final = _table(
    {
        "c": r"""colou?r\w*, hues?, ton(?:es?|al|ality|ing), shades?, pigment\w*, casts?(?!
            (?:a|an|the|its|no) ), brightness, luminance, white balance, colou?r temperature""",
        "s": r"""shapes?, (?<!-)shaped, structur\w*, proportions?, geometry, anatomy, size, width,
            height, position, placement, alignment, curvature, perspective, outward form""",
        "seb": "contours?, outlines?",
    }
)
#: Of the sound words, those that only sound if said to be good or to be there: 'an uneven texture'.
NEUTRAL: Final = re.compile(
    r"textur(?!ed)|grain|detail(?!ed)|definition|sharpness|clarity|resolution|focus$"
)
#: Of the sound words, those that a bad judgment turns: 'unevenly textured'.
TURNED: Final = re.compile(r"textured|detailed|focused|blended")
#: Judgments without a type.
GOOD: Final = any_of(
    r"""holds? up, withstands?, wealth of, gradual(?:ly)?, nobody (?:could|can|would)
        (?:object|complain|find fault), in place, natural(?:ly|ness)?, normal(?:ly)?, authentic,
        genuine, flawless(?:ly)?, regular, intact, untouched, unaltered, unchanged, unaffected,
        unremarkable, convincing(?:ly)?, credibl[ey], believabl[ey], plausibl[ey],
        realistic(?:ally)?, correct(?:ly)?, proper(?:ly)?, consistent(?:ly)?, coherent(?:ly)?,
        perfect(?:ly|ion)?, healthy, faultless(?:ly)?, impeccabl[ey], spotless,
        harmon(?:y|ious(?:ly)?|i[sz]es?), accurate(?:ly)?, clean, fine(?!
        (?:lines?|hairs?|wrinkles?|textur\w+|details?|grain|pores?|lashes|creases?|dark|bright|border|seam|edge)),
        (?:finely|richly|well(?= (?:detailed|textured))|highly|fully|intricately|exquisitely)
        (?=\w+), (?:one|you|we) (?:would|might|could) (?:\w+ )?(?:expect|hope for|want), as
        expected, as (?:it|they|one) should(?: be)?, (?:where|how|what|as) (?:it|they)
        (?:should|ought to|belongs?)(?: be)?, that (?:it|they) should, in order, agrees?,
        rich(?:ly)?, keeps?, retains?, shares? one, retained, kept, preserv(?:es|ed), beyond
        (?:doubt|reproach), lifelike, life like, unblemished, unsuspicious, ordinary,
        (?:is|are|looks?|just|quite|all) right, good(?! deal),
        (?<!as\s)(?<!may\s)(?<!might\s)(?<!could\s)well(?! (?:as|short|below|above|off)),
        admirabl[ey], sound, even(?= (?:tones?|textures?|colou?r|skin|light\w*)), evenly
        (?:colou?red|toned|lit), matches, free of (?:faults?|flaws?|artifacts?), undisturbed,
        immaculate(?:ly)?, unobtrusive, unmanipulated, unedited, pristine, real, true(?! of), truly,
        truthful(?:ly)?, faithful(?:ly)?, trustworthy, suits, as a camera would \w+, undamaged,
        nothing (?:is |looks |seems |at all )?(?:wrong|amiss|odd|strange|suspicious|unusual|off|out
        of place), no
        (?:quarrel|issues?|problems?|complaints?|objections?|trouble|qualms|reservations)
        (?:with|about), nothing to (?:object|criti\w+|complain|fault|report|note|worry), above
        suspicion, no (?:complaints?|objections?), beautiful(?:ly)?, sits? well, moves?
        (?:with|naturally|freely), exemplary, excellent(?:ly)?, passes? (?:muster|inspection),
        unproblematic, inconspicuous, unimpaired, unharmed, untampered, (?:each|every|all) (?:single
        )?(?=\w+ (?:is |are )?(?:clear|visible|sharp)), (?:exactly|just|precisely) (?:the
        way|how|like|what|as) an? \w+ (?:looks?|should|is|would), the way (?:it|they)
        (?:should|ought), (?:one|you|we) (?:meets?|sees?|encounters?) (?:every day|everywhere|all
        the time), of (?:living|real|healthy|natural) \w+, countless, plenty of, abundan\w+, full
        of, alive, lively, vivid detail, count (?:every|each|all|the|single)"""
)
BAD: Final = any_of(
    r"""unnatural(?:ly|ness)?, falls? (?:\w+ )?short, odd(?:ly|ity|ities)?, wrong(?:ly)?, off,
        strange(?:ly)?, inconsistent(?:ly)?, inconsistenc\w+, implausibl[ey], impossibl[ey],
        suspicious(?:ly)?, suspect, mis-?match(?:e[ds]|ing)?, false(?:ly)?, faked?, fak(?:es|ery),
        forged, artificial(?:ly)?, unusual(?:ly)?, uneven(?:ly|ness)?, incorrect(?:ly)?,
        manipulat\w+, altered, alterations?, edit(?:ed|s), tamper\w+, faults?, faulty, absurd\w*,
        flaw(?:s|ed)?, artifacts?, artefacts?, amiss, unrealistic(?:ally)?, abnormal(?:ly|it\w+)?,
        unlikely, unhealthy, irregular\w*, forger(?:y|ies), out of place, lifeless, damaged?,
        affected, betray(?:s|ed)?, anomal\w+, defect(?:s|ive)?, errors?, glitch\w*, weird(?:ly)?,
        not (?:fit|match|belong|agree|correspond|go), swap(?:ped)?, replaced, pasted, retouched,
        doctored, worked on, peculiar(?:ly|it\w+)?, bizarre(?:ly)?, eer(?:ie|ily), uncanny,
        unconvincing(?:ly)?, incoherent(?:ly)?, incongru\w+, clash(?:es|ing)?, conflict(?:s|ing)?,
        problem(?:s|atic)?, questionable, dubious, conspicuous(?:ly)?, disturb(?:ed|ing), foreign,
        alien, corrupt(?:ed|ion)?, broken, botched, glued, inserted, inlaid, grafted, editing,
        suspicions?, concerns?, contribut\w*, adds?, differently, issues?, traces? of, patchwork\w*,
        synthetic, improbabl[ey], inexplicabl[ey], unbelievabl[ey], inhuman(?:ly)?, ugly, stands?
        out, sticks? out, gives? (?:it|itself|them|the) away, tell tale, giveaway,
        disagree(?:s|ment)?, contradict\w*, mis-?fits?, ill fitting, unsuitable, imperfect\w*,
        unreal, disrupt\w*, disharmon\w+, awkward(?:ly)?, clumsy, clumsily, jarring(?:ly)?,
        unsettling, discrepan\w+, divergent, deceptive, counterfeit, fabricat\w+, degraded,
        degradation, distract\w+, unsound"""
)
#: Words that deny what follows within a few words.
NEGATION: Final = any_of(
    r"""no(?! (?:mistake|doubt|question|wonder|surprise|way)), not, none, least,
        (?:wrong|false|untrue|exaggeration|stretch) to (?:say|call|claim|speak), cannot, never,
        without, lack(?:s|ing|ed)?, miss(?:es|ing)?, nor, neither, hardly, barely, scarcely, too
        little, (?<!a\s)little, (?<!or\s)less, devoid, hid(?:es?|den|ing), eras(?:es?|ed|ing), free
        (?:of|from), absence, nothing, nobody(?!'s), no one(?!'s), \w+n't, deprived,
        insufficient(?:ly)?, few, far from, remov(?:es?|ed|ing), fail(?:s|ed|ing)? to,
        refus(?:es|ed|ing)? to, unable to, (?:hard|difficult|impossible) to, in vain, gone
        (?:is|are), instead of, rather than, anything but, by no means, in no way, nowhere,
        (?:hesitate|reluctant) to, (?:look|search|hunt|check|scan)(?:s|ed|ing)? (?:\w+ ){0,2}?for"""
)
#: Words that deny the soundness of what follows, but no fault: 'poor texture', 'a poor blur'.
LOSS: Final = any_of(
    r"""lost, losing, loses?, los[st] of, should (?:be|have|show)(?! (?:as|where)), ought to
        (?:be|have|show), poor(?:ly)?, weak, low, minimal, bad(?:ly)?, reduced, reduction (?:of|in),
        limited, scant, sparse, inadequate, deficien\w+, diminish\w*, decrease[sd]?(?: in)?,
        drop(?:s|ped)? (?:in|of), loss of, loss in, robbed of, stripped of, drained of, bereft of,
        emptied of, want of, void of, starved of, shorn of, short of, swallow(?:s|ed)?, ate, eats,
        eaten, wip(?:es?|ed|ing), wiped (?:away|out|off), delet(?:es|ed), obliterat\w+, suppress\w*,
        washed away, blott?ed out, smooth(?:s|ed)? (?:away|out|over), iron(?:s|ed)? (?:out|away),
        covers? up, forgot(?:ten)?, omit(?:s|ted)?, conceal(?:s|ed|ing)?, destroy(?:s|ed|ing)?,
        polished (?:away|off), tak(?:es|en|ing) away, took away, blurs? away, filtered out, broken,
        false"""
)
#: Words after a sound word that deny it.
NEGATION_AFTER: Final = any_of(
    r"""missing, absent, gone, lost, lacking, vanish(?:ed|es)?, erased, hidden, removed, stops?,
        ends?, disappear(?:s|ed)?, cannot, unseen, invisible, wiped,
        (?:is|are|was|were|be|been|do|does) not, ironed, smoothed (?:away|out|over), polished
        (?:away|off), washed (?:away|out), swallowed, obliterated, suppressed, breaks? down,
        collapses?, fades?, suffers?, deleted, blotted, sanded, evened, drop(?:s|ped)?, (?:is|are)
        (?:low|poor|weak|insufficient|reduced|wanting), fails?, destroyed, concealed, n't, nowhere,
        by (?:neither|none|nothing), leaves? (?:much )?to be desired, too (?:low|little|few),
        melt(?:ed|s)?, rubbed, scrubbed, filtered"""
)
#: Words before a good one that turn it into a fault.
TOO: Final = re.compile(
    r"\b(?:too|overly|unnaturally|suspiciously|artificially|unusually|implausibly|impossibly"
    r"|excessively|strangely|oddly|weirdly|wrongly|uncannily|eerily|curiously"
    r"|beyond(?: what is)?|than(?: (?:is|a|would be|looks?))?)\s+$"
)
#: Nouns that are denied together: 'pores, wrinkles and detail are missing'.
NOUNS: Final = any_of(
    r"""pores?, wrinkles?, (?:fine )?lines, textures?, grain, moles?, blemish(?:es)?, freckles?,
        stubble, creases?, furrows?, details?, definition, sharpness, clarity, colou?r, contrast,
        hairs?, fuzz"""
)
