"""Malformed forms at every route that takes one."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.service.api.calls import EDITS, refusal
from tests.service.bulk.bulks import FILES

#: The paths that take forms. A new one joins here.
PATHS = [EDITS, FILES, "/api/v3/media/upload/binary"]


def part(disposition: bytes) -> bytes:
    return b"--x\r\nContent-Disposition: form-data%s\r\n\r\na\r\n" % disposition


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("nameless", [b"", b'; filename="a"', b'; naem="a"'])
def test_a_part_without_a_name_is_refused(api: FlaskClient, path: str, nameless: bytes) -> None:
    file = part(b'; name="file"; filename="a"')
    for parts in (part(nameless), part(nameless) + file, file + part(nameless)):
        answer = api.post(path, data=parts + b"--x--", content_type="multipart/form-data; boundary=x")

        assert "a part of the form has no name" in refusal(answer, 400, path=path)
