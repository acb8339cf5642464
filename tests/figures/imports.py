"""Import cycles: groups of modules that import one another, directly or by way of others."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from tests.figures.source import Module


def cycle(modules: list[Module]) -> list[str]:
    """Return the names of one import cycle in order, or nothing.

    Packages whose `__init__` is empty do not count: importing a module passes through them.
    """
    names = {module.name for module in modules}
    graph = {module.name: {name for name in module.imports() if name in names} for module in modules}
    packages = {module.name for module in modules if module.is_package and not module.text.strip()}
    try:
        TopologicalSorter({name: found - packages - {name} for name, found in graph.items()}).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []
