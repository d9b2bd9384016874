"""The Python reference: pages made from the docstrings of public names, without importing anything."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signatures import class_line, fenced, signature

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("bridge_core", "bridge_torch", "bridge_flax")

HEAD = """# Python reference

Every public name that programs and plugins use, made from the docstrings. The names of `bridge_core` itself
are those that most programs need; the other pages are for authors of [plugins](../plugins/index.md) and
for live models. What does not change from version to version: [compatibility](../compatibility.md).

Nothing is loaded before it is used: `import bridge_core` imports neither torch nor JAX.
"""


@dataclass(frozen=True)
class Room:
    """One page: the public names of a package.

    Args:
        module: The package that the page is about.
        title: What the page is about, in a few words.
        without: Names that the rooms of ckptbridge use among themselves.
        more: Modules whose functions the page has, too.
        also: Names of other packages that the page has, too: (package, name).
    """

    module: str
    title: str
    without: str = ""
    more: tuple[str, ...] = ()
    also: tuple[tuple[str, str], ...] = ()

    @property
    def page(self) -> str:
        """The name of the page."""
        return f"{self.module.removeprefix('bridge_core.')}.md"


ROOMS = (
    Room(
        "bridge_core",
        "convert, plan, open, save, rules",
        also=(
            ("bridge_core.rules.options", "Options"),
            ("bridge_core.transfer", "Comparison"),
            ("bridge_core.io", "parse_json"),
            ("bridge_core.io", "SourceFolder"),
            ("bridge_core.io", "FileSystem"),
            ("bridge_core.io", "WritableFileSystem"),
            ("bridge_core.io", "CommitsFolders"),
            ("bridge_core.io", "RemoteEntry"),
            ("bridge_core.io", "RangeAnswer"),
        ),
    ),
    Room("bridge_core.errors", "what every error and warning holds", without="about_tensor"),
    Room("bridge_torch", "PyTorch: live models and state dicts"),
    Room("bridge_flax", "Flax and JAX: live models, variables and templates"),
    Room(
        "bridge_core.plugins",
        "hooks, the registry, frameworks, libraries, recipes",
        without="branches_of cause_of check_recorded_layers closed_with composite_layers given_registry "
        "guarded_state guarded_system held_layers is_interrupt missing_provider names_of plugin_failures "
        "providers_of random_state_of SETTING_NAMES undecided_problem undetermined_layout unnamed_parts "
        "weights_of",
        more=("bridge_core.plugins.hookspecs",),
    ),
    Room(
        "bridge_core.layers",
        "layer kinds, and how a framework stores them",
        without="agrees check_transforms cut_of describes Factors fits from_neutral_ops leaves_of part_ops "
        "part_shape same_order splits_agree stated_splits to_neutral_ops",
    ),
    Room(
        "bridge_core.formats",
        "file formats, and what they are built from",
        without="describe_foreign index_text is_index open_sharded partition shard_name shard_state ShardName"
        " STORED",
    ),
    Room("bridge_core.testing", "contract tests and strategies for plugins"),
)


def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module or a package."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(module: str) -> dict[str, tuple[str, str]]:
    """Return what a module imports by ``from``: its name -> the module it comes from, and its name there."""
    return {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }


def defined_at(module: str, name: str) -> str:
    """Return the path of the definition that a public name of a module stands for."""
    names = imported(module)
    while name in names:
        module, name = names[name]
        names = imported(module)
    return f"{module}.{name}"


def public_names(module: str) -> list[str]:
    """Return the public names of a package, in the order of people."""
    tree = parsed(module)
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if listed:
        return sorted(listed[0], key=str.lower)
    words: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "exports" and len(node.args) > 1:
            words += " ".join(ast.literal_eval(node.args[1]).values()).split()
    return sorted(words, key=str.lower)


class Reference:
    """The pages, and where each definition has its entry."""

    def __init__(self) -> None:
        import griffe  # only the environment that builds the site has it

        loader = griffe.GriffeLoader(search_paths=[str(ROOT)], docstring_parser="google")
        self._packages = {name: loader.load(name) for name in PACKAGES}
        self._entries: dict[str, tuple[str, str, str]] = {}
        # A name of several packages has its entry on the page of the innermost one.
        for room in sorted(ROOMS, key=lambda room: room.module.count(".")):
            for name in public_names(room.module):
                if name not in room.without.split():
                    self._entries[defined_at(room.module, name)] = (room.page, f"{room.module}.{name}", name)
            for module, name in room.also:
                path = (
                    f"{module}.{name}" if module.count(".") == 1 else name
                )  # rooms are seen through packages
                self._entries[defined_at(module, name)] = (room.page, path, name)

    def pages(self) -> dict[str, str]:
        """Return the text of each page."""
        index = [HEAD]
        texts = {}
        for room in ROOMS:
            own, other = [], []
            for name in public_names(room.module):
                if name not in room.without.split():
                    place = defined_at(room.module, name)
                    (own if self._entries[place][0] == room.page else other).append((name, place))
            own += [(name, defined_at(module, name)) for module, name in room.also]
            for module in room.more:
                functions = [found.name for found in self._at(module).functions.values()]
                own += [(name, f"{module}.{name}") for name in functions]
            index += [f"\n## [{room.module}]({room.page})\n", f"{room.title[0].upper()}{room.title[1:]}.\n"]
            index += [f"- {self._line(name, place, room.page)}" for name, place in (*own, *other)]
            texts[room.page] = self._page(room, own, other)
        texts["README.md"] = "\n".join(index) + "\n"
        return texts

    def _at(self, place: str) -> Any:
        package, *parts = place.split(".")
        found: Any = self._packages[package]
        for part in parts:
            found = found.members[part]
        return found

    def _line(self, name: str, place: str, page: str) -> str:
        page, _, name = self._entries.get(place, (page, "", name))
        summary = self._prose(summary_of(self._at(place)), page="README.md")
        return f"[`{name}`]({page}#{name.lower()}){': ' if summary else ''}{summary}"

    def _page(self, room: Room, own: list[tuple[str, str]], other: list[tuple[str, str]]) -> str:
        parts = [f"# {room.module}"]
        text = self._at(room.module).docstring
        if text is not None:
            parts.append(self._text(text.value, room.page))
        if other:
            places = [f"[`{name}`]({self._entries[place][0]}#{name.lower()})" for name, place in other]
            parts.append(f"Described on other pages: {', '.join(places)}.")
        for name, place in own:
            path = self._entries[place][1] if place in self._entries else f"{room.module}.{name}"
            parts += [f"## {name}", *self._entry(self._at(place), path, room.page)]
        return "\n\n".join(parts) + "\n"

    def _entry(self, found: Any, path: str, page: str) -> Iterator[str]:
        """Yield the paragraphs about a class, a function or a value."""
        name = path.removeprefix("bridge_core.plugins.hookspecs.")
        if found.is_attribute:
            yield fenced("pyi", f"{name}: {found.annotation}" if found.annotation else name)
            if found.docstring:
                yield self._text(found.docstring.value, page)
            return
        yield fenced("pyi", class_line(found, name) if found.is_class else signature(found, name))
        yield from self._docstring(found, page)
        if found.is_class:
            members = [
                member
                for member in found.members.values()
                if not member.name.startswith("_") and not member.is_alias and member.docstring
            ]
            tests = [member for member in members if member.name.startswith("test_")]
            for member in members:
                if member in tests:
                    continue
                yield f"### {found.name}.{member.name}"
                if member.is_attribute:
                    yield fenced("pyi", f"{member.name}: {member.annotation or 'Any'}")
                else:
                    yield fenced("pyi", signature(member, member.name))
                yield from self._docstring(member, page)
            if tests:
                yield "**Tests**"
                lines = (f"- `{test.name}`: {self._prose(summary_of(test), page)}" for test in tests)
                yield "\n".join(lines)

    def _docstring(self, found: Any, page: str) -> Iterator[str]:
        if found.docstring is None:
            return
        for section in found.docstring.parse("google", warnings=False):
            kind, value = section.kind.value, section.value
            if kind == "text":
                yield self._text(value, page)
            elif kind in ("parameters", "attributes", "raises", "returns", "yields", "warns"):
                title = {"parameters": "Arguments"}.get(kind, kind.capitalize())
                yield f"**{title}**"
                yield "\n".join(self._item(one, kind, page) for one in value)
            elif kind == "examples":
                yield from (self._text(text, page) for _, text in value)
            elif kind == "admonition":
                yield f"**{section.title or value.kind.capitalize()}**"
                yield self._text(value.contents, page)
            else:
                raise SystemExit(f"{found.path}: a section of docstrings that is not known: {kind}")

    def _item(self, one: Any, kind: str, page: str) -> str:
        name = str(one.annotation) if kind in ("raises", "warns") else one.name
        text = self._prose(" ".join(one.description.split()), page)
        shown = self._linked(name, page) if kind in ("raises", "warns") else f"`{name}`"
        return f"- {shown}: {text}" if name else f"- {text}"

    def _text(self, text: str, page: str) -> str:
        """Return a text of a docstring as Markdown: its examples and literal blocks as blocks of code."""
        blocks, result = re.split(r"\n\s*\n", inspect.cleandoc(text)), []
        literal = False
        for block in blocks:
            lines = block.splitlines()
            if lines[0].startswith(">>>"):
                result.append(fenced("pycon", block))
                literal = False
            elif literal and all(line.startswith(" ") for line in lines):
                result.append(f"\0{block}")
            else:
                prose, _, example = block.partition("\n>>>")
                literal = prose.rstrip().endswith("::")
                if literal:
                    prose = prose.rstrip()[:-1]
                result.append(self._prose(prose, page))
                if example:
                    result.append(fenced("pycon", f">>>{example}"))
        return "\n\n".join(joined(result))

    def _prose(self, text: str, page: str) -> str:
        """Return a paragraph, with names in code, linked to their entries where they have one."""
        parts = re.split(r"(``.+?``|`[^`]+`)", text, flags=re.DOTALL)
        shown = []
        for part in parts:
            if part.startswith("``"):
                shown.append(f"`{' '.join(part[2:-2].split())}`")
            elif part.startswith("`"):
                shown.append(self._linked(part.strip("`"), page))
            else:
                shown.append(re.sub(r"(?<!\\)([*<]|(?<!\w)_)(?=\S)", r"\\\1", part))
        return "".join(shown)

    def _linked(self, name: str, page: str) -> str:
        """Return a name as code, linked to its entry if it has one on some page."""
        for target, path, short in self._entries.values():
            if name in (path, short):
                return f"[`{name}`]({'' if target == page else target}#{short.lower()})"
        return f"`{name}`"


def joined(parts: list[str]) -> list[str]:
    """Return paragraphs, where the parts of one literal block are one block of code."""
    result: list[str] = []
    literal: list[str] = []
    for part in [*parts, ""]:
        if part.startswith("\0"):
            literal.append(part[1:])
            continue
        if literal:
            code = inspect.cleandoc("\n" + "\n\n".join(literal))
            result.append(fenced("toml" if code.startswith("[") else "pyi", code))
            literal = []
        if part:
            result.append(part)
    return result


def summary_of(found: Any) -> str:
    """Return the first sentence of a docstring, in one line."""
    text = found.docstring.value if found.docstring else ""
    return " ".join(text.split("\n\n")[0].split())
