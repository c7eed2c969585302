"""Text of any origin, made fit to be written or shown."""

from __future__ import annotations


def encodable(text: str) -> str:
    """The text as UTF-8 can hold it: bytes of a name that is none stand as escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join(printable(one) if "\ud800" <= one <= "\udfff" else one for one in text)
    return text


def printable(text: str) -> str:
    """The text in one line that any terminal, page or figure can show: what cannot be shown stands as escapes."""

    def shown(character: str) -> str:
        if character.isprintable():
            return character
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a name that is not UTF-8
            return f"\\x{ord(character) - 0xDC00:02x}"
        return character.encode("unicode_escape").decode()

    return "".join(map(shown, text))


def counted(count: int, noun: str) -> str:
    """So many of a thing: 1 picture, 2,000 pictures."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural}"
