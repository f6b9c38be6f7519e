"""The report in headless Chromium: it opens without a complaint, filters, sorts and shows a case, by mouse and keys."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.browser import BrowserPage, find_browser, open_browser
from clicksim.pipeline import reporting
from tests.report_catalog import make_catalog, write_rounds

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed: apt-get install chromium")

EVIL = "</script><img src=x onerror=\"document.title='gone'\"><b>"
COUNT = 60
STATUS = "document.querySelector('#status').textContent"
NAMES = "[...document.querySelectorAll('#rows td.name')].map((cell) => cell.textContent)"


def set_value(field: str, value: str, event: str) -> str:
    return f"(() => {{ const f = {field}; f.value = {value!r}; f.dispatchEvent(new Event('{event}')); }})()"


def search(text: str) -> str:
    return set_value("document.querySelector('#query')", text, "input")


def settle(page: BrowserPage) -> None:
    """Let observers and a frame or two go by."""
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))))")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of 60 cases: the first with markup for a name, the second without images, ages over 89 among them."""
    folder = tmp_path_factory.mktemp("report")
    rows: list[dict[str, object]] = [{} for _ in range(COUNT)]
    rows[0] = {"case_id": EVIL, "quality_flags": ["CT_CLIPPED"]}
    rows[1] = {"pet_path": "catalog:images/none.nii.gz", "age_years": 95.0}
    rows[2] = {"n_lesions": 0, "lesion_present": False, "lesion_volume_ml": 0.0, "suv_max_in_lesion": None}
    rows[3] = {
        "model": "Biograph 64-4R TruePoint with a very long name",
        "case_id": "a-name-without-a-place-to-break" * 6,
    }
    catalog = make_catalog(folder / "catalog", rows, runs=2)
    for run, scale in (("network", 0.5), ("threshold", 0.3)):
        write_rounds(catalog, run, [f"case{n:03d}" for n in range(4, COUNT)], fpv_ml=scale)
    return reporting.report(catalog.path, folder / "page.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserPage]:
    with ExitStack() as stack:
        try:
            page = stack.enter_context(open_browser())
        except RuntimeError as error:
            pytest.skip(f"Chromium is installed, but of no use here: {error}")
        yield page


@pytest.fixture
def page(browser: BrowserPage, report: Path) -> Iterator[BrowserPage]:
    """The report, freshly opened; whatever a test does, the page may not complain or ask for anything."""
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(report)
    yield browser
    assert browser.complaints == []
    assert set(browser.requests) <= {report.resolve().as_uri()}


def test_page__opens_with_all_cases_and_draws_only_the_first(page: BrowserPage) -> None:
    assert page.run(STATUS) == f"{COUNT} of {COUNT} cases"
    assert page.run("document.querySelectorAll('#rows tr').length") == 40
    assert page.run("document.querySelectorAll('#cohort svg').length") >= 8


def test_page__a_name_that_is_markup_is_shown_as_text(page: BrowserPage) -> None:
    page.run(search("onerror"))
    assert page.run(NAMES) == [EVIL]
    page.run("document.querySelector('#rows .thumb').click()")
    settle(page)
    assert page.run("document.querySelector('#case-name').textContent") == EVIL
    assert page.run("document.querySelectorAll('img, #rows b, #case b').length") == 0
    assert page.run("document.title") == "Catalog report"


def test_page__filters_by_words_and_choices_and_clears(page: BrowserPage) -> None:
    page.run(search("CASE01 psma"))
    assert page.run(NAMES) == [f"case{n:03d}" for n in range(11, 20, 2)]
    page.run(set_value("document.querySelector('#selects select')", "", "change"))
    page.run(search("no such case"))
    assert page.run(STATUS) == f"0 of {COUNT} cases"
    page.run("document.querySelector('#filters button[type=reset]').click()")
    settle(page)
    assert page.run(STATUS) == f"{COUNT} of {COUNT} cases"
    lesions = (
        "[...document.querySelectorAll('#selects label')].find((l) => l.textContent.startsWith('lesions')).control"
    )
    page.run(set_value(lesions, "without", "change"))
    assert page.run(NAMES) == ["case002"]


def test_page__sorts_by_a_heading_both_ways_with_the_unknown_last(page: BrowserPage) -> None:
    click = "document.querySelector('th[data-column={}] button').click()"
    shown = (
        "[...document.querySelectorAll('#rows tr')].map((row) => row.querySelector('[data-label=\"{}\"]').textContent)"
    )
    page.run(click.format("age"))
    ages = [int(text) for text in page.run(shown.format("age"))]
    assert ages == sorted(ages)
    page.run(click.format("age"))
    ages = [int(text) for text in page.run(shown.format("age"))]
    assert ages == sorted(ages, reverse=True)
    assert ages[0] == 95
    assert page.run("document.querySelector('th[data-column=age]').getAttribute('aria-sort')") == "descending"
    page.run(search("case00"))
    page.run(click.format("suv"))
    assert page.run(NAMES)[-1] == "case002"
    page.run(click.format("suv"))
    assert page.run(NAMES)[-1] == "case002"


def test_page__pictures_come_when_they_are_seen(page: BrowserPage) -> None:
    drawn = "document.querySelectorAll('#rows .thumb svg').length"
    assert page.run(drawn) == 0
    page.run("document.querySelector('#cases').scrollIntoView()")
    settle(page)
    assert 0 < page.run(drawn) < 40
    assert page.run("document.querySelectorAll('#rows .thumb .outline').length") > 0
    assert page.run("document.querySelectorAll('#rows .thumb .ahead').length") > 0
    page.run("document.querySelector('#more').scrollIntoView()")
    settle(page)
    assert page.run("document.querySelectorAll('#rows tr').length") == COUNT


def test_page__a_case_is_opened_left_and_closed_by_keys(page: BrowserPage) -> None:
    page.run(search("case01"))
    page.run("document.querySelector('#rows .thumb').focus()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    name, is_open = "document.querySelector('#case-name').textContent", "document.querySelector('#case').open"
    assert page.run(is_open)
    assert page.run(name) == "case010"
    page.press("ArrowRight", 39)
    assert page.run(name) == "case011"
    page.press("ArrowLeft", 37)
    page.press("ArrowLeft", 37)
    assert page.run(name) == "case019"
    page.press("Escape", 27)
    assert not page.run(is_open)


def test_page__a_case_shows_its_picture_lesions_prompts_facts_and_curves(page: BrowserPage) -> None:
    page.run(search("case010"))
    page.run("document.querySelector('#rows .thumb').click()")
    settle(page)
    inside = "document.querySelectorAll('#case {}').length"
    assert page.run(inside.format(".picture image")) == 1
    assert page.run(inside.format(".outline")) == 2
    assert page.run(inside.format(".ahead")) == 2
    assert page.run(inside.format("path.curve")) == 2
    assert "not known to be defaced" in page.run("document.querySelector('#case-note').textContent")
    assert "Biograph mCT Flow 20" in page.run("document.querySelector('#case-facts').textContent")
    page.run("document.querySelector('#layers input').click()")
    page.run(set_value("document.querySelector('#layers select')", "-1", "change"))
    assert page.run(inside.format(".outline") + " + " + inside.format(".ahead")) == 0


def test_page__a_case_without_a_picture_says_why(page: BrowserPage) -> None:
    page.run(search("case001"))
    page.run("document.querySelector('#rows .thumb').click()")
    settle(page)
    assert "its images cannot be read" in page.run("document.querySelector('#case-picture').textContent")


def test_page__prompts_come_back_after_a_case_that_has_none(page: BrowserPage) -> None:
    page.run(search("case00"))
    page.run("document.querySelector('#rows .thumb').click()")  # case001, which has no picture
    drawn = "document.querySelectorAll('#case .ahead').length"
    assert page.run(drawn) == 0
    page.press("ArrowRight", 39)
    assert page.run(drawn) == 2
    page.run(set_value("document.querySelector('#layers select')", "1", "change"))
    page.press("ArrowLeft", 37)
    page.press("ArrowRight", 39)
    assert page.run("document.querySelector('#layers select').value") == "1"


def test_page__curves_follow_the_filters_and_the_choices(page: BrowserPage) -> None:
    means = "[...document.querySelectorAll('#means tbody td')].map((cell) => cell.textContent)"
    assert page.run(means) == [f"{value} ({COUNT - 4})" for value in ("0.500", "0.600", "0.700")] * 2
    page.run(search("case01"))
    assert page.run(means)[0] == "0.500 (10)"
    page.run(set_value("document.querySelector('#choices select')", "fpv_ml", "change"))
    assert page.run(means)[::3] == ["0.500 (10)", "0.300 (10)"]
    page.run("document.querySelectorAll('#choices input')[0].click()")
    assert page.run("document.querySelectorAll('#means tbody tr').length") == 4
    page.run(search("no such case"))
    assert "No case" in page.run("document.querySelector('#curves').textContent")


@pytest.mark.parametrize("width", [320, 500, 900, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_page__nothing_is_wider_than_the_window_or_overlaps(
    page: BrowserPage, report: Path, width: int, dark: bool
) -> None:
    page.open(report, width=width, dark=dark)
    page.run("document.querySelector('#cases').scrollIntoView()")
    settle(page)
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run(OVERLAPS) == []


OVERLAPS = """(() => {
  const before = (a, b) => a.right <= b.left + 0.5 || a.bottom <= b.top + 0.5;
  const apart = (a, b) => before(a, b) || before(b, a);
  const found = [];
  for (const svg of document.querySelectorAll("#cohort svg")) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text, rect")].map((e) => [e, e.getBoundingClientRect()]);
    for (const [e, box] of boxes)
      if (box.left < frame.left - 1 || box.right > frame.right + 1) found.push("outside: " + e.textContent);
    const texts = boxes.filter(([e]) => e.tagName === "text");
    for (const [e, box] of texts) for (const [f, other] of boxes)
      if (e !== f && !apart(box, other)) found.push(`${e.textContent} over ${f.textContent}`);
  }
  for (const parent of ["#rows", "#filters", ".tiles", "nav", ".figures", "#choices"])
    for (const group of document.querySelectorAll(parent)) {
      const parts = [...group.querySelectorAll(":scope > *:not(#selects), #selects > *")];
      const boxes = parts.map((e) => [e, e.getBoundingClientRect()]);
      boxes.forEach(([e, box], n) => boxes.slice(n + 1).forEach(([f, other]) => {
        if (box.width && other.width && !apart(box, other)) found.push(`${e.tagName} over ${f.tagName} in ${parent}`);
      }));
    }
  for (const cell of document.querySelectorAll("#list td")) {
    if (cell.scrollWidth > cell.clientWidth + 1) found.push("cell too narrow: " + cell.textContent.slice(0, 40));
  }
  return found.slice(0, 10);
})()"""


def test_page__without_a_pointer_every_control_has_a_name(page: BrowserPage) -> None:
    nameless = """[...document.querySelectorAll("button, select, input, svg[role=img], [role=region]")]
      .filter((e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.textContent.trim()
                       || (e.labels && e.labels.length && e.labels[0].textContent.trim()))).length"""
    assert page.run(nameless) == 0


def test_page__without_script_it_says_so(page: BrowserPage, report: Path) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(report)
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        found = page.call("DOM.querySelector", nodeId=root, selector="noscript p")["nodeId"]
        assert "needs JavaScript" in page.call("DOM.getOuterHTML", nodeId=found)["outerHTML"]
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)
