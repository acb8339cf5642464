"""Structure check of ICC profiles before they are applied. Pure.

Elements of a profile (`mpet`, ICC.1:2022, section 10.16) form a chain of any length, in which each eight bytes may name
the same element again: 300 bytes of a PNG unpack to a chain that takes hours and gigabytes. Browsers ignore them, as
every profile has tables or curves beside them.
"""

from __future__ import annotations

#: Where the table of tags begins, behind their number; and the size of an entry: signature, offset, length (section 7).
_TABLE_AT, _ENTRY_BYTES = 132, 12
#: As many tags as the decoder reads.
_MAX_TAGS = 100
#: What tags of elements are called: D2B0 to D2B3, B2D0 to B2D3 (section 9.2).
_ELEMENT_TAGS = (b"D2B", b"B2D")
_IGNORED = b"none"


def without_elements(profile: bytes) -> bytes:
    """Return the profile with its tags of elements renamed, so that a decoder takes the others."""
    found = bytearray(profile)
    count = min(int.from_bytes(profile[_TABLE_AT - 4 : _TABLE_AT], "big"), _MAX_TAGS)
    for at in range(_TABLE_AT, _TABLE_AT + count * _ENTRY_BYTES, _ENTRY_BYTES):
        if found[at : at + 3] in _ELEMENT_TAGS:
            found[at : at + 4] = _IGNORED
    return bytes(found)
