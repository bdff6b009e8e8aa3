"""The pages of --html, in a real browser."""

from __future__ import annotations

import base64
import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from bundle_writer import write_bundle
from chromium import chromium
from click.testing import CliRunner
from conftest import BERT, KERAS
from safetensors.numpy import load_file, save_file

from tfreader.cli.main import main
from tfreader.cli.page import page_text, table_section

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

HOSTILE = (
    "<script>window.hit = 1</script>/kernel",
    '"><img src=x onerror="window.hit = 2">',
    "</script><svg onload=window.hit=3>",
    "<!--<script>",
    "{0}/${script}/$$/{{x}}",
    "__proto__/constructor",
    "a\u202egnp.exe",
    "line\nbreak\ttab\x1b[31m",
    "&lt;b&gt;",
    "two  spaces",
)
Open = Callable[[Path], None]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    with chromium() as found:
        yield found


@pytest.fixture
def show(browser: Chrome) -> Iterator[Open]:
    """Opens a page in the browser; at the end nothing may have been said on its console."""

    def show_page(path: Path) -> None:
        browser.get(path.as_uri())

    media(browser, "light")
    yield show_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hit") is None


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def plan_of(checkpoint: Path, page: Path, *arguments: object, code: int = 0) -> str:
    where = ("--tf_checkpoint", checkpoint, "--pytorch_dump_output", page.parent / "out")
    return run("convert", *where, "--dry-run", "--html", page, *arguments, code=code)


def media(browser: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def texts(browser: Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    return browser.execute_script(script, selector)


def rows(browser: Chrome) -> list[str]:
    """The rows of the first table that are drawn, their cells joined by |."""
    script = """return [...document.querySelector("table").querySelectorAll("tbody tr:not(.space)")]
        .map((row) => [...row.cells].map((cell) => cell.innerText.trim()).join(" | "))"""
    return [re.sub(r"\n+", " ", row) for row in browser.execute_script(script)]


def type_in(browser: Chrome, text: str) -> None:
    box = browser.find_element("css selector", "input[type=search]")
    box.clear()
    box.send_keys(text)


def press(browser: Chrome, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for what comes with an event."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(is_so, 20).until(lambda _: is_so())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pages of examples."""
    folder = tmp_path_factory.mktemp("pages")
    run("inspect", BERT, "--html", folder / "inspect.html")
    plan_of(BERT, folder / "plan.html", "--dtype", "float16")
    return folder


def test_a_plan_shows_what_becomes_of_each_variable(browser, show, pages):
    show(pages / "plan.html")
    assert texts(browser, ".verdict") == [
        "✓ OKBertForPreTraining: 46 tensors, 25.4 kB: all fits, and nothing was written"
    ]
    (row,) = [row for row in rows(browser) if "pooler/dense/kernel" in row]
    assert row == (
        "bert/pooler/dense/kernel | transpose float32 → float16 | bert.pooler.dense.weight"
        " | [24, 24] | float16 | 1.15 kB"
    )
    assert texts(browser, "h2")[:4] == ["Notes", "Plan", "Tensors by scope", "Left out"]
    assert texts(browser, "details.cause > summary") == [
        "46slot variable adam_m",
        "46slot variable adam_v",
        "1training counter",
    ]
    press(browser, "details.cause > summary")
    eventually(lambda: "bert/pooler/dense/kernel/adam_m" in texts(browser, "details.cause td"))
    assert "cls.predictions.decoder.bias = cls.predictions.bias" in texts(browser, "section li")


def test_layers_are_folded_and_open_with_the_keyboard(browser, show, pages):
    show(pages / "plan.html")
    assert texts(browser, ".found") == ["46 rows"]
    (folded,) = [row for row in rows(browser) if "intermediate/dense/kernel" in row]
    assert folded.startswith("\u00d72 bert/encoder/layer_{0...1}/")
    assert folded.endswith("3.84 kB")
    before = len(rows(browser))
    press(browser, ".toggle")
    assert len(rows(browser)) == before + 2
    is_open = "return document.activeElement.getAttribute('aria-expanded')"
    assert browser.execute_script(is_open) == "true"
    browser.switch_to.active_element.send_keys(" ")
    assert browser.execute_script(is_open) == "false"
    assert len(rows(browser)) == before
    press(browser, ".check input")
    assert len(rows(browser)) > before
    assert not any("{" in row for row in rows(browser))


def test_rows_are_filtered_by_words_and_by_what_changes(browser, show, pages):
    show(pages / "plan.html")
    type_in(browser, "POOLER transpose")
    assert [row.split(" | ")[0] for row in rows(browser)] == ["bert/pooler/dense/kernel"]
    assert texts(browser, ".found") == ["1 of 46 rows"]
    type_in(browser, "layer_1")
    assert all(row.startswith("\u00d71 of 2") for row in rows(browser))
    type_in(browser, "no such thing")
    assert rows(browser) == []
    browser.refresh()
    press(browser, ".legend .moved")
    assert texts(browser, ".found") == ["14 of 46 rows"]
    assert all("transpose" in row for row in rows(browser))


def test_rows_are_sorted_by_their_headings(browser, show, pages):
    show(pages / "plan.html")
    press(browser, "th.is-size button")
    assert rows(browser)[0].split(" | ")[-1] == "3.84 kB"
    assert texts(browser, "th[aria-sort=descending]") == ["Size"]
    press(browser, "th.is-size button")
    assert rows(browser)[0].split(" | ")[-1] == "4 B"
    press(browser, "th.is-size button")
    assert rows(browser)[0].startswith("bert/embeddings/LayerNorm/beta")


def test_an_inspection_shows_scopes_by_size_and_training_state(browser, show, pages):
    show(pages / "inspect.html")
    assert "46 weights in 139 variables, 153 kB" in texts(browser, ".verdict")[0]
    scopes = texts(browser, ".tree > ul > li > details > summary, .tree > ul > li > div")
    assert scopes[0].startswith("bert 117") and "144 kB" in scopes[0] and "94.0 %" in scopes[0]
    script = "return [...document.querySelectorAll('.size-bar')].map((bar) => " + (
        "(bar.children[0].offsetWidth + bar.children[1].offsetWidth) / bar.offsetWidth)"
    )
    widths = browser.execute_script(script)
    assert widths[0] == pytest.approx(0.94, abs=0.02)
    assert widths[1] == pytest.approx(0.704, abs=0.02)
    assert not texts(browser, ".tree ul ul ul ul")
    browser.find_elements("css selector", ".tree ul ul summary")[0].click()
    eventually(lambda: "layer_0 48" in "".join(texts(browser, ".tree summary")))
    press(browser, ".legend .good")
    assert texts(browser, ".found") == ["46 of 139 rows"]


def test_names_that_are_scopes_too_and_empty_parts_have_places_of_their_own(
    browser, show, tmp_path
):
    names = ("a", "a/b", "a/b/c", "/d", "e//f", "__proto__/constructor")
    write_bundle(tmp_path / "m.ckpt", {name: np.ones(25, np.float32) for name in names})
    run("inspect", tmp_path / "m.ckpt", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    lines = "return [...document.querySelectorAll('.tree .scope')].map((e) => e.innerText)"
    for element in browser.find_elements("css selector", ".tree summary"):
        element.click()
    eventually(lambda: len(browser.execute_script(lines)) == 7)
    found = [line.split() for line in browser.execute_script(lines)]
    alone = ["/d", "__proto__/constructor", "a", "b", "b/c", "e//f"]
    assert sorted((line[0], line[-4]) for line in found) == sorted(
        [("a", "200"), *((name, "100") for name in alone)]
    )


@pytest.mark.parametrize("command", ["inspect", "plan"])
def test_names_are_text_whatever_they_hold(browser, show, tmp_path, command):
    prefix = tmp_path / "model.ckpt"
    write_bundle(prefix, {name: np.ones((2, 3), np.float32) for name in HOSTILE})
    page = tmp_path / "page.html"
    if command == "inspect":
        run("inspect", prefix, "--html", page)
    else:
        (tmp_path / "r.toml").write_text("[[rule]]\nsource = '(?s)(?P<n>.*)'\ntarget = '{n}'\n")
        plan_of(prefix, page, "--rules", tmp_path / "r.toml")
    show(page)
    found = {row.split(" | ")[0] for row in rows(browser)}
    shown = {name.encode("unicode_escape").decode() for name in HOSTILE}
    assert found == shown
    assert browser.execute_script("return document.querySelectorAll('img, svg').length") == 0
    assert browser.execute_script("return document.scripts.length") == 2
    type_in(browser, "<script>window")
    assert len(rows(browser)) == 1


def test_a_name_of_any_length_leaves_room_for_the_others(browser, show, tmp_path):
    names = ["x" * 10_000, "/".join("y" * 5_000), "z"]
    write_bundle(tmp_path / "model.ckpt", {name: np.ones(1, np.float32) for name in names})
    run("inspect", tmp_path / "model.ckpt", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert sorted(texts(browser, "td .name")) == names
    assert browser.execute_script("return document.body.scrollHeight") < 1500
    assert base64.b64decode(browser.print_page()).startswith(b"%PDF")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_many_rows_are_drawn_as_they_come_into_sight(browser, show, tmp_path):
    prefix = tmp_path / "model.ckpt"
    letters = str.maketrans("0123456789", "abcdefghij")  # or they would be folded
    names = [f"scope_{chr(97 + i // 200)}/part_{i}/w".translate(letters) for i in range(5000)]
    write_bundle(prefix, {name: np.ones(1, np.float32) for name in names})
    page = tmp_path / "page.html"
    run("inspect", prefix, "--html", page)
    show(page)
    total = "return document.querySelectorAll('*').length"
    in_sight = """const rows = [...document.querySelectorAll("tbody tr:not(.space)")];
        return rows.filter((row) => {
          const { top, bottom } = row.getBoundingClientRect();
          return bottom > 0 && top < innerHeight;
        }).length"""
    height = browser.execute_script("return document.documentElement.scrollHeight")
    assert height > 5000 * 20
    for part in (0.1, 0.5, 0.999):
        browser.execute_script(f"scrollTo(0, {height * part})")
        browser.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )
        assert browser.execute_script(in_sight) > 10
        assert browser.execute_script(total) < 4000
    type_in(browser, "part_edcb/")
    assert len(rows(browser)) == 1


def test_of_very_many_rows_the_first_are_printed(browser, show, tmp_path):
    cells = [
        [f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}"] for i in range(5100)
    ]
    section = table_section("Variables", [("name", "variable")], cells, {})
    (tmp_path / "page.html").write_text(page_text("inspect", "x", ("good", "fine"), {}, [section]))
    show(tmp_path / "page.html")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert len(texts(browser, "tbody tr:not(.space)")) == 5000
    said = browser.find_element("css selector", "caption")
    assert said.is_displayed() and said.text.startswith("The first 5,000 of 5,100 rows")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    type_in(browser, "w_a")
    assert not browser.find_element("css selector", "caption").is_displayed()


@pytest.mark.parametrize("name", ["inspect", "plan"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser, show, pages, scheme, name):
    media(browser, scheme)
    show(pages / f"{name}.html")
    found = browser.execute_script(CONTRAST)
    assert found["dark"] == (scheme == "dark")
    assert found["texts"] > 50
    assert found["faint"] == []


# The ratio of WCAG 2, of each text to the first colour behind it.
CONTRAST = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  const colour = channels(getComputedStyle(element).backgroundColor);
  return colour.length < 4 || colour[3] > 0 ? colour : behind(element.parentElement);
};
const faint = [];
let texts = 0;
const walk = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
  texts += 1;
  const pair = [channels(getComputedStyle(element).color), behind(element)].map(light).sort();
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (ratio < 4.5) faint.push([walk.currentNode.data, ratio]);
}
return { texts, faint, dark: light(behind(document.querySelector("section"))) < 0.1 };
"""


def test_what_can_be_pressed_has_a_name_and_headings_go_down_in_steps(browser, show, pages):
    show(pages / "plan.html")
    tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = (
        "button",
        "link",
        "checkbox",
        "searchbox",
        "columnheader",
        "region",
        "DisclosureTriangle",
    )
    found = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert len(found) > 20
    assert all(node["name"]["value"] for node in found)
    assert texts(browser, "h1") == [str(BERT / "bert_model.ckpt")]
    assert browser.execute_script("return document.documentElement.lang") == "en"
    assert texts(browser, "title")[0].endswith("tfreader convert --dry-run")


def test_it_is_printed_whole_in_dark_ink(browser, show, tmp_path):
    prefix = tmp_path / "model.ckpt"
    names = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}/kernel" for i in range(300)]
    write_bundle(prefix, {name: np.ones(1, np.float32) for name in names})
    run("inspect", prefix, "--html", tmp_path / "page.html")
    media(browser, "dark")
    show(tmp_path / "page.html")
    assert not browser.find_element("css selector", "caption").is_displayed()
    drawn = "document.querySelectorAll('tbody tr:not(.space)').length"
    browser.execute_script(f"addEventListener('beforeprint', () => (window.printed = {drawn}))")
    printed = base64.b64decode(browser.print_page())
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 4
    assert browser.execute_script("return printed") == 300
    assert browser.execute_script(f"return {drawn}") < 300
    features = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    colour = browser.execute_script("return getComputedStyle(document.body).color")
    assert colour == "rgb(29, 33, 38)"
    assert not browser.find_element("css selector", "input[type=search]").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_failure_is_a_page_too(browser, show, tmp_path):
    page = tmp_path / "page.html"
    plan_of(BERT, page, "--architecture", "BertForQuestionAnswering", code=1)
    show(page)
    assert texts(browser, ".verdict")[0].startswith("✕ Failed")
    assert "tensor qa_outputs.bias" in " ".join(texts(browser, ".cause"))
    browser.execute_script("document.querySelector('table').scrollIntoView()")
    eventually(lambda: len(rows(browser)) > 10)
    run("inspect", tmp_path / "nowhere", "--html", page, code=1)
    show(page)
    assert "no checkpoint there" in texts(browser, ".verdict.bad")[0]


def test_a_verification_tells_what_is_damaged(browser, show, copy, tmp_path):
    run("verify", BERT, "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert "139 variables, 152672 bytes: all in order" in texts(browser, ".verdict.good")[0]
    data = copy(BERT) / "bert_model.ckpt.data-00000-of-00001"
    values = bytearray(data.read_bytes())
    for place in (1000, 50_000):
        values[place] ^= 1
    data.write_bytes(values)
    run("verify", data.parent, "--html", tmp_path / "page.html", code=1)
    show(tmp_path / "page.html")
    assert "damaged in 2 places" in texts(browser, ".verdict.bad")[0]
    assert len(texts(browser, ".cause")) == 2


def test_a_suggestion_shows_what_is_uncertain(browser, show, tmp_path):
    target = {
        name: {"shape": shape, "dtype": "float32"}
        for name, shape in {
            "0.weight": [6, 4, 3],
            "0.bias": [6],
            "3.weight": [8, 48],
            "3.bias": [8],
            "5.weight": [2, 8],
            "5.bias": [2],
        }.items()
    }
    (tmp_path / "target.json").write_text(json.dumps(target))
    made = ("--target", tmp_path / "target.json", "--output", tmp_path / "rules.toml")
    run("suggest", "--tf_checkpoint", KERAS, *made, "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert texts(browser, ".verdict")[0].endswith("2 of them uncertain: look at what is marked")
    assert texts(browser, "pre") == [(tmp_path / "rules.toml").read_text()]
    press(browser, ".legend .warn")
    assert [row.split(" | ")[0] for row in rows(browser)] == ["dense/bias", "dense/kernel"]
    run("suggest", "--tf_checkpoint", KERAS, *made[2:], "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert "skeleton" in texts(browser, ".verdict.warn")[0]


def test_a_batch_shows_checkpoints_by_status_and_failures_by_cause(browser, show, tmp_path):
    for name in ("a", "b", "c"):
        write_bundle(tmp_path / "in" / name / "model.ckpt", {"w": np.ones(2, np.float32)})
    shutil.copytree(BERT, tmp_path / "in" / "bert")
    glob = ("--glob", tmp_path / "in/*/*.index", "--output-root", tmp_path / "out")
    pages = [tmp_path / "report.html", tmp_path / "page.html"]
    run("batch", *glob, "--report", pages[0], "--html", pages[1], code=1)
    for page in pages:
        show(page)
        assert "1 done, 3 failed" in texts(browser, ".verdict.bad")[0]
        (cause,) = texts(browser, "details.cause > summary")
        assert cause.startswith("3")
        statuses = [row.split(" | ")[1] for row in rows(browser)]
        assert statuses == ["failed", "failed", "failed", "done"]
        press(browser, ".legend .good")
        assert [row.split(" | ")[2] for row in rows(browser)] == ["BertForPreTraining"]


def test_a_batch_names_the_file_that_is_missing(browser, show, tmp_path):
    shutil.copytree(BERT, tmp_path / "in")
    (tmp_path / "in" / "bert_model.ckpt.data-00000-of-00001").unlink()
    root = ("--output-root", tmp_path / "out")
    run("batch", tmp_path / "in", *root, "--html", tmp_path / "page.html", code=1)
    show(tmp_path / "page.html")
    assert rows(browser)[0].split(" | ")[2].startswith("bert_model.ckpt.data-00000-of-00001: ")


def test_values_that_were_read_are_shown_as_histograms(browser, show, tmp_path):
    random = np.random.default_rng(0)
    scales = {"layer_0/w": 0.02, "layer_1/w": 0.02, "other": 3}
    arrays = {name: random.normal(0, scale, 1000) for name, scale in scales.items()}
    arrays["other"][:3] = np.nan, np.inf, 0
    write_bundle(tmp_path / "model.ckpt", {k: v.astype(np.float32) for k, v in arrays.items()})
    run("inspect", tmp_path / "model.ckpt", "--stats", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert texts(browser, ".verdict.warn")[0].endswith("NaN or infinity in 1 of them")
    labels = "return [...document.querySelectorAll('svg')].map((e) => e.getAttribute('aria-label'))"
    folded, alone = browser.execute_script(labels)
    assert re.fullmatch(r"Histogram of values from -0\.0\d+ to 0\.\d+", folded)
    assert re.fullmatch(r"Histogram of values from -[\d.]+ to [\d.]+", alone)
    browser.find_elements("css selector", ".toggle")[1].click()
    assert {"nan1", "inf1", "zeros1", "count1,000"} <= {*texts(browser, ".details dl div")}
    assert browser.find_element("css selector", "svg.large").is_displayed()


def test_numbers_are_not_rounded_where_they_are_whole(browser, show, tmp_path):
    arrays = {
        "long": np.array([-(2**63), 2**63 - 1]),
        "many": np.full(123_457, np.nan, np.float32),
        "large": np.array([123_456_789.5]),
    }
    write_bundle(tmp_path / "model.ckpt", arrays)
    run("inspect", tmp_path / "model.ckpt", "--stats", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    for name in arrays:
        browser.find_element("xpath", f"//tr[contains(., '{name}')]//button").click()
    found = texts(browser, ".details dl div")
    assert {"min-9223372036854775808", "max9223372036854775807", "nan123,457"} <= {*found}
    assert "max1.235e+8" in found


def test_the_verdict_counts_what_cannot_be_read(browser, show, tmp_path):
    arrays = {name: np.ones(3, np.float32) for name in "abcdef"}
    write_bundle(tmp_path / "model.ckpt", arrays, num_shards=2)
    (tmp_path / "model.ckpt.data-00001-of-00002").unlink()
    page = ("--stats", "--html", tmp_path / "page.html")
    run("inspect", tmp_path / "model.ckpt", *page, code=1)
    show(tmp_path / "page.html")
    assert texts(browser, ".verdict.bad")[0].endswith("72 B: 3 of them cannot be read")


def test_a_page_shows_values_of_slots_and_says_what_it_was_filtered_by(browser, show, tmp_path):
    values = {"w": np.ones(3, np.float32), "text": np.ones(1, np.float32)}
    values |= {"w/Adam": values["w"] * np.nan, "w/Adam_1": values["w"], "beta1_power": values["w"]}
    write_bundle(tmp_path / "model.ckpt", values)
    filtered = ("--filter", "^w", "--stats", "--html", tmp_path / "page.html")
    run("inspect", tmp_path / "model.ckpt", *filtered)
    show(tmp_path / "page.html")
    said = "found 1 weight in 3 variables, 36 B, of 5 variables in all: NaN or infinity in 1 of"
    assert said in texts(browser, ".verdict.warn")[0]
    assert "filter^w" in texts(browser, "header dl div")


def test_what_is_copied_from_a_page_finds_its_rows(browser, show, tmp_path):
    shapes = {"a/l_0": (2, 3), "a/l_1": (2, 3), "b": (2, 16, 3), "l_{0...1}": (2, 3)}
    arrays = {name: np.ones(size, np.float32) for name, size in shapes.items()}
    write_bundle(tmp_path / "model.ckpt", arrays)
    run("inspect", tmp_path / "model.ckpt", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    assert texts(browser, "th button") == ["Variable", "Use", "Shape", "Type", "Size"]
    assert texts(browser, "td .range") == ["{0...1}"]
    type_in(browser, "[2, 3]")
    assert texts(browser, ".found") == ["3 of 4 rows"]
    type_in(browser, "a/l_{0...1} weight")
    assert texts(browser, ".found") == ["2 of 4 rows"]


def test_rows_come_into_sight_as_the_window_grows(browser, show, tmp_path):
    letters = str.maketrans("0123456789", "abcdefghij")
    names = [f"part_{i}".translate(letters) for i in range(300)]
    write_bundle(tmp_path / "m.ckpt", {name: np.ones(1, np.float32) for name in names})
    run("inspect", tmp_path / "m.ckpt", "--html", tmp_path / "page.html")
    show(tmp_path / "page.html")
    before = len(rows(browser))
    size = {"width": 1280, "height": 6000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    eventually(lambda: len(rows(browser)) > before + 80)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_comparison_shows_what_is_not_right_first(browser, show, tmp_path):
    run("convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    weights["bert.pooler.dense.weight"] = weights["bert.pooler.dense.weight"].T.copy()
    weights["bert.pooler.dense.bias"][0] += 0.5
    (tmp_path / "out" / "conversion.json").unlink()
    save_file(weights, tmp_path / "out" / "model.safetensors", {"format": "pt"})
    page = tmp_path / "page.html"
    run("verify", tmp_path / "out", "--against", BERT, "--html", page, code=1)
    show(page)
    assert texts(browser, ".verdict.bad") == ["✕ Failed2 of 46 tensors not right"]
    assert texts(browser, "details.cause > summary") == ["1different", "1transposed"]
    found = [row.split(" | ") for row in rows(browser)]
    assert found[0][:2] == ["bert.pooler.dense.bias", "different"]
    assert found[0][3:6] == ["[24]", "float32", "0.5"]
    assert found[1][:2] == ["bert.pooler.dense.weight", "transposed"]
    assert {row[1] for row in found[2:]} == {"equal"}
    assert len(browser.find_elements("css selector", "svg.histogram")) > 10


def test_nothing_but_its_own_script_runs(browser, show, pages, tmp_path):
    text = (pages / "plan.html").read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    other = tmp_path / "other.html"
    other.write_text(text.replace("</body>", "<script>window.hit = 4</script></body>"), "utf-8")
    browser.get(other.as_uri())
    assert browser.execute_script("return window.hit") is None
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]


def test_pages_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    page.write_text("old")
    monkeypatch.setattr("os.replace", no_room)
    assert "cannot be written" in run("inspect", BERT, "--html", page, code=1)
    assert page.read_text() == "old"
    assert list(tmp_path.iterdir()) == [page]
    assert "does not end in .html" in run("inspect", BERT, "--html", BERT / "vocab.txt", code=2)
    (tmp_path / "folder.html").mkdir()
    assert "no regular file" in run("inspect", BERT, "--html", tmp_path / "folder.html", code=1)


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
