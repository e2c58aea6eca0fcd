"""Shows docstrings in Keras' style as they are meant: an extension of griffe, which reads them.

Keras sets an example at the margin below the line `Example:`; griffe wants it indented, and its
section named `Examples:`. What Keras says under `Returns:` is prose; griffe looks for a type in it.
"""

import re
import textwrap

import griffe

_EXAMPLE = re.compile(r"^Example:\n\n((?:.+(?:\n|$))+)", re.MULTILINE)
_RETURNS = re.compile(r"^Returns:\n((?: +.+(?:\n|$))+)", re.MULTILINE)


class KerasDocstrings(griffe.Extension):
    """Rewrites the sections `Example` and `Returns`."""

    def on_object(self, *, obj, **kwargs):
        """Rewrites the docstring of one class, function or attribute."""
        if obj.docstring:
            text = _EXAMPLE.sub(_as_section, obj.docstring.value)
            obj.docstring.value = _RETURNS.sub(_as_prose, text)


def _as_section(match):
    return "Examples:\n" + textwrap.indent(match[1], "    ")


def _as_prose(match):
    return "**Returns:**\n\n" + textwrap.dedent(match[1])
