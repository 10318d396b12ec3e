"""What the pages say of files, commands, routes, settings and metrics is so.

`## File map` in docs/architecture.md holds one fenced block of lines `path  description`; the entries of a folder are indented below it.
A path may be a pattern, such as `models/zoo/*`. Every command in a block marked ```bash must be one that exists.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from starlette.routing import Match
from typer.main import get_command

from service.app import create_app
from service.command.cli import app as cli
from service.settings import Settings

ROOT = Path(__file__).parent.parent
UNNAMED = (".*", "*/__init__.py", "*/py.typed")  # need no line of their own, though they may have one
ELSEWHERE = {"git", "cd", "export", "source", "open", "xdg-open", "echo", "sleep", "kill", "cat", "head", "jq"}  # not ours to check


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_README = 160


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text()


def map_rows() -> Iterator[tuple[str, str]]:
    """Path and description of each line of the file map; folders end in a slash."""
    block = re.search(r"^## File map\n.*?^```[a-z]*\n(.*?)^```", page("docs/architecture.md"), re.S | re.M)
    assert block, "docs/architecture.md has no fenced block under '## File map'"
    folders: list[tuple[int, str]] = []  # indentation and path of the folders a line stands in
    for line in filter(str.strip, block[1].splitlines()):
        indent = len(line) - len(line.lstrip())
        while folders and folders[-1][0] >= indent:
            folders.pop()
        name, _, description = line.strip().partition(" ")
        path = (folders[-1][1] if folders else "") + name
        if name.endswith("/"):
            folders.append((indent, path))
        yield path, description.strip()


def files_here() -> list[str]:
    """Files that are tracked, or would be by `git add`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return sorted(path for path in set(run.stdout.splitlines()) if (ROOT / path).is_file())


def test_the_file_map_names_every_file() -> None:
    patterns = [path for path, _ in map_rows() if not path.endswith("/")]
    missing = [path for path in files_here() if not any(fnmatch(path, pattern) for pattern in (*patterns, *UNNAMED))]
    assert not missing


def test_the_file_map_names_nothing_that_is_not_there() -> None:
    present = files_here()
    gone = [path for path, _ in map_rows() if not any(fnmatch(file, path + "*" if path.endswith("/") else path) for file in present)]
    assert not gone


def test_every_line_of_the_file_map_says_something_and_says_it_once() -> None:
    rows = list(map_rows())
    assert not [path for path, description in rows if not description and not path.endswith("/")]
    paths = [path for path, _ in rows]
    assert len(paths) == len(set(paths))


def commands(text: str) -> list[list[str]]:
    """Every command in a page's bash blocks, as words; pipes and lists give one command each, redirections none."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.S | re.M):
        words: list[str] = []
        for word in shell_words(block):
            if set(word) <= set(";|&\n"):
                found.append(words)
                words = []
            elif set(words[-1:]) & {">", ">>", "<"}:
                words.pop()
            else:
                words.append(word)
    return [words for words in map(without_assignments, found) if words]


def shell_words(block: str) -> list[str]:
    text = re.sub(r"(?m)(^|\s)#\s.*$", "", block).replace("\\\n", " ")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    return [*lexer, "\n"]


def without_assignments(words: list[str]) -> list[str]:
    """A command without the `$` of a prompt and the `NAME=value` before it."""
    while words and (words[0] == "$" or re.match(r"\w+=", words[0])):
        words = words[1:]
    return words


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {word for word in words if "=" not in word and not word.startswith("-")}
    assert asked <= targets, f"make has no {asked - targets}"


def check_ebbtide(words: list[str]) -> None:
    command = get_command(cli)
    while words and not words[0].startswith("-") and (known := getattr(command, "commands", None)):
        assert words[0] in known, f"ebbtide has no {words[0]!r}"
        command, words = known[words[0]], words[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    asked = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert asked <= options, f"ebbtide {command.name} has no {asked - options}"


def check_curl(words: list[str]) -> None:
    url = next(word for word in words if re.match(r"(https?://)?(localhost|127\.0\.0\.1)\b", word))
    sends = any(re.match(r"-d|--data|--json|-F|--form", word) for word in words)
    method = next((words[i + 1] for i, word in enumerate(words) if word in ("-X", "--request")), "POST" if sends else "GET")
    path = re.sub(r"\$\{?\w+\}?|\{\w+\}", "0", urlsplit(url if "//" in url else f"//{url}").path) or "/"
    scope = {"type": "http", "path": path, "method": method, "headers": [], "root_path": ""}
    assert any(route.matches(scope)[0] is Match.FULL for route in create_app().routes), f"no route {method} {path}"


def check_docker(words: list[str]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {profile for service in services.values() for profile in service.get("profiles", [])}
    assert words[0] == "compose"
    assert {words[i + 1] for i, word in enumerate(words) if word == "--profile"} <= profiles


def check_python(words: list[str]) -> None:
    if words[0] == "-m" and words[1].partition(".")[0] in ("service", "workers", "models"):
        module = ROOT / words[1].replace(".", "/")
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), words[1]


CHECKS = {
    "make": check_make,
    "ebbtide": check_ebbtide,
    "curl": check_curl,
    "docker": check_docker,
    "python": check_python,
}


RUN_ELSEWHERE = ROOT / "docs" / "extending.md"  # tests/system/test_extending.py runs its commands on the files it adds


@pytest.mark.parametrize("path", [path for path in PAGES if path != RUN_ELSEWHERE], ids=lambda path: path.name)
def test_every_command_on_a_page_exists(path: Path) -> None:
    for program, *words in commands(path.read_text()):
        name = Path(program).name
        if name in CHECKS:
            CHECKS[name](words)
        else:
            assert name in ELSEWHERE, f"nothing here knows {shlex.join([program, *words])!r}"


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M)):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            there = path.parent / file if file else path
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text()), target


def test_the_readme_stays_a_page() -> None:
    assert len(page("README.md").splitlines()) <= LONGEST_README


def test_the_readmes_figures_are_those_of_the_cards() -> None:
    printed = subprocess.run([sys.executable, "docs/tables.py"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert printed.count("\n") > 10
    assert printed in page("README.md")


def test_every_page_is_reached_from_the_readme() -> None:
    assert not [path for path in PAGES[1:] if f"({path.relative_to(ROOT)})" not in page("README.md")]


def test_every_setting_is_explained() -> None:
    explained = set(re.findall(r"`EBBTIDE_([A-Z_]+)`", page("docs/operations.md")))
    names = {name.upper() for name in Settings.model_fields}
    assert not names - explained, "docs/operations.md does not name these settings"


def test_the_default_of_every_setting_is_told_as_it_is() -> None:
    rows = dict(re.findall(r"^\| `EBBTIDE_([A-Z_]+)` \| (.*?) \|", page("docs/operations.md"), re.M))
    for name, field in Settings.model_fields.items():
        if field.default_factory is None and isinstance(field.default, int | float | str) and field.default != "":
            assert rows[name.upper()] == f"`{field.default}`", name


def test_every_metric_is_explained() -> None:
    sources = [path.read_text() for package in ("service", "workers") for path in (ROOT / package).rglob("*.py")]
    exported = {name for source in sources for name in re.findall(r'"(ebbtide_[a-z_]+)"', source)}
    explained = set(re.findall(r"`(ebbtide_[a-z_]+)`", page("docs/operations.md")))
    missing = {name for name in exported if not {name, f"{name}_total"} & explained}
    assert not missing - UNEXPLAINED


UNEXPLAINED = {"ebbtide_build"}


def test_the_version_in_the_changelog_is_the_packages(pytestconfig: pytest.Config) -> None:
    version = re.search(r'^version = "(.+)"', (pytestconfig.rootpath / "pyproject.toml").read_text(), re.M)
    released = re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert version
    assert not released or released[0] == version[1]
