"""What the help calls the values of options: words, for whoever has never read a type annotation."""

import re
from dataclasses import replace

from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

IN_WORDS = {
    r"\{None\}\|": "",
    r"\bFLOAT\b": "NUMBER",
    r"\bINT\b": "INTEGER",
    r"\bSTR\b": "TEXT",
    r"^\{(\w+( \w+)+)\}$": r"\1",  # {NUMBER NUMBER}
    r"^\[(\w+) \[\1 \.\.\.\]\]$": r"[\1 ...]",  # [NUMBER [NUMBER ...]]
}
"""Notation of tyro, as patterns, and what is shown instead."""

Found = PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None


def in_words() -> ConstructorRegistry:
    """Rules for tyro that change how options look in a help, and nothing of what they take."""
    rules, asked = ConstructorRegistry(), set[int]()

    @rules.primitive_rule
    def _(info: PrimitiveTypeInfo) -> Found:
        if id(info) in asked:  # the second time round, for what tyro itself says
            return None
        asked.add(id(info))
        try:
            found = ConstructorRegistry.get_primitive_spec(info)
        finally:
            asked.remove(id(info))
        if isinstance(found, UnsupportedTypeAnnotationError):
            return found
        return replace(found, metavar=_words(found), str_from_instance=lambda value: _default(found, value))

    return rules


def _words(spec: PrimitiveConstructorSpec) -> str:
    metavar = spec.metavar
    for notation, words in IN_WORDS.items():
        metavar = re.sub(notation, words, metavar)
    return metavar


def _default(spec: PrimitiveConstructorSpec, value: object) -> list[str]:
    """How a default is shown."""
    return ["none"] if value in (None, "", ()) else spec.str_from_instance(value)
