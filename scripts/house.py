"""Print the rooms of the house from its ground up: on which floor each stands, and what it imports.

    .venv/bin/python scripts/house.py

A room is a module directly in a package, or a package directly in it with all its modules: `upright.loop`,
`upright.runs`, `benchmarks.speed`. An arrow leads from a room to one that it imports, wherever the import is written:
at the top of a module, inside a function, or under TYPE_CHECKING. Only the root packages' own modules are left out:
`upright/__init__.py` finds each public name at its first use. A room stands one floor above the highest it imports.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

Rooms = dict[str, set[str]]


def modules_of(package: Path) -> dict[str, Path]:
    """The files of a package's modules, by the modules' names."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules that a module imports, of those that are looked at."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            inside = [f"{source}.{alias.name}" for alias in node.names]
            names = [each if each in modules else source for each in inside]
        else:
            continue
        yield from (each for each in names if each in modules)


def rooms_of(*packages: Path) -> Rooms:
    """The rooms of these packages, and those that each one imports."""
    modules = {name: path for package in packages for name, path in modules_of(package).items()}
    room = lambda name: ".".join(name.split(".")[:2])
    rooms: Rooms = {room(name): set() for name in modules if "." in name}
    for name, path in modules.items():
        if "." in name:
            rooms[room(name)] |= {room(each) for each in imports_of(name, path, modules) if "." in each} - {room(name)}
    return rooms


def circle_in(rooms: Rooms) -> list[str]:
    """Rooms of which each imports the next, and the last is the first; empty if there is no such circle."""
    try:
        graphlib.TopologicalSorter(rooms).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def floors_of(rooms: Rooms) -> dict[str, int]:
    """The floor of each room, 1 for what imports no other. Raises graphlib.CycleError where there is a circle."""
    floors: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(rooms).static_order():
        floors[room] = 1 + max((floors[each] for each in rooms[room]), default=0)
    return floors


def house() -> Rooms:
    """The rooms of upright and of its benchmarks."""
    return rooms_of(ROOT / "src" / "upright", ROOT / "benchmarks")


def main() -> None:
    """Print them."""
    rooms = house()
    if circle := circle_in(rooms):
        raise SystemExit(f"There is a circle: {' → '.join(circle)}.")
    floors = floors_of(rooms)
    for room in sorted(rooms, key=lambda room: (floors[room], room)):
        imported = " ".join(each.removeprefix("upright.") for each in sorted(rooms[room]))
        print(f"{floors[room]:>5}  {room.removeprefix('upright.'):<21}{imported}".rstrip())
    arrows = sum(map(len, rooms.values()))
    print(f"{max(floors.values())} floors, {len(rooms)} rooms, {arrows} arrows")


if __name__ == "__main__":
    main()
