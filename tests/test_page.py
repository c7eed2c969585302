"""The page in a real browser: a picture is dropped, every view opened, every layer clicked, by mouse and keyboard."""

from __future__ import annotations

import base64
import re
import shutil

import pytest

from alexnet.inference.info import network_info
from alexnet.inference.similarity import build_index
from conftest import coloured, encoded, write_folders
from serving import process

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.slow]
# A camera that is none, for a picture from it.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream"]
DONE = "[role=tabpanel]:not([hidden])[aria-busy=false]"
VIEWS = ("Classify", "Inside", "Why", "Near", "Where", "Compare", "Train")


@pytest.fixture(scope="module")
def address(tmp_path_factory, tiny_run, folders):
    """A server with two models, an index, a folder of pictures, and data."""
    root = tmp_path_factory.mktemp("page")
    write_folders(root / "photos", 3)
    build_index("tiny", [str(root / "photos")], root / "index")
    arguments = ("--index", root / "index", "--pictures", root / "photos", "--data", folders, "--max-bytes", 3_000_000)
    with process("tiny", tiny_run, *arguments) as (_, url, _):
        yield url


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def page(browser, address, request):
    """The page, opened; whatever its console, its scripts or its requests complain of fails the test."""
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened, wrong = context.new_page(), []
    opened.expected = ()
    opened.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("requestfailed", lambda one: wrong.append(one.url) if "ABORTED" not in str(one.failure) else None)
    opened.on(
        "request", lambda one: wrong.append(one.url) if not one.url.startswith((address, "data:", "blob:")) else None
    )
    opened.goto(address)
    opened.wait_for_selector("[role=tab]")
    yield opened
    context.close()
    assert not [text for text in wrong if not any(words in text for words in opened.expected)]


def drop(page, name: str, content: bytes) -> None:
    """Drop a file onto the page, as a mouse does."""
    given = page.evaluate_handle(
        """([name, text]) => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            return transfer;
        }""",
        [name, base64.b64encode(content).decode()],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": given})


def open_view(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(DONE, timeout=60_000)


def all_shown(page) -> None:
    """Every picture has come and has pixels."""
    for image in page.locator("[role=tabpanel]:not([hidden]) img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("one => one.decode().then(() => one.naturalWidth > 0)")
        assert image.get_attribute("alt")


@pytest.mark.parametrize("page", [(1280, "light"), (360, "dark")], indirect=True)
def test_a_dropped_picture_is_answered_and_every_view_and_layer_is_drawn(page):
    drop(page, "red.png", encoded(coloured("red", 1, (150, 120))))
    page.wait_for_selector("#ten figure:nth-child(10)", timeout=60_000)
    assert page.locator("#answer li").count() == page.locator("#mean li").count() == 5
    assert "red.png" in page.inner_text("h2 >> text=taken for")
    for view in VIEWS:
        open_view(page, view)
        all_shown(page)
        assert page.inner_text("#error") == ""
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
    open_view(page, "Inside")
    layers = page.locator("#network [role=button]")
    assert layers.count() == len(network_info("tiny").layers)
    for layer in layers.all():
        name = layer.get_attribute("data-layer")
        layer.locator(".hit").click()
        page.wait_for_selector(f"#status:has-text('{name}:')", timeout=60_000)
        shown = page.locator("#maps button").count() or page.locator("#units tbody tr").count()
        assert shown > 0, name
        all_shown(page)
    assert page.inner_text("#error") == ""


def test_a_map_is_enlarged_and_the_pictures_that_excite_it_are_found(page):
    drop(page, "red.png", encoded(coloured("red", 1)))
    open_view(page, "Inside")
    page.locator("[data-layer=conv3] .hit").click()
    page.wait_for_selector("#status:has-text('conv3:')")
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#maps button").count() == 384
    third = page.locator("#maps button").nth(2)
    third.click()
    number = re.match(r"map (\d+)", third.get_attribute("aria-label"))[1]
    assert f"Map {number} over the picture" in page.inner_text("#enlarged")
    page.get_by_role("button", name="Which pictures of the folder").click()
    page.wait_for_selector("#enlarged figure:nth-child(9)", timeout=60_000)
    all_shown(page)


def test_evidence_is_drawn_by_every_method_for_any_class(page):
    drop(page, "red.png", encoded(coloured("red", 1)))
    open_view(page, "Why")
    for method in ("occlusion", "gradient x input", "Grad-CAM"):
        page.get_by_label(method).check()
        page.wait_for_selector(f"#status:has-text('{method} for')", timeout=60_000)
    field = page.get_by_role("combobox", name="Class")
    field.fill("goldfish")
    field.press("Enter")
    page.wait_for_selector("#status:has-text('for goldfish')", timeout=60_000)
    all_shown(page)
    assert "does not show" in page.inner_text("#says")


def test_of_what_is_asked_twice_the_last_is_shown_and_once(page):
    drop(page, "red.png", encoded(coloured("red", 1)))
    open_view(page, "Inside")
    page.evaluate(
        """() => ["conv1", "conv2", "conv2"].forEach((name) =>
            document.querySelector(`[data-layer=${name}]`).dispatchEvent(new Event("click")))"""
    )
    page.wait_for_selector("#status:has-text('conv2:')")
    page.wait_for_load_state("networkidle")
    assert page.locator("#layer h2").all_inner_texts() == ["conv2 (conv)"]
    assert page.locator("#maps").count() == page.locator("#enlarged").count() == 1
    open_view(page, "Why")
    held = []
    page.route("**/page/heat?*class=3", lambda one: held.append(one))
    field = page.get_by_role("combobox", name="Class")
    for name in ("tailed frog", "goldfish"):
        field.fill(name)
        field.press("Enter")
    page.wait_for_selector("#status:has-text('for goldfish')", timeout=60_000)
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_load_state("networkidle")
    assert "goldfish" in page.inner_text("#heat")


def test_a_run_shows_its_curves_its_confusions_and_its_mistakes(page):
    page.get_by_label("Model").select_option(index=1)
    open_view(page, "Train")
    assert page.locator("svg.curves").count() == 2
    page.get_by_role("button", name="Who is taken for whom").click()
    page.wait_for_selector("#status:has-text('wrong')", timeout=60_000)
    all_shown(page)


def test_curves_follow_a_run_that_goes_on_until_it_is_finished(page):
    asked = []

    def answer(route) -> None:
        number = len(asked)
        asked.append(re.search(r"after=(\d+)", route.request.url)[1])
        line = {"kind": "epoch", "epoch": number + 1, "train_loss": 2 / (number + 1), "valid_top1_error": 0.5}
        told = {"lines": [line], "after": number, "next": number + 1, "every": 1, "finished": number == 2}
        route.fulfill(json=told)

    page.route("**/page/run?*", answer)
    page.get_by_label("Model").select_option(index=1)
    open_view(page, "Train")
    assert "goes on" in page.inner_text("#status")
    page.wait_for_selector("#curves tbody tr:nth-child(3)", timeout=30_000)
    page.wait_for_selector("#status:has-text('finished')")
    assert asked == ["0", "1", "2"]
    assert "training loss now 0.6667" in page.locator("svg.curves").first.get_attribute("aria-label")


def test_the_keyboard_alone_reaches_every_view_and_layer(page):
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#ten figure:nth-child(10)", timeout=60_000)
    page.locator("#tab-classify").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#panel-inside:not([hidden])[aria-busy=false]", timeout=60_000)
    for _ in range(4):  # over the network's frame to its second layer
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.layer") == "pool1":
            break
    assert page.evaluate("document.activeElement.dataset.layer") == "pool1"
    page.keyboard.press("Enter")
    page.wait_for_selector("#status:has-text('pool1:')", timeout=60_000)
    page.locator("#tab-inside").focus()
    page.keyboard.press("End")
    page.wait_for_selector("#panel-train:not([hidden])")
    assert page.locator("[role=tab][aria-selected=true]").count() == 1


def test_everything_that_can_be_worked_has_a_name_and_says_what_it_is(page):
    drop(page, "red.png", encoded(coloured("red", 1)))
    for view in VIEWS:
        open_view(page, view)
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll(
                'button, select, input:not([hidden]), [role=button], canvas, img, svg.curves')]
                .filter((one) => one.checkVisibility() && !one.closest('[aria-label]') && !one.textContent.trim()
                    && !one.labels?.length && !one.alt)
                .map((one) => one.outerHTML)"""
        )
        assert unnamed == []
    for place in ("main", "header", "[role=tablist]", "[role=status]", "[role=alert]"):
        assert page.locator(place).count() == 1


def test_what_the_server_refuses_stands_on_the_page_in_words(page):
    page.expected = ("status of 422",)
    drop(page, "notes.txt", b"no picture at all")
    page.wait_for_selector("#error:has-text('not a picture')")
    drop(page, "large.png", bytes(3_000_001))
    page.wait_for_selector("#error:has-text('3,000,001 bytes')")
    drop(page, "red.png", encoded(coloured("red", 1)))
    page.wait_for_selector("#answer li")
    assert page.inner_text("#error") == ""


def test_a_picture_can_be_chosen_and_pasted(page):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": encoded(coloured("red", 1))})
    page.wait_for_selector("h2:has-text('a.png')")
    given = page.evaluate_handle(
        """(text) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], "pasted.png"));
            return new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
        }""",
        base64.b64encode(encoded(coloured("blue", 1))).decode(),
    )
    given.evaluate("(event) => document.body.dispatchEvent(event)")
    page.wait_for_selector("h2:has-text('pasted.png')")


def test_a_picture_is_taken_with_the_camera(page):
    page.context.grant_permissions(["camera"])
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    page.wait_for_selector("h2:has-text('camera')")
    page.wait_for_selector("#answer li")
    assert page.locator("#camera").is_hidden()


def test_a_camera_that_is_closed_while_it_opens_is_closed(page):
    page.context.grant_permissions(["camera"])
    opened = page.evaluate_handle(
        """() => {
            const opened = [];
            const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (wanted) => {
                opened.push(await open(wanted));
                return opened.at(-1);
            };
            const button = document.querySelector("#webcam");
            for (let n = 0; n < 4; n += 1) button.click();
            return opened;
        }"""
    )
    page.wait_for_function("(opened) => opened.length === 2", arg=opened)
    page.wait_for_function("(opened) => opened.every((one) => !one.active)", arg=opened)
    assert page.inner_text("#webcam") == "Use the camera"
    assert page.inner_text("#error") == ""


def test_the_page_for_programs_lists_all(page, address):
    page.goto(f"{address}docs")
    page.wait_for_selector("table")
    assert {"POST /predict", "POST /features", "POST /similar", "GET /health", "GET /metrics"} <= set(
        page.locator("h2").all_inner_texts()
    )


def test_a_token_behind_the_address_is_kept_from_it_and_sent(browser):
    with process("tiny", "--token", "open-sesame") as (_, url, _):
        context = browser.new_context()
        opened = context.new_page()
        opened.goto(url)
        opened.wait_for_selector("#error:has-text('#token=TOKEN')")
        opened.goto("about:blank")
        opened.goto(f"{url}#token=open-sesame")
        opened.wait_for_selector("#examples button")
        assert "sesame" not in opened.url
        context.close()
