"""The lines of code of a training step: of the methods that make it, and of what they call."""

import ast
import io
import tokenize

STEPS = ("train_step", "multi_gradient_step", "closed_form_gradient", "estimate_gradient")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def step_lines(source):
    """Counts the lines of the first method in `STEPS` that there is, and of what it calls.

    A line counts if it has code: not blank, a comment or a docstring alone. What is called is
    looked for in the same file: methods of the class and of its bases by `self.name`, and functions
    by their names; what these call too.

    Args:
        source: String, the source code of a module.

    Returns:
        The number of lines, or `None` if there is no such method.
    """
    tree = ast.parse(source)
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for cls in classes.values():
        methods = methods_of(cls, classes)
        step = next((methods[name] for name in STEPS if name in methods_of(cls, {})), None)
        if step is not None:
            lines = set()
            for function in called(step, methods, functions):
                lines |= set(range(function.lineno, function.end_lineno + 1)) - docstring(function)
            return len(lines & lines_of_code(source))
    return None


def methods_of(cls, classes):
    """The methods of a class and of those of its bases that are in the file, by name."""
    found = {}
    for base in reversed(cls.bases):
        if isinstance(base, ast.Name) and base.id in classes:
            found |= methods_of(classes[base.id], classes)
    return found | {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}


def called(step, methods, functions):
    """The step and all that it calls, directly or not."""
    found, waiting = [], [step]
    while waiting:
        function = waiting.pop()
        if function in found:
            continue
        found.append(function)
        names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", None) == "self":
                waiting += [methods[node.attr]] if node.attr in methods else []
        waiting += [functions[n.id] for n in names if n.id in functions and n.id not in own]
    return found


def docstring(function):
    """The lines of the docstrings of a function and of those inside it."""
    lines = set()
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def lines_of_code(source):
    """The numbers of the lines that hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines
