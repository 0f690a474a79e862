"""A real Chromium for tests: Debian's own, driven by playwright; and what is asked of each page."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from msgspec import Struct
from playwright.sync_api import Browser, Page, sync_playwright

HOW_TO_GET_IT = "Chromium is not installed: apt-get install chromium"
LARGEST_SHIFT = 0.05
# What modules load after the page has been: there is no moment when nothing is on its way, while numbers follow.
MODULES_MS = 1_500
_OPTIONS = (
    "--no-sandbox",  # the tests may run as root, which the sandbox refuses
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa")
_COLLECT_SHIFTS = """
    window.shifts = [];
    new PerformanceObserver((seen) => {
      for (const entry of seen.getEntries())
        if (!entry.hadRecentInput)
          window.shifts.push([entry.value, entry.sources.map(({ node }) => node?.outerHTML?.slice(0, 120) ?? node?.data)]);
    }).observe({ type: "layout-shift", buffered: true });
"""


def chromium() -> str | None:
    """Return the program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def started() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


def watch(page: Page, own: str, said: list[str]) -> None:
    """Write down in `said` what a page complains of: what the console shows, exceptions, requests elsewhere than `own`."""
    page.add_init_script(_COLLECT_SHIFTS)
    page.on("console", lambda line: said.append(f"{line.type}: {line.text}") if line.type != "log" else None)
    page.on("pageerror", lambda error: said.append(f"exception: {error}"))
    page.on("request", lambda request: None if request.url.startswith((own, "data:")) else said.append(request.url))


def loaded(page: Page) -> dict[str, int]:
    """Return the bytes of scripts and style sheets as they are sent to a page, counted from now on."""
    sizes = {"script": 0, "stylesheet": 0}

    def count(request: Any) -> None:
        if request.resource_type in sizes:
            # Asked for beforehand: other requests are counted while this waits for the answer, and would be forgotten.
            size = request.sizes()["responseBodySize"]
            sizes[request.resource_type] += size

    page.on("requestfinished", count)
    return sizes


def axe(page: Page) -> list[str]:
    """Return what breaks WCAG 2.1 A or AA on the page as it stands: the rule, where, and why."""
    page.evaluate(_axe())
    found = page.evaluate("(tags) => axe.run(document, {runOnly: tags})", list(_RULES))
    return [
        f"{violation['id']}: {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


@cache
def _axe() -> str:
    return (Path(__file__).parent / "vendor" / "axe" / "axe.min.js").read_text()


def layout_shift(page: Page) -> float:
    """Return by how much has moved what stood already, all added up: never less than the CLS of browsers."""
    return float(page.evaluate("window.shifts.reduce((sum, [value]) => sum + value, 0)"))


def shifted(page: Page) -> list[Any]:
    """Return each shift with what moved: for the message of a failed test."""
    return list(page.evaluate("window.shifts"))


class Node(Struct, frozen=True):
    """A part of the accessibility tree, as a screen reader is told of it."""

    role: str
    name: str
    description: str
    properties: dict[str, Any]
    children: "list[Node]"

    def all(self, role: str) -> "list[Node]":
        """Return every part of this role below, in the order of the page."""
        return [
            found for child in self.children for found in (*([child] if child.role == role else []), *child.all(role))
        ]

    def one(self, role: str, name: str) -> "Node":
        """Return the one part of this role whose name begins so."""
        (found,) = (node for node in self.all(role) if node.name.startswith(name))
        return found

    @property
    def text(self) -> str:
        """Return what is read out."""
        return " ".join(part.name for part in self.all("StaticText"))


def accessibility_tree(page: Page) -> Node:
    """Return Chromium's own accessibility tree of the page; parts that it ignores are left out, their children aren't."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    by_id = {node["nodeId"]: node for node in nodes}

    def of(node: dict[str, Any]) -> list[Node]:
        children = [found for child in node.get("childIds", ()) if child in by_id for found in of(by_id[child])]
        if node.get("ignored"):
            return children
        properties = {one["name"]: one["value"].get("value") for one in node.get("properties", ())}
        words = (str(node.get(key, {}).get("value", "")) for key in ("role", "name", "description"))
        return [Node(*words, properties, children)]

    (root,) = of(next(node for node in nodes if "parentId" not in node))
    return root
