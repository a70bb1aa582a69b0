"""The package's size and shape: ``python -m benchmarks.structure``.

Counts files, lines, import lines and import cycles. ``make check`` checks layers and types.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).resolve().parent.parent / "latentsync"
# Words that technical English does not need.
AVOIDED = ["nobody", "told", "beside", "somebody", "whoever"]


def main() -> None:
    """Print one result per line."""
    sources = {path: path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    lines = {path: len(source.splitlines()) for path, source in sources.items()}
    modules = sorted(n for path, n in lines.items() if path.name != "__init__.py")
    import_lines = sum(map(count_import_lines, sources.values()))
    text = "\n".join(sources.values())
    print(
        f"files                {len(sources)}, of which __init__.py {len(sources) - len(modules)}"
    )
    print(f"files in the root    {sum(path.parent == PACKAGE for path in sources)}")
    print(f"lines                {sum(lines.values())}")
    print(f"median of a file     {median(modules):.0f} lines without __init__.py")
    print(f"90th percentile      {modules[len(modules) * 9 // 10]} lines")
    print(f"import lines         {import_lines / sum(lines.values()):.1%}")
    print(f"import cycles        {len(cycles(import_graph(sources)))}")
    words = Counter(re.findall(r"\w+", text.lower()))
    for word in AVOIDED:
        print(f"{word:20} {words[word]}")


def count_import_lines(source: str) -> int:
    """Return the number of lines of import statements."""
    return sum(node.end_lineno - node.lineno + 1 for node in imports_of(source) if node.end_lineno)


def imports_of(source: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements of a module, those in functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def import_graph(sources: dict[Path, str]) -> dict[str, set[str]]:
    """Return which modules of the package each module imports when it is imported itself."""
    names = {name_of(path): source for path, source in sources.items()}
    graph: dict[str, set[str]] = {}
    for name, source in names.items():
        graph[name] = {
            submodule if (submodule := f"{node.module}.{alias.name}") in names else node.module
            for node in ast.parse(source).body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        } & names.keys() - {name}
    return graph


def name_of(path: Path) -> str:
    """Return a file's dotted name."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the groups of modules that import each other in a circle."""
    reachable = {name: reach(graph, name) for name in graph}
    found = []
    for name in graph:
        group = {other for other in reachable[name] if name in reachable[other]}
        if group and group not in found:
            found.append(group)
    return found


def reach(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return every module that ``start`` imports, directly or not."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(graph[name])
    return seen


if __name__ == "__main__":
    main()
