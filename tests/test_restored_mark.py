import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from artifact_remover import __version__
from artifact_remover.decision import Decision
from artifact_remover.pictures.picture import FORMATS, decode_picture
from artifact_remover.pictures.restored_mark import read_mark, with_mark
from artifact_remover.restore_picture import RestoredPicture, write_restored
from tests.sample_pictures import to_jpeg

OURS = f"artifact-remover {__version__}"
RDF, MM = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://ns.adobe.com/xap/1.0/mm/"
EVENT = "{http://ns.adobe.com/xap/1.0/sType/ResourceEvent#}"


def rdf(content="", prefix="rdf"):
    """A packet whose prefixes are not the usual ones, to see that they are not taken for granted."""
    return (
        f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<!-- </{prefix}:RDF> --><{prefix}:RDF xmlns:{prefix}="{RDF}" xmlns:q="{MM}">{content}</{prefix}:RDF>'
        f'</x:xmpmeta>{" " * 100}<?xpacket end="w"?>'
    ).encode()


DESCRIBED = (
    '<rdf:Description rdf:about="uuid:ü&amp;" q:DocumentID="1"><q:RenditionClass>a</q:RenditionClass></rdf:Description>'
)
EMPTY_ABOUT = '<rdf:Description rdf:about="">{}</rdf:Description>'
FOREIGN = '<rdf:li rdf:parseType="Resource"><e:softwareAgent xmlns:e="x">Other 1</e:softwareAgent></rdf:li>'
EMPTY_LIST = EMPTY_ABOUT.format("<q:History><rdf:Seq /></q:History>")
PACKETS = {
    "none": None,
    "plain": rdf(DESCRIBED),
    "another prefix": rdf(DESCRIBED.replace("rdf:", "r:"), "r"),
    "empty": rdf().replace(b"></rdf:RDF></x:", b"/></x:"),
    "history": rdf(EMPTY_ABOUT.format(f"<q:History><rdf:Seq>{FOREIGN}</rdf:Seq></q:History>")),
    "empty list": rdf(EMPTY_LIST),
    "empty history": rdf(EMPTY_ABOUT.format("<q:History/>")),
    "history of an ingredient": rdf(
        EMPTY_ABOUT.format(f"<q:Pantry><rdf:Bag><rdf:li>{EMPTY_LIST}</rdf:li></rdf:Bag></q:Pantry>")
    ),
}


def events(xmp):
    [*top] = ET.fromstring(xmp).iter(f"{{{RDF}}}RDF")
    return [each for each in top[0].findall(f"{{{RDF}}}Description/{{{MM}}}History/{{{RDF}}}Seq/{{{RDF}}}li")]


@pytest.mark.parametrize("name", PACKETS)
def test_the_mark_is_the_last_event_of_the_history(name):
    marked = with_mark(PACKETS[name])
    event = events(marked)[-1]
    assert event.get(f"{EVENT}action") == "restored" and event.get(f"{EVENT}softwareAgent") == OURS
    assert len(events(marked)) == (2 if name == "history" else 1)
    assert read_mark(PACKETS[name]) is None and read_mark(marked) == OURS
    assert with_mark(marked) == marked


@pytest.mark.parametrize("name", PACKETS)
def test_all_else_stays_as_it_was(name):
    """Without the mark and the tags around it that were needed, what is left is what was there."""
    before = PACKETS[name] or with_mark(None)
    after = with_mark(before)
    start = next((i for i, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before))
    behind = len(before) - start
    if name.startswith("empty"):
        assert before[start : start + 3].strip().startswith(b"/>"), "only an empty tag is opened"
        behind -= 2 + before[start : start + 3].index(b"/>")
    assert after.startswith(before[:start]) and after.endswith(before[len(before) - behind :])


def test_all_descriptions_are_about_the_same():
    abouts = {
        each.get(f"{{{RDF}}}about") for each in ET.fromstring(with_mark(PACKETS["plain"])).iter(f"{{{RDF}}}Description")
    }
    assert abouts == {"uuid:ü&"}


BOMB = b'<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;">]>' + rdf(DESCRIBED)


@pytest.mark.parametrize("packet", [b"no XML", rdf(DESCRIBED)[:-200], rdf(DESCRIBED).decode().encode("utf-16"), BOMB])
def test_what_cannot_be_parsed_is_kept_and_the_mark_follows(packet):
    marked = with_mark(packet)
    assert marked.startswith(packet) and read_mark(marked) == OURS
    assert len(events(marked[len(packet) :])) == 1


def test_depth_costs_little():
    """Some minutes otherwise, for 1600 bytes of a PNG."""
    depth = 100_000
    packet = b"<b>" * depth + rdf(DESCRIBED) + b"</b>" * depth
    marked = with_mark(packet)
    assert marked.startswith(b"<b>" * depth) and marked.endswith(b"</b>" * depth) and read_mark(marked)


def test_zeros_behind_a_packet_do_no_harm():
    assert len(events(with_mark(PACKETS["plain"] + b"\0\0").rstrip(b"\0"))) == 1


@pytest.mark.parametrize(
    "written",
    [b"<e:softwareAgent>artifact-remover 0.3</e:softwareAgent>", b"<a e:softwareAgent = 'artifact-remover 0.3'/>"],
)
def test_a_mark_that_another_program_has_written_anew_is_read(written):
    assert read_mark(written) == "artifact-remover 0.3"


@pytest.mark.parametrize("agent", ["artifact-remover", "artifact-remover-lookalike tool 3", "artifact-remover ö"])
def test_others_do_not_pass_for_us(agent):
    assert read_mark(f'<a e:softwareAgent="{agent}"/>'.encode()) is None


def test_what_a_mark_says_is_short():
    """The mark stands in notes, and so in a header of the web application's answer."""
    assert read_mark(b'<a e:softwareAgent="artifact-remover %b"/>' % (b"1" * 40)) == "artifact-remover " + "1" * 40
    assert read_mark(b'<a e:softwareAgent="artifact-remover %b"/>' % (b"1" * 200_000)) is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "packet", [PACKETS["history"], b"no XML", rdf("x" * 70_000)], ids=["history", "damaged", "long"]
)
def test_every_format_holds_the_mark(format, packet):
    picture = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8)))
    metadata = type(picture.metadata)(xmp=packet)
    restored = RestoredPicture(**vars(picture) | {"metadata": metadata, "decision": Decision(restore=True)})
    file = io.BytesIO()
    notes = write_restored(restored, b"", file, format)
    again = decode_picture(file.getvalue())
    assert again.restored_by == OURS
    if len(packet) < 65000 or format != "jpeg":
        assert again.metadata.xmp == with_mark(packet) and notes == ()


@pytest.mark.parametrize("padding, marked", [(2000, True), (0, False)])
def test_a_mark_never_costs_a_jpeg_its_xmp(padding, marked):
    packet = rdf(DESCRIBED + " " * 65504)
    packet = packet.replace(b" " * 100 + b"<?", b" " * padding + b"<?")
    packet = packet.replace(b" " * (len(packet) - 65504), b"", 1)
    assert len(packet) == 65504
    picture = decode_picture(to_jpeg(np.full([16, 24, 3], 100, np.uint8)))
    metadata = type(picture.metadata)(xmp=packet)
    restored = RestoredPicture(**vars(picture) | {"metadata": metadata, "decision": Decision(restore=True)})
    file = io.BytesIO()
    assert write_restored(restored, b"", file, "jpeg") == ()
    again = decode_picture(file.getvalue())
    assert again.restored_by == (OURS if marked else None)
    assert len(again.metadata.xmp) == 65504 and b"uuid:" in again.metadata.xmp
    assert marked or again.metadata.xmp == packet
