"""The house: how many floors and arrows its rooms have, that no circle is among them, and the counting itself."""

from __future__ import annotations

import graphlib
import itertools
from pathlib import Path

import pytest

import house
import upright

SOURCE = Path(upright.__file__).parent


def test_the_house_is_no_higher_and_no_more_entangled_than_it_was_built() -> None:
    rooms = house.house()
    assert house.circle_in(rooms) == []
    assert max(house.floors_of(rooms).values()) <= 13
    assert sum(map(len, rooms.values())) <= 115


def test_few_modules_stand_directly_in_upright() -> None:
    assert len([*SOURCE.glob("*.py")]) <= 16


def test_no_public_name_is_that_of_a_module() -> None:
    """Else importing the module would put it in the name's place."""
    modules = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert not modules & set(upright.__all__)


TOY = {
    "toy/__init__.py": "from toy.loop import train  # a public name, which makes no arrow",
    "toy/ground.py": "import json",
    "toy/wing/__init__.py": "",
    "toy/wing/one.py": "from toy.wing import two\nimport toy.ground",
    "toy/wing/two.py": "from .. import ground\nfrom . import three\nfrom toy import __version__",
    "toy/wing/three.py": "",
    "toy/loop.py": "def train():\n    from toy.wing.one import name",
    "toy/top.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.loop import train",
    "toy/apart/__init__.py": "",
    "toy/apart/inner/__init__.py": "from .deep import name",
    "toy/apart/inner/deep.py": "from ...ground import name\nfrom ..inner import other",
    "other/__init__.py": "",
    "other/speed.py": "from toy import top, wing",
}


@pytest.fixture
def toy(tmp_path):
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_rooms_are_packages_and_modules_and_each_import_between_them_is_an_arrow(toy) -> None:
    rooms = house.rooms_of(toy / "toy", toy / "other")
    assert rooms == {
        "toy.ground": set(),
        "toy.wing": {"toy.ground"},
        "toy.loop": {"toy.wing"},
        "toy.top": {"toy.loop"},
        "toy.apart": {"toy.ground"},
        "other.speed": {"toy.top", "toy.wing"},
    }
    assert house.circle_in(rooms) == []
    assert house.floors_of(rooms) == {
        "toy.ground": 1, "toy.wing": 2, "toy.apart": 2, "toy.loop": 3, "toy.top": 4, "other.speed": 5,
    }  # fmt: skip


def test_a_circle_is_found_wherever_its_imports_are_written(toy) -> None:
    (toy / "toy/ground.py").write_text("def late():\n    import toy.top")
    rooms = house.rooms_of(toy / "toy", toy / "other")
    circle = house.circle_in(rooms)
    assert set(circle) == {"toy.ground", "toy.wing", "toy.loop", "toy.top"} and circle[0] == circle[-1]
    assert all(after in rooms[before] for before, after in itertools.pairwise(circle))
    with pytest.raises(graphlib.CycleError):
        house.floors_of(rooms)
