"""The check of a bulk's file, line by line: what OpenAI finds before it executes any request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from farm.bulk.lines import MAX_FILE_LINES, FileLine
from farm.dialects.openai_batch import BadLine, Line, read_line
from farm.domain.bulk import Endpoint, LineProblem
from farm.domain.catalogue import MAX_BULK_LINE, MAX_BULK_LINES

#: So many problems are reported; the lines behind them are not looked at.
MAX_PROBLEMS = 100
#: Longest id of a model that the record of a bulk shows, in characters.
MAX_SHOWN_MODEL = 100


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """Result of checking a file: its requests, the model that all of them name (empty: several), its problems."""

    total: int
    model: str
    problems: tuple[LineProblem, ...]


class FileCheck:
    """Checks the lines of one file. It remembers eight bytes of each line: whether an id was there before."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._seen: set[bytes] = set()
        self._models: set[str] = set()
        self._problems: list[LineProblem] = []

    def check(self, lines: Iterable[FileLine], *, stop: Callable[[], bool]) -> CheckedFile | None:
        """Check a file; None if `stop`, asked before each line, says so."""
        total = 0
        for line in lines:
            if stop():
                return None
            total += 1
            if total > MAX_BULK_LINES or line.number > MAX_FILE_LINES:
                message = f"The file has too many requests or blank lines; allowed: {MAX_BULK_LINES} of each."
                self._problems.append(LineProblem("too_many_requests", message, line.number))
                break
            self._check(line)
            if len(self._problems) >= MAX_PROBLEMS:
                message = "The lines behind these were not checked."
                self._problems.append(LineProblem("too_many_errors", message))
                break
        if not total:
            self._problems.append(LineProblem("empty_file", "The file has no requests."))
        return CheckedFile(total, self._models.pop() if len(self._models) == 1 else "", tuple(self._problems))

    def _check(self, line: FileLine) -> None:
        try:
            self._note(self._read(line))
        except BadLine as error:
            self._problems.append(error.at(line.number))

    def _read(self, line: FileLine) -> Line:
        if line.content is None:
            raise BadLine("line_too_large", f"The line is too long; allowed: {MAX_BULK_LINE} bytes.")
        return read_line(line.content, self._endpoint)

    def _note(self, line: Line) -> None:
        """Note a line's id and model. Raises BadLine if another line has its id."""
        digest = hashlib.blake2b(line.custom_id.encode(errors="surrogatepass"), digest_size=8).digest()
        if digest in self._seen:
            raise BadLine(
                "duplicate_custom_id", f"The id '{line.custom_id[:80]}' is that of an earlier line.", "custom_id"
            )
        self._seen.add(digest)
        if len(self._models) < 2:
            self._models.add(_shown_model(line.body.get("model")))


def _shown_model(model: object) -> str:
    """Return the model as the record shows it; empty for what no model is called, which its line is refused for."""
    if isinstance(model, str) and len(model) <= MAX_SHOWN_MODEL and model.isprintable():
        return model
    return ""
