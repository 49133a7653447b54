"""Names of members of JSON objects, also of objects and lists within them: ``address.zip``, ``items[].iban``. Pure.

A member whose name has a dot, a bracket or a quote in it is written as JSON text: ``"zip.code"``.
"""

import re
from collections.abc import Sequence

import msgspec

from token_worker.errors import OperatorError
from token_worker.files.columns import Column

_STEP = re.compile(r'(?:("(?:[^"\\]|\\.)*")|([^.\[\]"]+))((?:\[\])*)(?:\.(?!$)|$)', re.DOTALL)


class PathNode:
    """What is to be changed in a value: the value itself, members of it, or elements.

    Attributes:
        path: leads to the value.
        column: place of the column that the value is a cell of.
        members: what is to be changed in members of an object.
        elements: what is to be changed in each element of a list.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.column: int | None = None
        self.members: dict[str, PathNode] = {}
        self.elements: PathNode | None = None

    def member(self, name: str) -> "PathNode":
        """The node of a member."""
        return self.members.setdefault(name, PathNode(joined(self.path, name)))

    def element(self) -> "PathNode":
        """The node of all elements."""
        self.elements = self.elements or PathNode(self.path + "[]")
        return self.elements


def tree(columns: Sequence[Column]) -> PathNode:
    """What is to be changed in a row.

    Raises:
        OperatorError: a name that is none, or that leads to the same value as another or into it.
    """
    root = PathNode("")
    for place, column in enumerate(columns):
        node, at = root, 0
        passed = []
        while at < len(column.name) or node is root:
            step = _STEP.match(column.name, at)
            if step is None:
                raise OperatorError(
                    f"{column.name} is no name of a member: expected one such as email, address.zip or items[].iban;"
                    ' a name with a dot, a bracket or a quote in it is written as JSON text: "zip.code"'
                )
            at = step.end()
            node = node.member(step[2] or _decoded(step[1], column.name))
            passed.append(node)
            for _ in range(len(step[3]) // 2):
                node = node.element()
                passed.append(node)
        if node.members or node.elements or any(it.column is not None for it in passed):
            raise OperatorError(f"column {column.name} is the same as another, or one of them is in the other")
        node.column = place
    return root


def joined(path: str, name: str) -> str:
    """The path of a member of the object at another path."""
    if not name or not name.isprintable() or set(name) & set('.[]"'):
        name = msgspec.json.encode(name).decode()
    return f"{path}.{name}" if path else name


def _decoded(text: str, path: str) -> str:
    try:
        name: str = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise OperatorError(f"{path}: {text} is no JSON text") from None
    return name
