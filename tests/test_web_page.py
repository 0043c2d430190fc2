"""The page in a real browser, against the real application."""

import dataclasses
import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data

from artifact_remover import restore
from artifact_remover.restoration import Restorer
from artifact_remover.web.queue import RestoreParameters
from tests.sample_pictures import to_file
from tests.web_server import Gate, serving

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs the browser: apt-get install chromium")

PHOTO = skimage_data.astronaut()[:200, 100:380]
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()  # noqa: SIM905
PATIENCE = 120_000  # milliseconds, for a browser on a busy machine


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = str(tmp_path_factory.mktemp("profile"))
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=FLAGS, accept_downloads=True, timeout=PATIENCE
        )
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


@pytest.fixture(scope="module")
def server(saved_models):
    with serving(Restorer.load(saved_models, blend=0.0, precision="float32")) as client:
        yield client


@pytest.fixture
def page(browser, server):
    """The page; whatever it asks for must be ours, and nothing may be complained of."""
    page, asked, complaints = browser.new_page(), [], []
    page.set_viewport_size({"width": 1100, "height": 800})
    page.on("request", lambda request: asked.append(request.url))

    def hear(message):
        over = "/api/jobs/" in message.location["url"]  # it was asked for when its answer was on the way
        if message.type in ("error", "warning") and not over:
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.expected = []
    page.goto(server.url)
    yield page
    page.close()
    assert asked and all(url.startswith((server.url, f"blob:{server.url}")) for url in asked)
    assert [each for each in complaints if not any(note in each for note in page.expected)] == []


def add(page, *pictures):
    """Gives pictures to the page, and waits until the last is restored."""
    files = [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in pictures]
    page.set_input_files("#files", files)
    page.locator(".card").nth(len(files) - 1).locator(".png").wait_for()


def wait_until(page, condition):
    """Playwright's own waiting evaluates strings inside the page, which the page's policy forbids."""
    until = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < until, condition
        page.wait_for_timeout(20)


def download(page, button):
    with page.expect_download() as waiting:
        page.click(button)
    with open(waiting.value.path(), "rb") as file:
        return waiting.value.suggested_filename, file.read()


def written_by_the_command(saved_models, tmp_path, content, name, *arguments):
    (tmp_path / "in.jpg").write_bytes(content)
    command = [str(tmp_path / "in.jpg"), "-o", str(tmp_path / name), "--model", str(saved_models)]
    assert restore.main([*command, "--precision", "float32", "--overwrite", *arguments]) == 0
    return (tmp_path / name).read_bytes()


def expect_statuses(page, *statuses):
    """Lets the browser note these statuses, which it does at any time."""
    page.expected += [f"the server responded with a status of {status} " for status in statuses]


def read(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_jpeg_is_restored_with_any_settings_and_downloaded(page, saved_models, tmp_path):
    exif = Image.Exif()
    exif[0x10F] = "a camera"
    jpeg = to_file(PHOTO, quality=12, exif=exif)
    add(page, ("my photo.jpg", jpeg))
    assert page.inner_text(".facts") == "JPEG · 280 × 200 · RGB · quality 12 · 4:2:0"
    name, content = download(page, ".png")
    assert name == "my photo_restored.png"
    assert content == written_by_the_command(saved_models, tmp_path, jpeg, "x.png")

    page.fill("#strength", "0.5")
    page.fill("#blend", "1")
    page.wait_for_selector(".png", state="hidden")
    page.wait_for_selector(".png")
    _, changed = download(page, ".png")
    said = ["--strength", "0.5", "--blend", "1"]
    wanted = written_by_the_command(saved_models, tmp_path, jpeg, "x.png", *said)
    np.testing.assert_array_equal(read(changed), read(wanted))
    assert (read(changed) != read(content)).any()

    name, content = download(page, ".same")
    assert name == "my photo_restored.jpg" and Image.open(io.BytesIO(content)).getexif()[0x10F] == "a camera"
    assert content == written_by_the_command(saved_models, tmp_path, jpeg, "x.jpg", *said)


def test_it_is_said_where_nothing_of_a_jpeg_is_changed(page):
    jpeg = to_file(PHOTO, quality=12)
    add(page, ("a.jpg", jpeg))
    page.fill("#strength", "0")
    page.wait_for_selector(".png", state="hidden")
    page.wait_for_selector(".png")
    assert page.locator(".notes").is_hidden()
    _, content = download(page, ".same")
    assert content == jpeg
    page.get_by_text("left alone, as nothing of it is changed").wait_for()


def test_the_page_has_a_control_for_every_option_of_the_api(page):
    options = page.evaluate("""() => [document, document.querySelector("#card").content].flatMap(
        (root) => [...root.querySelectorAll("[data-option]")].map((each) => each.dataset.option)
    )""")
    chosen_by_a_download = {"format", "quality"}
    assert set(options) == {each.name for each in dataclasses.fields(RestoreParameters)} - chosen_by_a_download


def test_notes_name_the_controls_of_the_page(page):
    add(page, ("a.jpg", to_file(skimage_data.astronaut()[:96, :100], quality=98)))
    force = "“Also restore what would be left alone” restores it"
    assert page.inner_text(".notes") == f"left alone, as practically uncompressed: quality 98, {force}"
    page.get_by_label("Also restore what would be left alone").check()
    page.wait_for_selector(".png", state="hidden")
    page.wait_for_selector(".png")
    assert page.inner_text(".notes").endswith("detail may be lost, “Strength” lowers it")


def test_a_jpeg_that_breaks_off_is_restored_as_far_as_it_goes_when_that_is_asked(page, saved_models, tmp_path):
    broken = to_file(PHOTO, quality=12)[:-2000]
    page.set_input_files("#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": broken})
    button = page.get_by_role("button", name="Restore as far as it goes")
    button.wait_for()
    said = "the picture is truncated or damaged, mend it or use “Restore as far as it goes”: "
    assert page.inner_text(".error").startswith(said) and page.locator(".again").is_hidden()
    for strength in ("1", "0.5"):  # it need not be asked again for other settings
        if strength == "1":
            button.click()
        else:
            page.fill("#strength", strength)
            page.wait_for_selector(".png", state="hidden")
        page.wait_for_selector(".png")
        assert page.locator(".error").is_hidden() and button.is_hidden()
        assert page.inner_text(".notes").startswith("truncated or damaged, taken as far as it goes")
        _, content = download(page, ".png")
        arguments = ["--allow-truncated", "--strength", strength]
        assert content == written_by_the_command(saved_models, tmp_path, broken, "x.png", *arguments)
    expect_statuses(page, 400)


def test_a_damaged_picture_that_browsers_cannot_show_is_shown_as_far_as_it_goes(page):
    broken = to_file(PHOTO, "TIFF")[:-3000]
    page.set_input_files("#files", {"name": "a.tiff", "mimeType": "image/tiff", "buffer": broken})
    page.get_by_role("button", name="Restore as far as it goes").click()
    page.wait_for_selector(".png")
    wait_until(page, "document.querySelector('.before').naturalWidth === 280")
    assert page.locator(".before").is_visible()
    expect_statuses(page, 400)


def test_trying_again_is_offered_where_it_may_help_only(page, browser):
    gif = io.BytesIO()
    Image.fromarray(PHOTO).save(gif, "GIF")
    never = [("a.gif", gif.getvalue()), ("b.txt", b"Dear Sir,"), ("c.webp", to_file(PHOTO, "WEBP")[:-2000])]
    files = [{"name": name, "mimeType": "image/jpeg", "buffer": content} for name, content in never]
    page.set_input_files("#files", files)
    for number in range(len(never)):
        page.locator(".error").nth(number).wait_for()
        assert page.locator(".again").nth(number).is_hidden()
    expect_statuses(page, 400, 415)

    jpeg = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": to_file(PHOTO, quality=10)}
    other = browser.new_page()
    with serving(Restorer(lambda pictures: pictures * np.nan, 16)) as client:
        other.goto(client.url)
        other.get_by_text("megapixels each").wait_for()
        other.set_input_files("#files", jpeg)
        other.get_by_text("weights are damaged").wait_for()  # with status 503
        assert other.locator(".again").is_visible()
    other.click(".again")
    other.get_by_text("The server does not answer. Is it still running?").wait_for()
    assert other.locator(".again").is_visible()
    other.close()


def test_what_the_pixels_tell_is_shown(page):
    once = read(to_file(PHOTO, quality=20))
    add(page, ("a.jpg", to_file(np.ascontiguousarray(once[3:, 5:]), quality=95)))
    page.get_by_text("saved again").wait_for()
    assert page.inner_text(".facts") == (
        "JPEG · 275 × 197 · RGB · quality 95 · 4:2:0 · Q20, grid at 5, 3, saved again at Q95"
    )


def shown(page):
    """The part of the restored picture that is shown, from where to where on the screen, and where the line is."""
    return page.evaluate("""() => {
        const box = document.querySelector(".after").getBoundingClientRect();
        const cut = getComputedStyle(document.querySelector(".after")).clipPath.match(/ (-?[\\d.]+)px\\)/)?.[1] ?? 0;
        const line = document.querySelector(".line").getBoundingClientRect();
        return [box.left + Number(cut), box.right, line.left + line.width / 2];
    }""")


def test_the_divider_is_dragged_and_moved_by_keys(page):
    add(page, ("a.jpg", to_file(PHOTO, quality=10)))
    before, right, line = shown(page)
    assert before == pytest.approx(line, abs=1)
    page.locator(".view").scroll_into_view_if_needed()
    box = page.locator(".view").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(line, middle)
    page.mouse.down()
    page.mouse.move(line + 60, middle, steps=3)
    page.mouse.up()
    dragged, _, line = shown(page)
    assert dragged == pytest.approx(before + 60, abs=3) and dragged == pytest.approx(line, abs=1) and dragged < right
    page.focus(".divider")
    page.keyboard.press("Home")
    assert shown(page)[2] == pytest.approx(box["x"], abs=1)


def test_every_pixel_is_seen_at_actual_size(page):
    add(page, ("wide.jpg", to_file(np.tile(PHOTO, (1, 6, 1)), quality=10)))
    assert page.locator(".before").bounding_box()["width"] < 1100
    page.click(".zoom")
    wait_until(page, "document.querySelector('.before').getBoundingClientRect().width === 1680")
    assert page.evaluate("document.querySelector('.scroller').scrollLeft") > 100
    cut, _, line = shown(page)
    assert cut == pytest.approx(line, abs=1)


def test_several_at_once_and_what_is_no_picture_is_said_on_its_card(page):
    files = [("a.jpg", to_file(PHOTO, quality=10)), ("notes.jpg", b"nothing to see"), ("b.png", to_file(PHOTO, "PNG"))]
    add(page, *files)
    cards = page.locator(".card")
    assert [cards.nth(number).locator(".error").is_visible() for number in range(3)] == [False, True, False]
    assert "not in a format that can be read" in cards.nth(1).locator(".error").inner_text()
    assert cards.nth(2).locator(".facts").inner_text() == "PNG · 280 × 200 · RGB · no trace of JPEG"
    cards.nth(1).locator(".remove").click()
    assert cards.count() == 2
    expect_statuses(page, 415)


def test_a_picture_may_be_dropped_or_pasted_and_one_that_browsers_cannot_show_is_shown(page):
    content = list(to_file(PHOTO, "TIFF"))
    page.evaluate(
        """([content]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(content)], "a.tiff", { type: "image/tiff" }));
            document.dispatchEvent(new DragEvent("drop", { dataTransfer: files }));
            document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files }));
        }""",
        [content],
    )
    for number in range(2):
        card = page.locator(".card").nth(number)
        card.locator(".png").wait_for()
        assert card.locator(".same").inner_text() == "Download TIFF"
        wait_until(page, f"document.querySelectorAll('.before')[{number}].naturalWidth === 280")


def test_a_picture_that_was_changed_after_it_was_chosen_is_not_blamed_on_the_server(page, tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(to_file(PHOTO, quality=10))
    page.set_input_files("#files", file)
    page.locator(".same").wait_for()
    file.write_bytes(to_file(PHOTO, quality=20))
    page.click(".same")
    page.get_by_text("The file cannot be read any more: choose it again.").wait_for()
    assert page.locator(".again").is_hidden()
    page.expected.append("UPLOAD_FILE_CHANGED")  # in the browser's own note


def test_many_pictures_are_sent_in_turn_also_those_that_browsers_cannot_show(page):
    sent, most = set(), 0

    def begin(request):
        nonlocal most
        if request.method == "POST":
            sent.add(request)
            most = max(most, len(sent))

    page.on("request", begin)
    page.on("requestfinished", lambda request: sent.discard(request))
    small = to_file(PHOTO[:32, :32], "TIFF")
    add(page, *((f"{number}.tiff", small) for number in range(6)))
    wait_until(page, "[...document.querySelectorAll('.before')].every((each) => each.naturalWidth === 32)")
    assert 1 <= most <= 2  # one is restored, one looked at


def test_all_results_are_downloaded_at_once(page):
    downloads = []
    page.on("download", lambda each: downloads.append(each))
    names = [f"{number}.jpg" for number in range(12)]  # Chromium drops all behind the tenth without a pause
    add(page, *((name, to_file(PHOTO[:32, :32], quality=10)) for name in names))
    page.click("#all")
    wait_until(page, "!document.querySelector('#all').disabled")
    assert [each.suggested_filename for each in downloads] == [f"{number}_restored.png" for number in range(12)]
    assert all(read(each.path().read_bytes()).shape[:2] == (32, 32) for each in downloads)
    for _ in range(11):
        assert page.locator("#all").is_visible()
        page.locator(".remove").first.click()
    assert page.locator("#all").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    add(page, ("a long name " * 9 + ".jpg", to_file(np.tile(PHOTO, (1, 3, 1)), quality=10)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click(".zoom")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_picture_that_is_removed_frees_its_place_and_progress_is_shown(browser):
    gate = Gate()
    with serving(Restorer(gate, 16, tile=64)) as client:
        page = browser.new_page()
        page.goto(client.url)
        page.get_by_text("megapixels each").wait_for()
        assert not page.locator("#blend-label").is_visible()  # there is one model only
        page.set_input_files(
            "#files", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": to_file(PHOTO, quality=10)}
        )
        assert gate.entered.wait(60)
        gate.open.release()
        wait_until(page, "document.querySelector('progress').value > 0")
        assert "restoring, " in page.inner_text(".status")
        page.click(".remove")
        client.wait(0)
        gate.open.release(1000)
        page.close()


def test_a_picture_that_is_too_large_is_never_sent(browser):
    with serving(Restorer(Gate(), 16), max_megabytes=0.01) as client:
        page, sent = browser.new_page(), []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        page.goto(client.url)
        page.get_by_text("megapixels each").wait_for()
        page.set_input_files("#files", {"name": "a.png", "mimeType": "image/png", "buffer": to_file(PHOTO, "PNG")})
        for choose in (lambda: None, lambda: page.check("#force")):
            choose()
            page.get_by_text("The file has more than 0.01 megabytes.").wait_for()
            assert page.locator(".again").is_hidden()
        page.close()
    assert sent == []


def test_the_page_of_the_api_works(browser, server):
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url + "/docs")
    page.get_by_text("/api/restore", exact=False).first.wait_for()
    page.close()
    assert all(url.startswith((server.url, "data:")) for url in asked)
