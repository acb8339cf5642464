"""Caches of what libraries compute again for each application, client and command that a test makes.

A process of the farm makes one of each; together they took more than half the time of the tests that make many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader
from typer.utils import get_params_from_function
from werkzeug.routing import Rule

BuildUrl = Callable[..., tuple[str, str]]


@contextmanager
def library_caches() -> Iterator[None]:
    """Cache the compiled URL rules of werkzeug, the service models of botocore, and the parameters of typer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", _builders_compiled_once())
        patch.setattr(JSONFileLoader, "load_file", _files_loaded_once())
        patch.setattr("typer.main.get_params_from_function", cache(get_params_from_function))
        yield


def _builders_compiled_once() -> Callable[..., BuildUrl]:
    compile_builder = Rule._compile_builder
    builders: dict[tuple[object, ...], BuildUrl] = {}

    def compiled(rule: Rule, append_unknown: bool = True) -> BuildUrl:
        key = (rule.rule, rule.host, rule.subdomain, rule.merge_slashes, repr(rule.defaults), append_unknown)
        if key not in builders:
            builders[key] = compile_builder(rule, append_unknown)
        return builders[key]

    return compiled


def _files_loaded_once() -> Callable[[JSONFileLoader, str], Any]:
    load_file = JSONFileLoader.load_file
    loaded: dict[str, Any] = {}

    def load(loader: JSONFileLoader, path: str) -> Any:
        if path not in loaded:
            loaded[path] = load_file(loader, path)
        return loaded[path]

    return load
