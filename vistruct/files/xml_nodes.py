"""XML annotation files as a tree in which every element knows its line.

Expat reads them, with what makes foreign XML dangerous switched off: a file that declares entities is refused (a few
lines of them can grow to gigabytes), and nothing outside the file is ever loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape

from vistruct.errors import UserError
from vistruct.files.text import decimal, plain_number

_NO_XML = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class Node:
    """One element: its name, its text without the white space around, the elements in it, and its attributes."""

    tag: str
    path: Path
    line: int
    text: str = ""
    children: list[Node] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """File and line, for a message."""
        return f"{self.path}, line {self.line}"

    def find(self, *tags: str) -> Node | None:
        """The first element on a path of names below this one; None: there is none."""
        node = self
        for tag in tags:
            for child in node.children:
                if child.tag == tag:
                    node = child
                    break
            else:
                return None
        return node

    def all(self, tag: str) -> Iterator[Node]:
        """The elements of one name directly below."""
        return (child for child in self.children if child.tag == tag)

    def need(self, *tags: str) -> Node:
        """As `find`.

        Raises:
            UserError: there is none.
        """
        found = self.find(*tags)
        if found is None:
            raise UserError(f"no <{'/'.join(tags)}> in this <{self.tag}>", where=self.where, fix="add it")
        return found

    def number(self, *tags: str) -> float:
        """The number that an element below holds; it may be NaN or infinite.

        Raises:
            UserError: no such element, or no number.
        """
        node = self.need(*tags)
        try:
            return plain_number(node.text)
        except ValueError:
            return decimal(node.text, node.where, f"<{node.tag}>")


def xml_text(text: str) -> str:
    """A text as XML has it between two tags.

    Raises:
        UserError: a control character in it, for which XML has no sign.
    """
    if _NO_XML.search(text):
        raise UserError(f"XML cannot hold a control character: {text!r}", fix="rename it")
    return escape(text)


def read_xml(path: Path) -> Node:
    """The root element of an XML file.

    Raises:
        UserError: no such file, not XML (with line and column), an encoding that expat does not know, or entities.
    """
    path = Path(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    stack = [Node("", path, 0)]

    def start(tag: str, attributes: dict[str, str]) -> None:
        node = Node(tag, path, parser.CurrentLineNumber, attributes=attributes)
        stack[-1].children.append(node)
        stack.append(node)

    def end(tag: str) -> None:
        node = stack.pop()
        node.text = node.text.strip()

    def text(data: str) -> None:
        stack[-1].text += data

    def entity(*declaration: object) -> NoReturn:
        what = "this XML declares entities, which no annotation needs and which can grow to gigabytes"
        raise UserError(what, where=f"{path}, line {parser.CurrentLineNumber}", fix="remove its <!ENTITY ...> lines")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = text, entity
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except FileNotFoundError:
        raise UserError("no such annotation file", where=path, fix="check the path") from None
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", where=path, fix="give a file that you may read") from error
    except expat.ExpatError as error:
        where = f"{path}, line {error.lineno}, column {error.offset + 1}"
        what = f"not valid XML: {expat.errors.messages[error.code]}"
        raise UserError(what, where=where, fix="correct or write the file again") from error
    except (ValueError, LookupError) as error:  # the encoding it names is one of several bytes a letter, or unknown
        where = f"{path}, line {parser.CurrentLineNumber}"
        raise UserError(f"cannot decode this XML: {error}", where=where, fix="save the file as UTF-8") from error
    return stack[0].children[0]
