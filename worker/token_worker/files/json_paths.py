"""Paths to members of JSON objects, and of objects and lists in them: ``address.zip``, ``items[].iban``. Pure.

A name that contains a dot, a bracket or a quote is written as JSON text: ``"zip.code"``.
"""

import re
from collections.abc import Sequence

import msgspec

from token_worker.errors import OperatorError
from token_worker.files.columns import Column

_STEP = re.compile(r'(?:("(?:[^"\\]|\\.)*")|([^.\[\]"]+))((?:\[\])*)(?:\.(?!$)|$)', re.DOTALL)


class PathNode:
    """A node of the tree of paths. It says what to change in a value: the value itself, its members or its elements.

    Attributes:
        path: path to the value.
        column: position of the column, if the value itself is a cell.
        members: nodes of the members to change, if the value is an object.
        elements: node of all elements, if the value is a list.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.column: int | None = None
        self.members: dict[str, PathNode] = {}
        self.elements: PathNode | None = None

    def member(self, name: str) -> "PathNode":
        """Return the node of a member. Create it if necessary."""
        return self.members.setdefault(name, PathNode(joined(self.path, name)))

    def element(self) -> "PathNode":
        """Return the node of all elements. Create it if necessary."""
        self.elements = self.elements or PathNode(self.path + "[]")
        return self.elements


def tree(columns: Sequence[Column]) -> PathNode:
    """Make the tree of the paths of all columns.

    Raises:
        OperatorError: a path is malformed, or one path leads to the same value as another, or into it.
    """
    root = PathNode("")
    for place, column in enumerate(columns):
        node, at = root, 0
        passed = []
        while at < len(column.name) or node is root:
            step = _STEP.match(column.name, at)
            if step is None:
                raise OperatorError(
                    f"{column.name} is not a path to a member: expected a path like email, address.zip or items[].iban;"
                    ' a name that contains a dot, a bracket or a quote is written as JSON text: "zip.code"'
                )
            at = step.end()
            node = node.member(step[2] or _decoded(step[1], column.name))
            passed.append(node)
            for _ in range(len(step[3]) // 2):
                node = node.element()
                passed.append(node)
        if node.members or node.elements or any(other.column is not None for other in passed):
            raise OperatorError(f"column {column.name} is the same as another column, or one is inside the other")
        node.column = place
    return root


def joined(path: str, name: str) -> str:
    """Return the path of a member of the object at a path."""
    if not name or not name.isprintable() or set(name) & set('.[]"'):
        name = msgspec.json.encode(name).decode()
    return f"{path}.{name}" if path else name


def _decoded(text: str, path: str) -> str:
    try:
        name: str = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise OperatorError(f"{path}: {text} is not JSON text") from None
    return name
