"""The pages as a browser shows them: our report, and MLflow's and Optuna's own, in Chromium."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies import EVIL, fill, grid, layers

pytest.importorskip("selenium", reason="no selenium: `pip install -e '.[dev]'`")

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pressft import doctor
from pressft.report import page as report
from pressft.study.locations import Locations
from pressft.study.study import Study

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
AXE = Path(__file__).resolve().parent.parent / ".venv" / "axe.min.js"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no chromium: `apt-get install chromium chromium-driver`"
    ),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for switch in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "disable-dev-shm-usage"),
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def made(study: Study, root: Path) -> Locations:
    found = Locations(root)
    fill(study, found, rich=True)
    return found


@pytest.fixture(scope="module", params=[grid(16), layers(30)], ids=["few", "many"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a report: of few arms, of many."""
    root = tmp_path_factory.mktemp("page")
    locations = made(request.param, root)
    (root / "report.html").write_text(report.html(request.param.name, locations))
    return (root / "report.html").as_uri()


def look(browser: Chrome, address: str, size: str = "desktop", scheme: str = "light") -> None:
    """Open a page of so many pixels, light or dark."""
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(address)


def complaints(browser: Chrome) -> list[str]:
    """What the page said to its console since the last look, and what it could not load."""
    return [
        line["message"]
        for line in browser.get_log("browser")
        if line["level"] == "SEVERE" and "users/current" not in line["message"]  # MLflow's own
    ]


def until(browser: Chrome, script: str, what: str, seconds: float = 60) -> object:
    """The value of a script, once it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := browser.execute_script(script):
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: `make axe` fetches it from npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_fault(browser: Chrome, page: str, size: str, scheme: str) -> None:
    look(browser, page, size, scheme)
    browser.execute_script(AXE.read_text())
    found = browser.execute_async_script("axe.run().then(arguments[0])")
    assert len(found["passes"]) > 15  # it looked
    assert [(fault["impact"], fault["id"]) for fault in found["violations"]] == []


LABELS = """
const faults = [];
for (const svg of document.querySelectorAll("figure svg")) {
  const frame = svg.getBoundingClientRect();
  if (!frame.width) continue;
  const boxes = [...svg.querySelectorAll("text")].map((text) => {
    const { left, right, top, bottom } = text.getBoundingClientRect();
    const inner = { left: left + 1, right: right - 1, top: top + 2, bottom: bottom - 2 };
    return { text: text.textContent, ...inner };
  });
  boxes.forEach((a, i) => {
    if (a.left < frame.left || a.right > frame.right || a.bottom > frame.bottom)
      faults.push("cut: " + a.text);
    for (const b of boxes.slice(i + 1))
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        faults.push(a.text + " on " + b.text);
  });
}
return faults;
"""


@pytest.mark.parametrize("size", SIZES)
def test_no_label_is_cut_or_stands_on_another(browser: Chrome, page: str, size: str) -> None:
    look(browser, page, size)
    assert browser.execute_script(LABELS) == []
    wider = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not browser.execute_script(wider)
    assert complaints(browser) == []


def test_points_are_read_by_keyboard_and_pointer_and_arms_are_hidden(
    browser: Chrome, page: str
) -> None:
    look(browser, page)
    tip = browser.find_element(By.CSS_SELECTOR, "[role=status]")
    chart = browser.find_element(By.CSS_SELECTOR, "[data-chart]:has([data-tip])")
    chart.send_keys(Keys.ARROW_RIGHT)
    first = tip.text
    chart.send_keys(Keys.ARROW_RIGHT)
    assert first
    assert tip.text != first
    chart.send_keys(Keys.ESCAPE)
    assert not tip.text
    mark = chart.find_element(By.CSS_SELECTOR, ".mark")
    ActionChains(browser).move_to_element(mark).perform()
    assert tip.text == mark.get_attribute("data-tip")
    browser.find_element(By.CSS_SELECTOR, "[data-arm=a0]").send_keys(Keys.SPACE)
    whole = browser.find_elements(By.CSS_SELECTOR, "figure .a0")
    assert whole
    assert not any(part.is_displayed() for part in whole)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What `pressft ui --optuna` prints, on a folder that was moved behind its study's back."""
    root, there = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("moved")
    doctor.rebuild(made(grid(16), root), lambda _: None)
    shutil.move(root, there / "mlruns")
    server = subprocess.Popen(
        [sys.executable, "-m", "pressft", "ui", "--port", "0", "--optuna"],
        cwd=there,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    lines: list[str] = []
    while not any(line.startswith("Optuna") for line in lines):
        lines.append(server.stdout.readline().strip())
        assert lines[-1], "it ended"
    yield lines
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0
    server.stdout.close()
    for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(lines)):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), 1)


def link(site: list[str], name: str) -> str:
    """The address that `pressft ui` printed behind a name."""
    (line,) = (line for line in site if line.startswith(name))
    found = re.search(r"http\S+", line)
    assert found
    return found[0]


def test_mlflow_shows_the_curves_of_several_runs_by_arm(browser: Chrome, site: list[str]) -> None:
    look(browser, link(site, "made:"))
    named = "[...document.body.innerText.matchAll(/Group: (\\w+)/g)].map((found) => found[1])"
    until(browser, f"return {named}.length >= 4", "runs grouped by arm")
    assert set(browser.execute_script(f"return {named}")) == {"none", "first", "middle", "last"}
    overlaid = (
        "return [...document.querySelectorAll('.js-plotly-plot')]"
        ".some((plot) => plot.querySelectorAll('.scatterlayer .trace').length >= 4)"
    )
    until(browser, overlaid, "curves of all arms in one chart")
    assert EVIL in browser.execute_script("return document.body.innerText")  # in the note
    assert complaints(browser) == []  # and no picture was asked for


def test_the_report_opens_in_mlflows_viewer_without_script_errors(
    browser: Chrome, site: list[str]
) -> None:
    runs = re.sub(r"\?.*", "", link(site, "made:"))
    look(browser, "about:blank")
    look(browser, f"{runs}?workflowType=machine_learning")
    links = "[...document.querySelectorAll('a')].find((a) => a.textContent === 'summary')"
    address = until(browser, f"return ({links} || {{}}).href", "the summary run")
    look(browser, "about:blank")
    page = "/artifacts/report.html?workflowType=machine_learning"
    look(browser, re.sub(r"\?.*", "", address) + page)
    until(browser, "return document.querySelector('iframe')", "the report's frame")
    browser.switch_to.frame(browser.find_element(By.TAG_NAME, "iframe"))
    finding = "return (document.querySelector('.finding') || {}).textContent"
    assert until(browser, finding, "the finding").startswith("With layer 2 removed")
    browser.find_element(By.CSS_SELECTOR, "[data-chart]:has([data-tip])").send_keys(Keys.RIGHT)
    assert browser.find_element(By.CSS_SELECTOR, "[role=status]").text  # its script runs
    browser.switch_to.default_content()
    assert complaints(browser) == []


def test_optunas_dashboard_lists_the_study(browser: Chrome, site: list[str]) -> None:
    look(browser, link(site, "Optuna"))
    until(browser, "return document.body.innerText.includes('made')", "the study")
