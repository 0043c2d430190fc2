"""The mark in a picture's XMP that says that it was restored, so that nobody restores it again.

It is an event in the picture's history, `xmpMM:History` (XMP specification, part 2), which
other programs show and keep.
"""

import re
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from artifact_remover.pictures.jpeg_container import has_document_type
from data_prep import __version__

_MARK = re.compile(rb":softwareAgent\s*(?:=\s*[\"']|>)\s*(artifact-remover [\w.+-]{1,40})\s*[\"'<]")
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XMP_MM = "http://ns.adobe.com/xap/1.0/mm/"
# Every piece declares its prefixes, as those of the packet that it is put into may be others.
_EVENT = (
    f'<rdf:li xmlns:rdf="{_RDF}" xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"'
    f' stEvt:action="restored" stEvt:softwareAgent="artifact-remover {__version__}"/>'
)
_SEQUENCE = f'<rdf:Seq xmlns:rdf="{_RDF}">{_EVENT}</rdf:Seq>'


def read_mark(xmp: bytes | None) -> str | None:
    """Tells which program and version restored a picture, such as "artifact-remover 0.2.0"; None where none did.

    Args:
        xmp: The picture's XMP packet.
    """
    found = _MARK.search(xmp or b"")
    return found[1].decode() if found else None


def with_mark(xmp: bytes | None, longest: int | None = None) -> bytes:
    """Marks a picture as restored by this version, unless it is marked already.

    Args:
        xmp: The picture's XMP packet, of which every byte is kept; an empty XML tag is opened where need be.
        longest: Bytes that the format can hold. For these, the mark takes the place of padding; a packet that fits
            without the mark alone is left unmarked.

    Returns:
        The packet with an event more in the picture's history. Behind a packet that cannot be parsed, or is not UTF-8,
        a second one is put that holds the mark alone.
    """
    if not xmp:
        return _packet(_describe())
    if read_mark(xmp):
        return xmp
    place = _find_place(xmp)
    marked = _insert(xmp, *place) if place else xmp + _packet(_describe())
    if longest and len(marked) > longest >= len(xmp):
        end = marked.rfind(b"<?xpacket end")
        padding = end - len(marked[:end].rstrip())
        excess = len(marked) - longest
        return xmp if excess > padding else marked[: end - excess] + marked[end:]
    return marked


def _describe(about: str = "") -> str:
    history = f"<xmpMM:History>{_SEQUENCE}</xmpMM:History>"
    return (
        f'<rdf:Description xmlns:rdf="{_RDF}" xmlns:xmpMM="{_XMP_MM}" rdf:about={quoteattr(about)}>{history}'
        "</rdf:Description>"
    )


def _packet(content: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}">{content}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _find_place(xmp) -> tuple[int, int, str] | None:
    """Finds the element that the mark goes into: where it starts, where its content ends, and what to put there."""
    path: list[tuple[str, int]] = []
    rdf = None  # its depth, while the parser is in it
    places: dict[str, tuple[int, int, str]] = {}
    abouts: list[str] = []

    def start(name, attributes):
        nonlocal rdf
        if rdf is None and name == f"{_RDF} RDF":
            rdf = len(path)
        path.append((name, parser.CurrentByteIndex))
        if [each for each, _ in path[-2:]] == [f"{_RDF} RDF", f"{_RDF} Description"]:
            abouts.append(attributes.get(f"{_RDF} about", attributes.get("about", "")))

    def end(_):
        nonlocal rdf
        inside = [] if rdf is None else [each for each, _ in path[rdf : rdf + 5]]  # one more than is looked for
        history = inside[1:3] == [f"{_RDF} Description", f"{_XMP_MM} History"]
        _, began = path.pop()
        here = began, parser.CurrentByteIndex
        if history and len(inside) == 4:
            places["sequence"] = *here, _EVENT
        elif history and len(inside) == 3:
            places["history"] = *here, _SEQUENCE
        elif len(inside) == 1:
            places["rdf"] = *here, _describe(*abouts[:1])
            rdf = None

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        if b"\0" not in xmp.rstrip(b"\0") and not has_document_type(xmp):  # or it is UTF-16
            parser.Parse(xmp, True)
    except (expat.ExpatError, ValueError):
        pass  # some packets are followed by zeros, and what counts is before
    return next((places[name] for name in ("sequence", "history", "rdf") if "rdf" in places and name in places), None)


def _insert(xmp, began, end, content) -> bytes:
    content, element = content.encode("ascii", "xmlcharrefreplace"), xmp[began:end]
    if element.endswith(b"/>") and b"<" not in element[1:]:  # the tag is empty, and the parser tells where it ends
        name = re.match(rb"<([^\s/>]+)", element)[1]  # type: ignore[index]
        content = element[:-2].rstrip() + b">" + content + b"</" + name + b">"
        return xmp[:began] + content + xmp[end:]
    return xmp[:end] + content + xmp[end:]
