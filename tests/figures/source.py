"""Python modules as syntax trees, and what is counted in them."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith),
    *(ast.Try, ast.TryStar, ast.Match, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
)


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its dotted name, its text and its syntax tree."""

    name: str
    text: str
    tree: ast.Module
    is_package: bool

    @property
    def lines(self) -> int:
        """Lines of the file, blank ones and comments included."""
        return len(self.text.splitlines())

    @property
    def written_lines(self) -> int:
        """Lines that are not blank."""
        return sum(bool(line.strip()) for line in self.text.splitlines())

    @property
    def comment_lines(self) -> int:
        """Lines with nothing but a comment on them."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip() for token in tokens)

    @property
    def docstring_lines(self) -> int:
        """Lines that docstrings take, quotes included."""
        return sum(_span(docstring) for docstring in self.docstrings())

    def docstring_texts(self) -> Iterator[str]:
        """Yield the text of each docstring."""
        yield from (_text(docstring) for docstring in self.docstrings())

    def docstrings(self) -> Iterator[ast.Expr]:
        """Yield the docstrings of the module, its classes and its functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
                first = node.body[0]
                assert isinstance(first, ast.Expr)
                yield first

    def functions(self) -> Iterator[Function]:
        """Yield functions and methods, nested ones included."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node

    def imports(self) -> Iterator[str]:
        """Yield the dotted names that the module imports, anywhere in it: in functions and for types, too."""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                source = ".".join([*above, *([node.module] if node.module else [])])
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names)


def modules(root: Path, packages: list[str]) -> list[Module]:
    """Return the modules of these top-level packages below `root`."""
    return [_module(root, path) for package in packages for path in sorted((root / package).rglob("*.py"))]


def _module(root: Path, path: Path) -> Module:
    parts = list(path.relative_to(root).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    text = path.read_text()
    return Module(".".join(parts[:-1] if is_package else parts), text, ast.parse(text), is_package)


def body_lines(function: Function) -> int:
    """Count the lines from the first statement after the docstring to the last line; a mere docstring has none."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    if not body:
        return 0
    assert body[-1].end_lineno is not None
    return body[-1].end_lineno - body[0].lineno + 1


def nesting(node: ast.AST, depth: int = 0) -> int:
    """Return the depth of nested blocks below `node`: 0 for straight code. An `elif` is as deep as its `if`."""
    deepest = depth
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        below = depth + 1 if isinstance(child, _BLOCKS) and not is_elif else depth
        deepest = max(deepest, nesting(child, below))
    return deepest


def annotated_parts(function: Function) -> Iterator[bool]:
    """Yield, for the result and each argument but `self` and `cls`, whether it is annotated."""
    yield function.returns is not None
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    yield from (arg.annotation is not None for arg in named if arg.arg not in ("self", "cls"))


def _text(docstring: ast.Expr) -> str:
    assert isinstance(docstring.value, ast.Constant)
    return str(docstring.value.value)


def _span(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1
