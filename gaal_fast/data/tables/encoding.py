"""Which encoding bytes beyond ASCII are in, when they are not UTF-8.

Detectors want paragraphs; a table has a few names and labels. So each candidate decodes them, and
the one whose result looks most like words wins: letters that its languages use often, capitals at
the start, no symbols within a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_SAMPLE_BYTES = 6_000
_WESTERN = "äöüßéèêëàâçñáíóúãõåæøîïôûœìòùÄÖÜÉÈÊËÀÂÇÑÁÍÓÚÃÕÅÆØÎÏÔÛŒÌÒÙÿ"
_CENTRAL = "ąćęłńśźżĄĆĘŁŃŚŹŻčďěňřšťůžČĎĚŇŘŠŤŮŽáéíóúýäöüőűôľĺŕÁÉÍÓÚÝÄÖÜŐŰÔĽşţăâîŞŢĂÂÎđĐß"
_TURKISH, _BALTIC = "çğıöşüÇĞİÖŞÜâîû", "āčēģīķļņšūžĀČĒĢĪĶĻŅŠŪŽąęėįųĄĘĖĮŲäöüõÄÖÜÕ"
_CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъёіїєґўОЕАИНТСРВЛКМДПУЯЫЬГЗБЧЙХЖШЮЦЩЭФЁІЇЄ"
_GREEK = "αάβγδεέζηήθιίϊκλμνξοόπρσςτυύϋφχψωώΑΆΒΓΔΕΈΖΗΉΘΙΊΚΛΜΝΞΟΌΠΡΣΤΥΎΦΧΨΩΏ"
_HEBREW = "אבגדהוזחטיךכלםמןנסעףפץצקרשת"
_ARABIC = "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئةىپچژگ"
_THAI = "".join(map(chr, [*range(0x0E01, 0x0E3B), *range(0x0E40, 0x0E4F)]))
_THAI_VOWEL = re.compile("[\u0e30-\u0e3a\u0e40-\u0e4e]")
# Single-byte encodings and the letters of their languages; the first of equals is taken.
_ALPHABETS = {
    "cp1252": _WESTERN,
    "iso8859_15": _WESTERN,
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": _TURKISH,
    "cp1257": _BALTIC,
    "cp850": _WESTERN,
    "cp852": _CENTRAL,
    "mac_roman": _WESTERN,
    "cp1251": _CYRILLIC,
    "koi8_r": _CYRILLIC,
    "koi8_u": _CYRILLIC,
    "cp866": _CYRILLIC,
    "iso8859_5": _CYRILLIC,
    "cp1253": _GREEK,
    "iso8859_7": _GREEK,
    "cp1255": _HEBREW,
    "cp1256": _ARABIC,
    "cp874": _THAI,
}
# Double-byte encodings and the lead bytes of their common characters.
_COMMON_LEADS = {
    "gb18030": (range(0xB0, 0xD8), range(0xA3, 0xA4)),
    "cp932": (range(0x81, 0x84), range(0x88, 0x98)),
    "big5": (range(0xA4, 0xC7),),
    "cp949": (range(0xB0, 0xC9),),
    "euc_jp": (range(0xA4, 0xA6), range(0xB0, 0xD0)),
}
# Between equals the first has the better claim: few texts of the others are wholly Hangul, or hold
# kana.
_CLAIM = {"cp949": 0.03, "euc_jp": 0.05, "gb18030": 0.06, "cp932": 0.06, "big5": 0.07}
_HANGUL = frozenset(
    "이다는가에의을를고지한기사서아하도로자리인해스시어나그대정수원일제보부전구주오상여소장라마비미신우선성안김박최무유"
    "영조과동국물강개양경공관교금남내노녀당등디래러레력령류르름만말면모목문민바반발방백번법변병복본북분빨산색생석설세"
    "속손송술승식실심애야약언업역연열예온올와완왕외요용운울월위육윤은음임입작재저적전점족종중직진질집차참창책처천청체초촌추축"
    "출충치카커컵코크타태토통트특파판팔편평포표품풍피필학할함합항행향허험현형호화확환활황회후훈휘흥희힘란간니꽃록습까있없됩파랑검정흰빨강노컵접시"
)
_SELDOM = frozenset("юцщэфъёіїєґўЮЦЩЭФЁđĐţŢฃฅฆฌญฎฏฐฑฒฬฮฤฦๆ๊๋ฯ")
_FINAL = frozenset("ךםןףץς")
_UNDECODABLE = 10.0


def detect_encoding(raw: bytes) -> str:
    """The likeliest encoding of bytes that are not UTF-8; "cp1252" where nothing speaks for
    another.
    """
    pieces = Counter(re.findall(rb"[A-Za-z]*[\x80-\xff][^\x00-\x2f\x3a-\x3f]*", raw))
    sample = b"\n".join(pieces)[:_SAMPLE_BYTES]
    costs = {name: _alphabet_cost(sample, name) for name in _ALPHABETS}
    costs |= {name: _double_byte_cost(raw, name) for name in _COMMON_LEADS}
    return min(costs, key=costs.__getitem__)


def _alphabet_cost(sample: bytes, encoding: str) -> float:
    """How unlike words the sample is in a single-byte encoding, for each byte beyond ASCII."""
    text = sample.decode(encoding, errors="replace")
    letters = _ALPHABETS[encoding]
    padded = f"\n{text}\n"
    cost, high = 0.0, 0
    for before, char, after in zip(padded, text, padded[2:], strict=False):
        if char.isascii():
            continue
        high += 1
        cost += _char_cost(before, char, after, letters)
    if encoding == "cp874" and not _THAI_VOWEL.search(text):
        cost += 0.5 * high
    return cost / max(high, 1)


def _char_cost(before: str, char: str, after: str, letters: str) -> float:
    if char == "\ufffd":
        return _UNDECODABLE
    inside = before.isalpha() and after.isalpha()
    if char in letters:
        capital = char.isupper() and before.isalpha() and (before.islower() or after.islower())
        misplaced = char in _FINAL and after.isalpha()
        stray = unicodedata.category(char) == "Mn" and not (
            before.isalpha() or unicodedata.category(before) == "Mn"
        )
        shouted = 0.15 if char.isupper() and before.isalpha() else 0.0
        wrong = 1.5 * (capital or misplaced or stray) + 0.3 * (char in _SELDOM) + shouted
        return wrong + _neighbours_cost(before, char, after)
    kind = unicodedata.category(char)
    if kind.startswith("L"):
        return 0.8
    if kind.startswith("C"):
        return 3.0
    if kind.startswith("P") or kind == "Zs" or char == "€":
        return 0.1 if char in "’‘–—" or not inside else 1.0
    return 1.5 if before.isalpha() or after.isalpha() else 0.4


def _neighbours_cost(before: str, char: str, after: str) -> float:
    """Latin letters with accents stand among plain ones; letters of other scripts do not."""
    sides = [side for side in (before, after) if side.isalpha()]
    plain = sum(side.isascii() for side in sides)
    if "LATIN" in unicodedata.name(char, ""):
        return 0.25 * (len(sides) - plain)
    return 0.8 * (plain > 0)


def _double_byte_cost(raw: bytes, encoding: str) -> float:
    """The same for a double-byte encoding: characters that are seldom, and halves of characters."""
    text = b"\n".join(line for line in dict.fromkeys(raw.splitlines()) if not line.isascii())[
        :_SAMPLE_BYTES
    ].decode(encoding, errors="replace")
    cost, high = 0.0, 0
    leads = _COMMON_LEADS[encoding]
    for before, char in zip(f"\n{text}", text, strict=False):
        if char.isascii():
            continue
        size = len(char.encode(encoding, errors="replace"))
        high += size
        if char == "\ufffd":
            cost += _UNDECODABLE
        elif size == 1:
            cost += 0.8  # half-width kana
        elif not any(char.encode(encoding)[0] in lead for lead in leads):
            cost += 1.0
        elif before.isascii() and before.isalpha():
            cost += 1.5  # a letter beside it is most likely its own half
        elif (encoding == "cp949" and char not in _HANGUL) or (
            encoding == "euc_jp" and not "\u3040" <= char <= "\u30ff"
        ):
            cost += 0.1
    return cost / max(high, 1) + _CLAIM[encoding]
