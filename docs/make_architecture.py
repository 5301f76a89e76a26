"""Draws the tower of rooms in docs/architecture.md from the imports of the code.

    uv run python docs/make_architecture.py

The order of the rooms is the numbered list on that page; tests/project/test_project.py holds it.
"""

import ast
import functools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("BC_training", "ranni_player", "gameplay_pipeline", "boss_arena", "vizdoom_games")
DRAWING = re.compile(r"(<!-- written by .* -->\n).*(<!-- up to here -->)", re.DOTALL)


def rooms() -> list[str]:
    """The rooms from the top, as docs/architecture.md lists them; each may import lower ones."""
    return re.findall(r"^\d+\. `([\w.]+)`", PAGE.read_text(), re.MULTILINE)


def sources() -> Iterator[Path]:
    """Every Python file of the product."""
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    """The dotted name under which a file is imported."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@functools.cache
def imports(file: Path) -> set[str]:
    """The modules of the project that a file imports, by dotted name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                path = ROOT / Path(*node.module.split("."), alias.name)
                is_module = path.with_suffix(".py").exists() or path.is_dir()
                names.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return {name for name in names if name.partition(".")[0] in PACKAGES}


def room_of(module: str) -> str:
    """The room that a module stands in: its folder, or `commands` beside the folders."""
    package, *rest = module.split(".")
    if package not in ("BC_training", "gameplay_pipeline") or not rest:
        return package
    is_room = rest[0] == "__main__" or (ROOT / package / rest[0]).is_dir()
    return f"{package}.{rest[0] if is_room else 'commands'}"


def arrows() -> Counter[tuple[str, str]]:
    """Which rooms import from which others, and how many times."""
    count: Counter[tuple[str, str]] = Counter()
    for file in sources():
        module = module_of(file)
        for imported in imports(file):
            pair = room_of(module), room_of(imported)
            if pair[0] != pair[1]:
                count[pair] += 1
    return count


def drawing() -> str:
    """The rooms as rows, with a mark under each room that they import from."""
    order, count = rooms(), arrows()
    rows = ["   imports from".ljust(34) + "".join(f"{n:3}" for n in range(1, len(order) + 1))]
    for number, room in enumerate(order, 1):
        marks = ("■" if to == room else "●" if count[room, to] else "·" for to in order)
        rows.append(f"{number:2}  {room:30}" + "".join(f"  {mark}" for mark in marks))
    return "\n```text\n" + "\n".join(rows) + "\n```\n\n"


def page() -> str:
    """docs/architecture.md with the tower drawn anew."""
    return DRAWING.sub(lambda parts: parts[1] + drawing() + parts[2], PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
    inside = [pair for pair in arrows() if set(pair) <= set(rooms())]
    print(f"{len(rooms())} rooms, {len(inside)} arrows")
