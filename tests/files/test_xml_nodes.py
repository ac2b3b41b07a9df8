"""XML with line numbers: against ElementTree, and what foreign files can do to a parser."""

from __future__ import annotations

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistruct.errors import UserError
from vistruct.files.xml_nodes import Node, read_xml


def save(folder: Path, text: str | bytes) -> Path:
    path = folder / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def same(node: Node, element: ElementTree.Element) -> None:
    whole = (element.text or "") + "".join(child.tail or "" for child in element)
    assert (node.tag, node.text) == (element.tag, whole.strip())
    assert len(node.children) == len(element)
    for below, child in zip(node.children, element, strict=True):
        same(below, child)


names = st.sampled_from(["a", "object", "x1", "a-b"])
texts = st.sampled_from(["", "1.5", " a &amp; b ", "\n", "é", "<![CDATA[<x>]]>", "<!-- no -->"])
trees = st.recursive(texts, lambda inner: st.lists(st.tuples(names, inner).map(
    lambda pair: f"<{pair[0]} k='v'>{pair[1]}</{pair[0]}>"), max_size=4).map("".join), max_leaves=12)  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_the_tree_is_elementtrees(tmp_path: Path, body: str) -> None:
    path = save(tmp_path, f"<root>{body}</root>")
    same(read_xml(path), ElementTree.parse(path).getroot())


def test_every_element_knows_its_line(tmp_path: Path) -> None:
    root = read_xml(save(tmp_path, "<?xml version='1.0'?>\r\n<a>\r\n\r\n  <b>\r\n<c>1</c></b></a>"))
    assert [root.line, root.need("b").line, root.need("b", "c").line] == [2, 4, 5]
    assert root.need("b", "c").where == f"{tmp_path / 'a.xml'}, line 5"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not valid XML: no element found"),
        ("<a><b></a>", "not valid XML: mismatched tag"),
        ("<a/><b/>", "not valid XML: junk after document element"),
        ("<a>&b;</a>", "not valid XML: undefined entity"),
        (b"<a>\xff</a>", "not valid XML: not well-formed"),
        ("<?xml version='1.0' encoding='gb2312'?><a/>", "cannot decode this XML"),
        ("<?xml version='1.0' encoding='nonsense'?><a/>", "unknown encoding"),
        ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "declares entities"),
        ("<!DOCTYPE a [<!ENTITY x SYSTEM '/etc/passwd'>]><a>&x;</a>", "declares entities"),
        ("<!DOCTYPE a [<!ENTITY % x SYSTEM 'http://127.0.0.1/x'> %x;]><a/>", "declares entities"),
    ],
)
def test_what_is_no_plain_xml_stops_with_its_place(tmp_path: Path, text: str | bytes, what: str) -> None:
    path = save(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_xml(path)
    assert what in caught.value.what
    assert caught.value.where.startswith(f"{path}, line 1")


def test_a_billion_laughs_take_no_time(tmp_path: Path) -> None:
    laughs = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10 if n else 'ha'}'>" for n in range(12))
    path = save(tmp_path, f"<!DOCTYPE a [{laughs}]><a>&l11;</a>")
    started = time.process_time()
    with pytest.raises(UserError, match="declares entities"):
        read_xml(path)
    assert time.process_time() - started < 1


def test_a_foreign_document_type_is_not_loaded(tmp_path: Path) -> None:
    assert read_xml(save(tmp_path, "<!DOCTYPE a SYSTEM 'file:///nowhere/a.dtd'><a>1</a>")).text == "1"


def test_encodings_of_xml_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "iso-8859-1"):
        name = "utf-8" if encoding == "utf-8-sig" else encoding
        assert read_xml(save(tmp_path, f"<?xml version='1.0' encoding='{name}'?><a>é</a>".encode(encoding))).text == "é"


def test_deep_nesting_is_no_harm(tmp_path: Path) -> None:
    assert read_xml(save(tmp_path, "<a>" * 10_000 + "</a>" * 10_000)).tag == "a"


def test_no_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such annotation file"):
        read_xml(tmp_path / "b.xml")
    with pytest.raises(UserError, match="cannot read"):
        read_xml(tmp_path)
