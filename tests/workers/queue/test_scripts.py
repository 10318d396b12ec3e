"""The Lua scripts: a real Valkey compiles each, and their syntax trees show what it does not check before a line runs."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from luaparser import ast as lua
from luaparser import astnodes as nodes

from workers.queue import scripts

ROOT = Path(__file__).parents[3]
FILES = {path.stem: path.read_text() for path in scripts.FOLDER.rglob("*.lua")}
PYTHON = [path for folder in ("models", "workers", "service", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
GIVEN = {"redis", "cjson", "KEYS", "ARGV", "math", "string", "table", "ipairs", "pairs", "next", "tonumber", "unpack"}
FUNCTIONS = (nodes.LocalFunction, nodes.Function, nodes.AnonymousFunction, nodes.Method)


def called() -> Iterator[str]:
    """The scripts that Python code runs: the names in calls of `script`."""
    for path in PYTHON:
        for node in [] if path.is_relative_to(ROOT / "tests") else ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "script":
                yield ast.literal_eval(node.args[0])


CALLED = sorted(set(called()))


def free(node: object, known: frozenset[str] = frozenset()) -> Iterator[str]:
    """The names a piece of Lua uses that are no local variable there; those it assigns to end in `=`."""
    match node:
        case list():
            yield from chain.from_iterable(free(each, known) for each in node)
        case nodes.Block():
            for statement in node.body:
                if isinstance(statement, nodes.LocalFunction):
                    known |= {statement.name.id}  # it may call itself
                yield from free(statement, known)
                if isinstance(statement, nodes.LocalAssign):
                    known |= {target.id for target in statement.targets}
        case nodes.LocalAssign():
            yield from free(node.values, known)
        case nodes.Assign():
            yield from (f"{target.id}=" for target in node.targets if isinstance(target, nodes.Name) and target.id not in known)
            yield from free([node.targets, node.values], known)
        case nodes.Function() | nodes.Method():
            yield f"{lua.to_lua_source(node.name)}="  # `function f()` without `local` is global
        case nodes.LocalFunction() | nodes.AnonymousFunction():
            yield from free(node.body, known | {argument.id for argument in node.args if isinstance(argument, nodes.Name)})
        case nodes.Fornum():
            yield from free([node.start, node.stop, node.step], known)
            yield from free(node.body, known | {node.target.id})
        case nodes.Forin():
            yield from free(node.iter, known)
            yield from free(node.body, known | {target.id for target in node.targets})
        case nodes.Index():
            yield from free([node.value] if node.notation is nodes.IndexNotation.DOT else [node.value, node.idx], known)
        case nodes.Field():
            yield from free([node.key, node.value] if node.between_brackets else node.value, known)
        case nodes.Invoke():
            yield from free([node.source, node.args], known)
        case nodes.Name():
            yield from () if node.id in known else (node.id,)
        case nodes.Node():
            yield from free([value for name, value in vars(node).items() if not name.startswith("_") and name != "comments"], known)


@pytest.mark.parametrize("name", CALLED)
def test_a_script_compiles(name, redis):
    redis.script_load(scripts.script(name))


@pytest.mark.parametrize("name", CALLED)
def test_a_script_uses_no_global_but_those_redis_gives_and_sets_none(name):
    assert set(free(lua.parse(scripts.script(name)))) <= GIVEN


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("local a = 1; a.x = a.y; a = {b = 1, [c] = 2, 3}", {"c"}),
        ("local function f(x, ...) return f(x), y, ... end", {"y"}),
        ("function f() end; local x = x", {"f=", "x"}),
        ("for i, v in pairs(t) do i = v end; i = v", {"pairs", "t", "i=", "i", "v"}),
        ("for i = 1, n do local z = i end; return function(k) return k[i] end, z:rep(2)", {"n", "i", "z"}),
        ("if a then local b = 1 elseif b then c() else return -d end", {"a", "b", "c", "d"}),
        ("while a and not b do t[#k .. 'x'] = 1 end", {"a", "b", "t", "k"}),
    ],
)
def test_globals_are_found(source, found):
    assert set(free(lua.parse(source))) == found


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_function_is_longer_than_40_lines(name):
    functions = [node for node in lua.walk(lua.parse(FILES[name])) if isinstance(node, FUNCTIONS)]
    assert not [node.line for node in functions if node.last_token.line - node.first_token.line >= 40]
    assert len(FILES[name].splitlines()) < 300


def test_every_piece_that_is_named_exists_and_every_file_is_used():
    pieces = {piece for text in FILES.values() for piece in scripts.included(text)}
    assert CALLED
    assert not pieces & set(CALLED)
    assert pieces | set(CALLED) == set(FILES)


def test_every_function_of_a_piece_is_called():
    whole = [lua.parse(text) for text in FILES.values()]
    defined = {node.name.id for tree in whole for node in lua.walk(tree) if isinstance(node, nodes.LocalFunction)}
    used = {node.func.id for tree in whole for node in lua.walk(tree) if isinstance(node, nodes.Call) and isinstance(node.func, nodes.Name)}
    assert defined <= used


def test_an_include_that_is_only_a_comment_further_down_is_none():
    assert scripts.included("-- include: clock many\nlocal a = 1") == ["clock", "many"]
    assert scripts.included("local a = 1\n-- include: clock") == []


def test_a_piece_that_several_others_need_stands_in_a_script_once():
    assert [scripts.script("submit").count(f"local function {name}(") for name in ("clock", "many", "give_turn")] == [1, 1, 1]


def test_python_holds_no_lua():
    wanted = "redis" + ".call("
    assert not [path for path in PYTHON if wanted in path.read_text()]
