"""A text as numbers: its words by their rank in the vocabulary, and the sentence of each."""

import ast
import importlib.util
import re
import warnings
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from program.errors import UserError, one_line, require

PACKAGES = {"numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn"}
NOT_TEXT = {"tests", "externals", "array_api_compat", "array_api_extra"}  # folders, copied in part
TOKEN = re.compile(r"(?P<word>[^\W\d_]+(?:['\u2019][^\W\d_]+)*)|[.!?:;](?=\s)|\n[ \t]*\n")
CODE = re.compile(r"^[ \t]*>>>.*?(?:^[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
# The x of x, x1 or x_train: a letter that is no word.
SYMBOL = re.compile(r"(?<![^\W\d_])[^\W\d_ai](?![^\W\d_])", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?:;])\s|\n[ \t]*\n")


class Corpus(NamedTuple):
    """A text whose words are numbered from the most frequent one on."""

    vocabulary: list[str]
    counts: np.ndarray  # of each word of the vocabulary
    ids: np.ndarray  # the text
    sentences: np.ndarray  # a number for each word of the text; they rise


def read(path: Path) -> str:
    """Reads a text file."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--text {path}: {one_line(error)}; give the path of a text file in UTF-8"
        ) from error


def docstrings(packages: dict[str, str]) -> str:
    """Joins the docstrings of packages, by module name, without code, each sentence once."""
    sentences: dict[str, None] = {}
    for module, package in packages.items():
        require(module, package)
        spec = importlib.util.find_spec(module)
        for docstring in _docstrings_below(Path(spec.origin).parent):
            prose = SENTENCE_END.split(CODE.sub("\n", docstring))
            sentences |= dict.fromkeys(" ".join(SYMBOL.sub(" ", s).split()) for s in prose)
    return "\n\n".join(sentences)


def _docstrings_below(folder: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(folder.rglob("*.py")):
        if NOT_TEXT.intersection(path.relative_to(folder).parts):
            continue
        with warnings.catch_warnings(action="ignore"):  # escapes that will be errors in Python
            tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, documented) and (docstring := ast.get_docstring(node)):
                yield docstring


def numbered(text: str, min_count: int) -> Corpus:
    """Numbers the words of a text that it has `min_count` times or more; the others are left out.

    A sentence ends with a full stop, an exclamation or question mark, a colon, a semicolon or an
    empty line.
    """
    first_seen: dict[str, int] = {}
    ids, sentences, sentence = array("i"), array("i"), 0
    for token in TOKEN.finditer(text):
        if word := token["word"]:
            ids.append(first_seen.setdefault(word.lower(), len(first_seen)))
            sentences.append(sentence)
        else:
            sentence += 1
    words, of_words = np.array(ids, "int32"), np.array(sentences, "int32")
    counts = np.bincount(words, minlength=len(first_seen))
    by_count = np.argsort(-counts, kind="stable")
    chosen = by_count[counts[by_count] >= min_count]
    if len(chosen) < 2:
        raise UserError(
            f"the text has {len(words)} words, and fewer than two of them {min_count} times; give "
            "a longer --text or a smaller --min-count"
        )
    rank = np.full(len(first_seen), -1, "int32")
    rank[chosen] = np.arange(len(chosen))
    known = rank[words] >= 0
    names = list(first_seen)
    vocabulary = [names[i] for i in chosen]
    return Corpus(vocabulary, counts[chosen], rank[words[known]], of_words[known])
