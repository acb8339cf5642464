"""`python -m tests.figures [ROOT]`: print size, shape and documentation of the code below ROOT (default: here)."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.figures.imports import cycle
from tests.figures.source import Module, annotated_parts, body_lines, modules, nesting

#: What is measured, each row by itself.
PRODUCT = ["farm", "api", "workers"]
#: First words of a docstring that names a thing instead of saying what the function does.
NOUN_CLAUSES = ("What", "Whether", "Who", "Whose", "Whom", "Whoever", "How", "Where", "Which", "When")
#: A body is long from so many lines on.
LONG = 50


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    product, miniature, tests = (modules(root, packages) for packages in (PRODUCT, ["miniature"], ["tests"]))
    for name, found in ((", ".join(PRODUCT), product), ("miniature", miniature), ("tests", tests)):
        print(name)
        for figure, value in figures(found):
            print(f"  {figure:44} {value}")
    print(f"test lines to product lines, blank ones apart: {_written(tests) / _written(product):.1f}")


def figures(found: Sequence[Module]) -> Iterator[tuple[str, str]]:
    """Yield each figure of these modules, by name. `source` defines what is counted."""
    sizes = [module.lines for module in found]
    yield "modules: number, lines", f"{len(sizes)}, {sum(sizes)}"
    yield "module lines: median, p90, largest", f"{statistics.median(sizes):g}, {_p90(sizes)}, {max(sizes)}"
    functions = [function for module in found for function in module.functions()]
    bodies = [body_lines(function) for function in functions]
    yield "function body lines: median, p90", f"{statistics.median(bodies):g}, {_p90(bodies)}"
    yield f"functions with more than {LONG} body lines", _share(sum(lines > LONG for lines in bodies), len(bodies))
    yield "nesting p90", str(_p90([nesting(function) for function in functions]))
    annotated = [is_annotated for function in functions for is_annotated in annotated_parts(function)]
    yield "annotated arguments and results", _share(sum(annotated), len(annotated))
    yield "lines of comments", _share(sum(module.comment_lines for module in found), sum(sizes))
    yield "lines of docstrings", _share(sum(module.docstring_lines for module in found), sum(sizes))
    yield "docstrings that begin with a noun clause", _noun_clauses(found)
    yield "import cycle", " -> ".join(cycle(list(found))) or "none"


def _noun_clauses(found: Sequence[Module]) -> str:
    texts = [text for module in found for text in module.docstring_texts()]
    nouns = sum(text.split(maxsplit=1)[0].rstrip(",:") in NOUN_CLAUSES for text in texts if text.split())
    return _share(nouns, len(texts))


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%} ({part} of {whole})"


def _p90(values: Sequence[int]) -> int:
    """Return the value that nine in ten do not exceed."""
    return sorted(values)[int(0.9 * (len(values) - 1))]


def _written(found: Sequence[Module]) -> int:
    return sum(module.written_lines for module in found)


if __name__ == "__main__":
    main()
