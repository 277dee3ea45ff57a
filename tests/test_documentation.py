"""The documents agree with the code: every default of a setting that they state, the family's table, the map."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import upright
from upright.cli.arguments import Train
from upright.cli.parsing import parse
from upright.environments.packages import package_of
from upright.settings.config import Config
from upright.settings.kinds import KINDS, Munchausen
from upright.settings.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """The head and the rows of each table, as their cells."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
        yield [cell.strip("| ") for cell in head], [[cell.strip("| ") for cell in row] for row in rows]


# The settings of the algorithms' pages


def setting_tables() -> Iterator[Any]:
    for page in PAGES:
        for head, rows in tables(page.read_text(encoding="utf-8")):
            if head[0] == "Field of `Config`":
                yield pytest.param(head, rows, id=page.stem)


def written(value: Any, name: str) -> str:
    """A setting's value as the pages write it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if name == "munchausen":
        return "off" if value is None else "on"
    if value is None:
        return "none"
    if name in KINDS:
        (value,) = (kind for kind, cls in KINDS[name].items() if type(value) is cls)
    if isinstance(value, str):
        return f"`{value}`"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, int) or value.is_integer():
        return f"{value:,.0f}".replace("-", "−")
    text = repr(value)
    if "e" not in text:
        return text.replace("-", "−")
    digits, exponent = text.split("e")
    return f"{digits}e{int(exponent)}"


def value_of(config: Config, name: str, like: Any = None) -> Any:
    """A setting, or one of a setting's own. Where config has another kind than `like`, that of like's by default."""
    setting, _, inner = name.partition(".")
    value = getattr(config, setting)
    if not inner:
        return value
    if like is not None and type(value) is not type(getattr(like, setting)):
        value = type(getattr(like, setting))()
    elif like is None and setting in KINDS and not hasattr(value, inner):  # of a kind that no preset has
        value = next(
            cls for cls in KINDS[setting].values() if inner in {each.name for each in dataclasses.fields(cls)}
        )()
    return getattr(value if value is not None else Munchausen(), inner)


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize(("head", "rows"), setting_tables())
def test_every_default_and_every_presets_value_is_the_codes(head: list[str], rows: list[list[str]]) -> None:
    assert head[1:3] == ["Option", "Default"] and head[-1] == "Paper"
    presets = [PRESETS[quoted(cell)[0]] for cell in head[3:-1]]
    like = presets[0] if presets else None
    for row in rows:
        names, options = quoted(row[0]), quoted(row[1])
        assert options == [f"--{name.replace('_', '-')}" for name in names]
        for cell, config in zip(row[2:-1], [Config(), *presets], strict=True):
            expected = ", ".join(written(value_of(config, name, like), name) for name in names)
            assert re.sub(r" \(.*\)$", "", cell) == expected, row


def published() -> Iterator[Any]:
    """The command and the table of each page's section on Nature's numbers."""
    for page in PAGES:
        _, heading, text = page.read_text(encoding="utf-8").partition("\n## Nature's numbers\n")
        if heading:
            section = text.partition("\n## ")[0]
            (command,) = re.findall(r"```sh\nupright train (.*?)```", section, re.DOTALL)
            ((head, rows),) = tables(section)
            yield pytest.param(command.replace("\\\n", " ").split(), head, rows, id=page.stem)


@pytest.mark.parametrize(("words", "head", "rows"), published())
def test_the_command_for_natures_numbers_has_the_published_ones(words: list[str], head: list[str], rows: Any) -> None:
    assert head == ["Setting", "Preset `dqn`", "Published", "Source"]
    config = parse("train", Train, words).config
    changed = {"--preset"}
    for setting, before, after, source in rows:
        assert source
        for name in quoted(setting):
            changed.add(f"--{name.replace('_', '-')}")
            assert before == written(value_of(PRESETS["dqn"], name, config), name), name
            assert after == written(value_of(config, name), name), name
    assert {word for word in words if word.startswith("--")} <= changed


def test_every_loss_replay_and_preset_has_a_page_with_its_settings() -> None:
    settings = [name for table in setting_tables() for row in table.values[1] for name in quoted(row[0])]
    for setting, kinds in KINDS.items():
        for cls in kinds.values():
            assert {f"{setting}.{field.name}" for field in dataclasses.fields(cls)} <= set(settings)
    (family,) = [
        rows for head, rows in tables((ROOT / "docs" / "README.md").read_text(encoding="utf-8")) if head[0] == "Member"
    ]
    presets = [preset for row in family for preset in quoted(row[-1])]
    assert sorted(presets) == sorted(name for name in PRESETS if name != "default")
    linked = [re.search(r"\((algorithms/[\w-]+\.md)\)", row[1])[1] for row in family]  # type: ignore[index]
    assert sorted(linked) == [f"algorithms/{page.name}" for page in PAGES]


# The packages that are known to work


def known_to_work() -> list[list[str]]:
    """The rows of the tables of commands."""
    text = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    section = text.partition("\n## Known to work\n")[2].partition("\n## ")[0]
    return [row for head, rows in tables(section) if head[1] == "Command" for row in rows]


@pytest.mark.parametrize("row", known_to_work(), ids=lambda row: row[0])
def test_a_command_that_is_known_to_work_can_be_typed(row: list[str]) -> None:
    """Its options are read, and its id is the package's, as typed or with the module that registers it."""
    (command,) = quoted(row[1])
    program, name, source, *options = shlex.split(command)
    assert (program, name) == ("upright", "train") and parse("train", Train, [source, *options])
    package = package_of(source)
    assert (package is None) == (":" in source)
    assert package is None or package.distribution.strip("'").partition("[")[0] == row[0].split()[0]


# What users read


def public_texts() -> Iterator[Any]:
    """The documents, and the docstrings of public names and of what is public in them."""
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.*")):
        yield pytest.param(path.read_text(encoding="utf-8"), id=path.name)
    for name in [*upright.__all__, "Network"]:
        value = getattr(upright, name)
        inside = vars(value) if inspect.isclass(value) else {}
        public = [each for each in inside if not each.startswith("_") or each == "__init__"]
        texts = [value.__doc__, *(getattr(value, each).__doc__ for each in public)]
        yield pytest.param("\n".join(filter(None, texts)), id=name)


@pytest.mark.parametrize("text", public_texts())
def test_what_users_read_names_no_internal_module(text: str) -> None:
    """`upright.load` is for them; `upright.agent.load` is ours to move."""
    source = ROOT / "src" / "upright"
    rooms = {path.stem for path in source.glob("*.py")} | {path.parent.name for path in source.glob("*/__init__.py")}
    assert not re.findall(rf"upright\.(?:{'|'.join(sorted(rooms))})\b", text)


# CONTRIBUTING's map


def test_the_map_names_every_module_and_every_file_of_the_extension_once() -> None:
    """In the first cells of its tables: the wings as `name/`, modules and files by their paths, and nothing else."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("\n## The map of the house\n")[2].partition("\n## ")[0]
    named = sorted(name for _, rows in tables(section) for row in rows for name in quoted(row[0]))
    source, native = ROOT / "src" / "upright", ROOT / "native"
    packages = [f"{path.parent.relative_to(source).as_posix()}/" for path in source.rglob("*/__init__.py")]
    modules = [path.relative_to(source).as_posix() for path in source.rglob("*.py") if path.name != "__init__.py"]
    files = [path.name for path in native.iterdir() if path.suffix in (".cpp", ".h")]
    assert named == sorted([*packages, *modules, *files])
