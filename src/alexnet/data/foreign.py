"""What people's pictures turn out to be that are none, by how they begin."""

from __future__ import annotations

import codecs

from alexnet.data.faults import POINTER

LOOKED_AT = 1024  # bytes
OTHERS = {
    b"II*\0": "a broken TIFF, or one of a kind that Pillow does not read; save it with 8 bits",
    b"MM\0*": "a broken TIFF, or one of a kind that Pillow does not read; save it with 8 bits",
    b"\xff\x0a": "JPEG XL, which Pillow does not read; save it as JPEG or PNG",
    b"\0\0\0\x0cJXL ": "JPEG XL, which Pillow does not read; save it as JPEG or PNG",
    b"<svg": "not a picture but a drawing, SVG; save it as PNG",
    b"%PDF": "not a picture but a PDF; save its pages as pictures",
    b"<!doctype html": "not a picture but a web page, perhaps one that says an error; fetch it again",
    b"<html": "not a picture but a web page, perhaps one that says an error; fetch it again",
    POINTER: "not a picture but a pointer of Git LFS to it; git lfs pull fetches it",
}
BEFORE_SVG = (b"<?xml", b"<!--", b"<!doctype svg")


def told_by(head: bytes) -> str:
    """What a file is that begins so, with what to do about it; in doubt, not a picture."""
    folded = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if folded.startswith(BEFORE_SVG) and b"<svg" in folded:
        return OTHERS[b"<svg"]
    return next((words for start, words in OTHERS.items() if folded.startswith(start.lower())), "not a picture")
