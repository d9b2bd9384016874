"""Every fenced block of every page runs, here or in a test that this module names (see `support.guides`)."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path

import click
import numpy as np
import pytest
from support.guides import blocks_of, commands_of, parse_blocks, run_blocks
from support.page_files import FILES

from bridge_core import save_state
from bridge_core.cli import main

ROOT = Path(__file__).parents[2]
FOLDERS = (".", ".github", "benchmarks", "docs", "docs/**", "plugins/*")
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in FOLDERS
    for path in sorted(ROOT.glob(f"{folder}/*.md"))
}

OWN_TESTS = {
    "docs/coming-from-transformers.md": "plugins/ckptbridge-transformers/tests/test_guide.py",
    "docs/from-jax-training.md": "tests/journeys/test_from_jax_training.py",
    "docs/pi0.md": "tests/journeys/test_pi0.py",
    "docs/plugins/index.md": "tests/journeys/test_write_a_plugin_package.py",
    "docs/plugins/write-a-file-system.md": "tests/journeys/test_write_a_plugin_file_system.py",
    "docs/plugins/write-a-format.md": "tests/journeys/test_write_a_plugin_format.py",
    "docs/plugins/write-a-framework.md": "tests/journeys/test_write_a_plugin_framework.py",
    "docs/plugins/write-a-layer.md": "tests/journeys/test_write_a_plugin_layer.py",
    "docs/plugins/write-a-library.md": "tests/journeys/test_write_a_plugin_library.py",
    "docs/port-a-model.md": "tests/journeys/test_port_a_model.py",
    "docs/prove-a-port.md": "tests/journeys/test_prove_a_port.py",
    "docs/right-or-refused.md": "tests/journeys/test_promise.py",
    "docs/rules.md": "tests/journeys/test_rules_page.py",
    "docs/tiny-models.md": "plugins/ckptbridge-transformers/tests/test_tiny_models.py",
    "docs/write-a-recipe.md": "tests/journeys/test_write_a_recipe.py",
    "plugins/ckptbridge-hdf5/README.md": "plugins/ckptbridge-hdf5/tests/test_readme.py",
    "plugins/ckptbridge-orbax/README.md": "plugins/ckptbridge-orbax/tests/test_readme.py",
}
"""Page -> the test that runs all of its blocks but those of ``sh``, since it has more to check."""

MADE = {"docs/errors.md": "tests/pages/errors.py"}
"""Page -> the script that makes it and runs its Python; commands in its text are run here."""

SLOW = {"docs/match-two-models.md", "docs/maxtext.md", "docs/neutral-form.md", "docs/port-resnet.md"}
"""Pages that take more than a second, imports not counted."""

INSTALLS, LONG, YOURS = "installs packages", "takes minutes", "the reader's own files"
SERVER = "needs a server"
IN_ITS_TEST = "the page's own test runs it"
SHELL, RELEASE = "changes the reader's shell", "makes a release"
NOT_RUN = {
    ".github/CONTRIBUTING.md": {"python3 -m venv": INSTALLS},
    "README.md": {"python3 -m venv": INSTALLS, "ckptbridge inspect": YOURS},
    "benchmarks/README.md": {"pip install": LONG},
    "docs/coming-from-transformers.md": {"pip install": INSTALLS},
    "docs/command-line.md": {"": YOURS},
    "docs/contributing.md": {"git clone": INSTALLS},
    "docs/from-jax-training.md": {"pip install": INSTALLS},
    "docs/install.md": {"pip ": INSTALLS, "mkdir -p": SHELL, "fpath=": SHELL},
    "docs/maxtext.md": {"pip install": INSTALLS},
    "docs/pi0.md": {"pip install": INSTALLS},
    "docs/plugins/index.md": {"pip install": INSTALLS},
    "docs/plugins/write-a-file-system.md": {"pytest": IN_ITS_TEST},
    "docs/plugins/write-a-framework.md": {"pytest": IN_ITS_TEST},
    "docs/plugins/write-a-layer.md": {"pytest": IN_ITS_TEST},
    "docs/plugins/write-a-library.md": {"pytest": IN_ITS_TEST},
    "docs/recipes.md": {"ckptbridge recipes": YOURS},
    "docs/releasing.md": {".ci/release": RELEASE, "git tag": RELEASE},
    "docs/remote.md": {"ckptbridge ": SERVER},
    "docs/start.md": {"pip install": INSTALLS},
    "plugins/ckptbridge-hdf5/README.md": {"pip install": INSTALLS, "ckptbridge convert": YOURS},
    "plugins/ckptbridge-orbax/README.md": {"pip install": INSTALLS, "ckptbridge inspect": YOURS},
    "plugins/ckptbridge-recipes/README.md": {"pip install": INSTALLS},
    "plugins/ckptbridge-remote/README.md": {"pip install": INSTALLS, "ckptbridge inspect": YOURS},
    "plugins/ckptbridge-transformers/README.md": {"pip install": INSTALLS},
}
"""Page -> how blocks of ``sh`` begin whose commands are only read -> why they are not run."""


@cache
def page_blocks(name):
    return tuple(blocks_of(PAGES[name]))


def is_read_only(name, block):
    """Return whether a block of a page is one of those that are not run."""
    return block[0] == "sh" and any(block[1].startswith(start) for start in NOT_RUN.get(name, ()))


RUN_HERE = [name for name in PAGES if name not in OWN_TESTS and page_blocks(name)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in RUN_HERE]
)
def test_every_block_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FILES.get(name, lambda: None)()
    blocks = [block for block in page_blocks(name) if not is_read_only(name, block)]
    run_blocks([block for block in blocks if name not in MADE or block[0] == "console"], name)


@pytest.mark.parametrize("name", OWN_TESTS)
def test_a_page_with_its_own_test_is_run_there(name):
    text = (ROOT / OWN_TESTS[name]).read_text(encoding="utf-8")
    assert f'"{Path(name).name}"' in text
    assert re.search(r"run_blocks\(|doctest\.testfile\(|test_the_example_is_what_happens", text)
    assert [block for block in page_blocks(name) if block[0] == "sh" and not is_read_only(name, block)] == []


def test_what_is_not_run_is_read():
    for name, reasons in NOT_RUN.items():
        for start in reasons:
            matching = [text for lang, text in page_blocks(name) if lang == "sh" and text.startswith(start)]
            assert matching, (name, start)
            for text in matching:
                assert wrong_words(text) == [], name


def test_the_tables_name_pages_that_exist():
    assert all((ROOT / script).exists() for script in MADE.values())
    for table in (OWN_TESTS, MADE, NOT_RUN, FILES, SLOW):
        assert [name for name in table if name not in PAGES] == []
    assert len(RUN_HERE) > 10


USUAL = ("cd", "fpath=(~/.zfunc", "git", "mkdir", "pre-commit", "pytest", "python3")
"""Programs of which nothing is read."""


def wrong_words(text):
    """Return what is wrong in commands that are not run: names of commands, options, packages and files."""
    wrong = []
    text = re.sub(r"\$[A-Z_]+\b", "1", text)  # a number that a scheduler sets
    for line in commands_of(text):
        words = list(itertools.dropwhile(re.compile(r"_?[A-Z_]+=").match, line))
        program, words = words[0].removeprefix(".venv/bin/"), words[1:]
        if program == "ckptbridge":
            problem = wrong_command(itertools.takewhile(lambda word: word != ">", words))
            wrong += [f"{shlex.join(words)}: {problem}"] if problem else []
        elif program == "pip":
            wrong += [word for word in words if word.startswith("ckptbridge") and not is_offered(word)]
            wrong += [n for n in words if n.startswith(("plugins/", ".ci/")) and not (ROOT / n).exists()]
        elif program == "python":
            wrong += [name for name in words[:1] if not name.startswith("-") and not (ROOT / name).exists()]
        elif program.startswith((".ci/", ".site/")):
            wrong += [] if (ROOT / program).exists() else [program]
        else:
            wrong += [] if program in USUAL else [program]
    return wrong


def is_offered(requirement):
    """Return whether one of our distributions has the name and the extras of a requirement."""
    name, extras = re.fullmatch(r"([a-z0-9-]+)(?:\[(.*)\])?", requirement).groups()
    project = ROOT / (f"plugins/{name}" if name != "ckptbridge" else "") / "pyproject.toml"
    if not project.exists():
        return False
    offered = tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("optional-dependencies", {})
    return set(extras.split(",") if extras else ()) <= set(offered)


def wrong_command(words):
    """Return why the command cannot read its words; None if it can."""
    command, name, words = main, "ckptbridge", list(words)
    try:
        while True:
            context = command.make_context(name, list(words), resilient_parsing=True)
            if not isinstance(context.command, click.Group):
                break
            _, words, _ = context.command.make_parser(context).parse_args(list(words))
            if not words:
                return None
            name, command, rest = context.command.resolve_command(context, words)
            if command is None:
                return f"no command {words[0]}"
            words = rest
        with contextlib.suppress(click.exceptions.Exit):
            command.make_context(name, words)
    except click.ClickException as err:
        return err.format_message()
    return None


# -- what fails -------------------------------------------------------------------------------------

GOOD = """
```python
import numpy as np
import bridge_core

x = np.arange(3)  # -> array([0, 1, 2])
x.sum() + \\
    1
# -> np.int64(4)
for n in range(2):
    {"a": 1, "b": [2, 3]}
    # -> {'a': 1,
    # -> 'b': ...}
print(x)
```

```text
[0 1 2]
```

```python
# part/own.py
NUMBER = 3
```

```json title="config.json"
{"layers": 2}
```

```python
>>> import part.own
>>> part.own.NUMBER
3
```

- in a list:

  ```console
  $ cat config.json
  {"layers": 2}
  $ python part/own.py
  $ ckptbridge inspect no.safetensors
  error: no.safetensors: ...
  $ ckptbridge inspect model.safetensors
  ...
  a     float32  [2]    8
  ...
  ```

```sh
ckptbridge inspect model.safetensors    # a comment
```

```toml
[[rule]]
source = "a.*"
rename = "b.*"
```
"""
WRONG = {
    "a value": ("array([0, 1, 2])", "array([0, 1, 3])"),
    "a value in a loop": ("'b': ...}", "'c': ...}"),
    "a value after lines": ("np.int64(4)", "np.int64(5)"),
    "a value that is not reached": ("range(2)", "range(0)"),
    "what is printed": ("[0 1 2]\n```", "[0 1]\n```"),
    "what is printed and not shown": ("```text\n[0 1 2]\n```", ""),
    "a doctest": (">>> part.own.NUMBER\n3", ">>> part.own.NUMBER\n4"),
    "a file": ("# part/own.py", "# part/other.py"),
    "what a command prints": ("[2]    8", "[2]    9"),
    "an exit code": ("error: no.safetensors: ...", "..."),
    "a shell command": ("# a comment", "--no-such-option"),
    "data": ('rename = "b.*"', 'rename = "c.*'),
    "a rule": ('rename = "b.*"', 'renamed = "b.*"'),
    "JSON": ('```json title="config.json"', "```json\n{"),
    "a language": ("```sh", "```ruby"),
    "no language": ("```sh", "```"),
    "an open block": ('rename = "b.*"\n```', 'rename = "b.*"'),
    "a comment without a value": ("print(x)", "# -> 5\nprint(x)"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_state({"a": np.ones(2, np.float32)}, "model.safetensors")


@pytest.mark.usefixtures("folder")
def test_a_page_that_is_right_runs():
    run_blocks(parse_blocks(GOOD), "page")
    assert json.loads(Path("config.json").read_text()) == {"layers": 2}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_a_page_is_found(what):
    old, new = WRONG[what]
    assert GOOD.count(old) == 1
    with pytest.raises(Exception, match=r".") as caught:
        run_blocks(parse_blocks(GOOD.replace(old, new)), "page")
    assert caught.type is not KeyError


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("number", [3, 4])
def test_tests_of_a_page_run(number):
    Path("test_page.py").write_text(f"def test_one(tmp_path):\n    assert {number} == 3\n")
    right = pytest.raises(AssertionError, match="exit code 1") if number == 4 else contextlib.nullcontext()
    with right:
        run_blocks(parse_blocks("```sh\npytest -q test_page.py\n```"), "page")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install ckptbridge ckptbridge-hdf5\nckptbridge convert a b --to flax --max-shard-size 5GB", 0),
        ("ckptbridge rules check r.toml && ckptbridge --plugin a plugins", 0),
        ("ckptbridge convert a b --to flax --overwite", 1),
        ("ckptbridge convrt a b --to flax", 1),
        ("ckptbridge rules chek r.toml", 1),
        ("ckptbridge convert a b --to flax --workers many", 1),
        ("ckptbridge convert a --to flax", 1),
        ("pip install ckptbridge-hdf6 ckptbridge[nothing]", 2),
        ("_CKPTBRIDGE_COMPLETE=bash_source ckptbridge > file && ckptbridge --version", 0),
        ("python benchmarks/none.py\n.ci/none\nbrew install x", 3),
    ],
)
def test_wrong_words_in_commands_are_found(text, wrong):
    assert len(wrong_words(text)) == wrong
