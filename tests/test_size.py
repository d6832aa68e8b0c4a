import ast
from pathlib import Path

import prn_cli

PACKAGE = Path(prn_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def functions():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(PACKAGE)}: {node.name}", node


def test_no_function_is_longer_than_80_lines():
    lines = {name: node.end_lineno - node.lineno + 1 for name, node in functions()}
    assert lines
    assert {name: count for name, count in lines.items() if count > 80} == {}


def test_no_function_takes_more_than_five_positional_arguments():
    names = {name: [a.arg for a in (*node.args.posonlyargs, *node.args.args)] for name, node in functions()}
    counts = {name: len(found) - (found[:1] in (["self"], ["cls"])) for name, found in names.items()}
    assert {name: count for name, count in counts.items() if count > 5} == {}


def test_no_file_of_a_command_is_longer_than_200_lines():
    lines = {file.name: len(file.read_text("utf-8").splitlines()) for file in (PACKAGE / "commands").glob("*.py")}
    assert lines
    assert {name: count for name, count in lines.items() if count > 200} == {}
