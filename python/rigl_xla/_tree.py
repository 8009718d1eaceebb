"""Names of the leaves of pytrees."""

from __future__ import annotations

from typing import Any

import jax

Step = list[Any]  # ["key", k], ["index", i] or ["attr", name]


def _step(entry: Any) -> Step:
    if isinstance(entry, jax.tree_util.DictKey):
        return ["key", entry.key]
    if isinstance(entry, jax.tree_util.SequenceKey):
        return ["index", entry.idx]
    if isinstance(entry, jax.tree_util.GetAttrKey):
        return ["attr", entry.name]
    if isinstance(entry, jax.tree_util.FlattenedIndexKey):
        return ["index", entry.key]
    return ["attr", str(entry)]


def named_leaves(tree: Any, what: str) -> list[tuple[str, list[Step], Any]]:
    """Name, path and value of each leaf, in JAX's order. A tree that is one leaf has the name `what`.

    Raises ValueError if two leaves have the same name, or a name has control characters.
    """
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        steps = [_step(entry) for entry in path]
        name = "/".join(str(key) for _, key in steps) or what
        if not name.isprintable():
            raise ValueError(f"{what}: the name {name!r} of a leaf has characters that cannot be printed")
        steps = [[kind, key if isinstance(key, (str, int)) else str(key)] for kind, key in steps]
        found.append((name, steps, leaf))
    names = [name for name, _, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what}: several leaves have the name {twice[0]!r}; rename one of them")
    return found


def rebuilt(leaves: list[tuple[list[Step], Any]]) -> Any:
    """Dictionaries and lists with these leaves. Attributes become dictionary keys."""
    if len(leaves) == 1 and not leaves[0][0]:
        return leaves[0][1]
    groups: dict[Any, list[tuple[list[Step], Any]]] = {}
    kinds = set()
    for steps, leaf in leaves:
        kind, key = steps[0]
        kinds.add(kind)
        groups.setdefault(key, []).append((steps[1:], leaf))
    built = {key: rebuilt(group) for key, group in groups.items()}
    if kinds == {"index"} and sorted(built) == list(range(len(built))):
        return [built[i] for i in range(len(built))]
    return built
