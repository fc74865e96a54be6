"""The viewer in a real browser: open, filter, search, unfold, compare, export, follow a dump that grows."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.assets.browser import answers, wait_until
from tests.assets.untrusted import EVIL
from tests.assets.viewer import Viewer
from verl_atpo.render.layout import ROOT
from verl_atpo.report.dump_reader import read_trees
from verl_atpo.report.record import Record, summarize
from verl_atpo.view.demo import demo_trees, write_demo

CLICK = """
const found = [...document.querySelectorAll(arguments[0])].find(each => each.getClientRects().length);
if (found) found.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
return Boolean(found);
"""


class Page:
    """What a test does in the browser; every look waits until there is something to see."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address

    def open(self, path: str) -> Page:
        self.browser.get(self.address + path)
        return self

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def one(self, selector: str) -> Any:
        return wait_until(lambda: [each for each in self.all(selector) if each.is_displayed()])[0]

    def text(self, selector: str) -> str:
        return self.look(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')", selector
        )

    def look(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def says(self, selector: str, words: str, seconds: float = 30) -> None:
        wait_until(lambda: words in self.text(selector), seconds)

    def click(self, selector: str) -> None:
        wait_until(lambda: self.look(CLICK, selector))

    def key(self, keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(keys).perform()

    def turns(self) -> list[int]:
        return list(self.look("return [...document.querySelectorAll('[data-node]')].map(e => Number(e.dataset.node))"))


@pytest.fixture
def page(chromium: Any, demo_viewer: Viewer) -> Page:
    return Page(chromium, demo_viewer.address)


@pytest.fixture(scope="module")
def trees(demo_folder: Path) -> list[Record]:
    return read_trees(demo_folder)


def mixed(trees: list[Record]) -> Record:
    """A tree with everything to look at, at the last step that has one."""
    return next(
        tree for tree in reversed(trees) if tree["summary"]["outcome"] == "mixed" and tree["summary"]["depth"] > 3
    )


def rows(page: Page) -> list[str]:
    return [row for row in page.text(".tree-table tbody").split("\n") if row]


def test_the_overview_shows_curves_and_trees(page: Page, trees: list[Record]) -> None:
    page.open("/").says("[data-part=count]", f"80 of {len(trees)} trees")
    page.says(".tree-table", "mixed")
    assert len(page.all(".tree-table tbody tr")) == 25
    wait_until(lambda: len(page.all("canvas")) >= 4)


def test_filters_narrow_the_table_and_go_into_the_address(page: Page, trees: list[Record]) -> None:
    wanted = [
        tree for tree in trees
        if tree["summary"]["outcome"] == "mixed" and tree["summary"]["tool_errors"] and tree["global_step"] >= 5
    ]  # fmt: skip
    page.open("/").says("[data-part=count]", "80 of 80")
    page.click("[data-part=outcome] button:nth-child(2)")
    page.one("[data-part=step_from]").send_keys("5")
    page.click("[data-part=troubles]")
    page.click(".q-menu .q-item")
    page.says("[data-part=count]", f"{len(wanted)} of 80 trees")
    wait_until(lambda: "troubles=tool_errors" in page.browser.current_url)
    page.browser.refresh()
    page.says("[data-part=count]", f"{len(wanted)} of 80 trees")


def test_search_looks_through_turns(page: Page, trees: list[Record]) -> None:
    wanted = [tree for tree in trees if any('query": "Lin Aoki' in node["text"] for node in tree["nodes"])]
    page.open("/").says("[data-part=count]", "80 of 80")
    page.key("/")
    wait_until(lambda: page.look("return document.activeElement.tagName") == "INPUT")
    page.key('"query Lin Aoki"')
    page.says("[data-part=count]", f"{len(wanted)} of 80 trees")
    assert 0 < len(wanted) < 80


def test_sorting_is_done_over_all_trees(page: Page, trees: list[Record]) -> None:
    seconds = [tree["summary"]["seconds"] for tree in trees if tree["summary"]["seconds"] is not None]
    page.open("/").says("[data-part=count]", "80 of 80")

    def click_brings(first: float) -> bool:
        """A click before the page is connected brings nothing, every other one turns the order round."""
        page.click(".tree-table th:last-child")
        with contextlib.suppress(TimeoutError):
            page.says(".tree-table tbody tr:first-child td:last-child", f"{first:.1f}", 3)
            return True
        return False

    for first in (min(seconds), max(seconds)):  # of all trees, not of the page's
        wait_until(lambda first=first: click_brings(first))


def test_a_tree_opens_with_the_turn_that_lost_a_point(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    page.open(f"/tree/{tree['uid']}").says("[data-part=selected]", "Turn 1, node 1")
    assert set(page.turns()) == {ROOT, *(node["index"] for node in tree["nodes"])}
    lost = next(node for node in tree["nodes"] if node["reward"] == 0.0)
    page.click(f"[data-node='{lost['index']}']")
    page.says("[data-part=selected]", f"node {lost['index']}")
    page.says("[data-part=sampled]", lost["text"].split("\n")[-1].removesuffix("<|im_end|>"))
    page.says("[data-part=panel]", f"{lost['advantage']:+.2f}")
    assert "<|im_end|>" not in page.text("[data-part=sampled]")


def test_why_a_turn_was_picked_is_said(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    pick = next(
        branch["selection"]
        for branch in tree["trajectories"]
        if branch["selection"] and branch["selection"]["node"] != ROOT
    )
    page.open(f"/tree/{tree['uid']}?node={pick['node']}")
    page.says("[data-part=why]", f"score {pick['score']:.3f}, penalty {pick['penalty']:.3f}, rank {pick['rank']} of")


def test_folding_is_kept_in_the_address(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    inner = next(node["index"] for node in tree["nodes"] if not node["is_leaf"])
    page.open(f"/tree/{tree['uid']}").says("[data-part=selected]", "node 1")
    page.click(f"[data-fold='{inner}']")
    wait_until(lambda: len(page.turns()) < len(tree["nodes"]) + 1)
    few = page.turns()
    wait_until(lambda: f"fold={inner}" in page.browser.current_url)
    page.browser.refresh()
    wait_until(lambda: page.turns() == few)
    page.key("u")
    wait_until(lambda: len(page.turns()) == len(tree["nodes"]) + 1)


def test_keys_lead_through_turns_and_trees(page: Page, trees: list[Record]) -> None:
    order = [tree["uid"] for tree in sorted(trees, key=lambda tree: tree["global_step"])]
    page.open(f"/tree/{order[40]}?order=up").says("[data-part=selected]", "node 1")
    from selenium.webdriver.common.keys import Keys

    page.key(Keys.ARROW_DOWN)
    wait_until(lambda: "node 1\n" not in page.text("[data-part=selected]") + "\n")
    page.key("j")
    wait_until(lambda: order[41] in page.browser.current_url)
    page.says("[data-part=selected]", "node")
    page.key("k")
    wait_until(lambda: order[40] in page.browser.current_url)
    page.says("[data-part=selected]", "node")
    page.key("m")
    after = next(tree["uid"] for tree in trees[41:] if tree["summary"]["outcome"] == "mixed")
    wait_until(lambda: after in page.browser.current_url)


def test_siblings_are_shown_as_a_diff(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    first, *others = [node for node in tree["nodes"] if node["parent"] == ROOT]
    page.open(f"/tree/{tree['uid']}?node={first['index']}").says("[data-part=siblings]", str(len(others)))
    page.click("[data-part=siblings]")
    wait_until(lambda: page.text("[data-part=diff] del") and page.text("[data-part=diff] ins"))
    page.click(f"[data-part=sibling-{others[-1]['index']}]")
    page.says("[data-part=diff]", f"NODE {others[-1]['index']}")


def test_token_nll_is_shown_on_demand(page: Page, trees: list[Record]) -> None:
    page.open(f"/tree/{mixed(trees)['uid']}").says("[data-part=selected]", "node 1")
    assert not page.all("[data-part=sampled] span[title]")
    page.key("h")
    wait_until(lambda: page.all("[data-part=sampled] span[title$=nats]"))


def test_the_row_of_the_trainer_the_branches_and_the_rest(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    page.open(f"/tree/{tree['uid']}").says("[data-part=selected]", "node 1")
    page.click("[data-part=tab-time]")
    page.says("[data-part=timeline]", "trajectory 15")
    page.click("[data-part=tab-rows]")
    page.says("[data-part=segments]", "turn of node 1")
    assert f"{tree['nodes'][0]['advantage']:+.4f}" in page.text("[data-part=segments]")
    page.click("[data-part=tab-trajectories]")
    page.says("[data-part=trajectories]", "answer_words")
    page.click("[data-part=tab-record]")
    page.says("[data-part=record]", '"hops"')


def test_a_prompt_over_time(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    same = [each for each in trees if each["prompt"] == tree["prompt"]]
    page.open(f"/tree/{tree['uid']}")
    page.click("[data-part=over-time]")
    wait_until(lambda: len(page.all("[data-part=stamp]")) == len(same) > 1)
    page.says("[data-part=turns]", f"step {same[0]['global_step']}")
    page.click("[data-part=turn] button:nth-child(2)")
    page.says("[data-part=turns] th:first-child", "turn 2")
    page.says("[data-part=changes]", "TURN 1, NODE")
    assert "VALUE" in page.text("[data-part=changes]") and page.text("[data-part=changes] ins")


def test_exports_are_files(page: Page, trees: list[Record], tmp_path: Path) -> None:
    tree = mixed(trees)
    page.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.open(f"/tree/{tree['uid']}").says("[data-part=selected]", "node 1")
    page.click("[data-part=export]")
    page.click(".q-menu .q-item:nth-child(1)")
    (file,) = wait_until(lambda: list(tmp_path.glob("tree-step*.html")))
    page.browser.get(file.as_uri())
    wait_until(lambda: len(page.all("details")) == len(tree["nodes"]))
    page.click(f"a[href='#turn-{tree['nodes'][-1]['index']}']")
    wait_until(lambda: page.all(f"details:target#turn-{tree['nodes'][-1]['index']}"))


def test_nothing_is_fetched_from_elsewhere_and_nothing_goes_wrong(page: Page, trees: list[Record]) -> None:
    page.browser.get_log("performance"), page.browser.get_log("browser")
    for path in ("/", f"/tree/{mixed(trees)['uid']}", f"/prompt/{mixed(trees)['summary']['prompt_key']}"):
        page.open(path).says("header", "80 trees")
    entries = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    sent = [entry["params"]["request"]["url"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
    assert len(sent) > 20 and all(url.startswith((page.address, "data:", "blob:")) for url in sent)
    assert [entry["message"] for entry in page.browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_what_a_model_wrote_is_text(chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    evil = EVIL
    record = next(demo_trees(1))
    for node in record["nodes"]:
        node.update(text=evil, observation=evil, tool_calls=[{"name": evil, "error": evil, "made": True}])
        del node["token_chars"]
    record["nodes"][1]["text"] = evil + "y" * 100_000
    record.update(
        prompt=evil, ground_truth=evil, data_source=evil, extra_info={evil: evil}, failed=evil, uid="u/?#<b>&"
    )
    record["trajectories"][0]["reward_extra"] = {evil: evil}
    record["summary"] = summarize(record)
    record["start"] = evil
    (tmp_path / "trees-1.jsonl").write_text(json.dumps(record) + "\n")
    (tmp_path / "1.jsonl").write_text(json.dumps({"input": evil, "output": evil, "score": 1.0, evil: evil}) + "\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": {f"val-core/{evil}": 1, evil: 2}}) + "\n")
    viewer = open_viewer(tmp_path)
    page = Page(chromium, viewer.address)
    page.open("/").says(".tree-table", "<script>document")
    page.click(".tree-table tbody a")
    page.says("[data-part=failed]", "onerror")
    page.says(
        "[data-part=sampled]",
        "{{constructor.constructor('document.title=\"owned\"')()}} **bold** [link](javascript:alert(1)) ␛[31m ⟨RLO⟩",
    )
    page.click("[data-node='2']")
    page.says("[data-part=panel]", "characters are not shown")
    page.click("[data-node='1']")
    page.says("[data-part=selected]", "node 1")
    page.click("[data-part=siblings]")
    page.says("[data-part=diff]", "<img src=x")
    for tab in ("transcript", "rows", "trajectories", "record"):
        page.click(f"[data-part=tab-{tab}]")
        page.says(".q-tab-panels", "onerror=")
    page.click("[data-part=over-time]")
    page.says("[data-part=turns]", "<script>")
    page.says("[data-part=task-facts]", "<script>")
    for path, part in (("/compare", "[data-part=run]"), ("/validation", "[data-part=validation]")):
        page.open(path).says(part, "<" if part == "[data-part=validation]" else "trees")
    assert "owned" not in page.browser.title
    assert not page.all("img[src=x], pre b, a[href^=javascript]")


def test_a_dump_that_grows_is_followed(chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    trees = [json.dumps(tree, ensure_ascii=False) + "\n" for tree in demo_trees(12)]
    path = tmp_path / "trees-1.jsonl"
    page = Page(chromium, open_viewer(tmp_path).address)
    page.open("/").says("[data-part=count]", f"no trees in {tmp_path} yet")
    path.write_text("".join(trees[:3]) + trees[3][:100])
    page.says("[data-part=count]", "3 of 3 trees")
    with path.open("a") as file:
        file.write(trees[3][100:] + "".join(trees[4:]))
    page.says("[data-part=count]", "12 of 12 trees")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "data": {"critic/score/mean": 0.5}}) + "\n")
    wait_until(lambda: page.look(
        "return [...document.querySelectorAll('canvas')].length > 0 && window.echarts !== null"))  # fmt: skip


def test_a_visitor_from_elsewhere_needs_the_token(
    chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    write_demo(tmp_path, 4)
    viewer = open_viewer(tmp_path, "--token", "secret")
    page = Page(chromium, viewer.address)
    page.open("/").says("body", "needs its token")
    page.open("/?token=secret").says("[data-part=count]", "4 of 4 trees")
    page.open("/").says("[data-part=count]", "4 of 4 trees")
    page.browser.delete_all_cookies()


def test_an_unknown_tree_is_said_to_be_none(page: Page) -> None:
    page.open("/tree/nobody").says("body", "Tree nobody is not in this run")
    page.open("/prompt/nobody").says("body", "No tree of this task")
    assert answers(f"{page.address}/export/html/nobody")


def test_many_visitors_at_once(demo_viewer: Viewer, trees: list[Record]) -> None:
    import urllib.request

    found: list[int] = []

    def visit(uid: str) -> None:
        with urllib.request.urlopen(f"{demo_viewer.address}/tree/{uid}", timeout=60) as answer:
            found.append(len(answer.read()))

    threads = [threading.Thread(target=visit, args=[tree["uid"]]) for tree in trees[:12]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and min(found) > 10_000


def test_markup_that_comes_into_a_page_runs_nothing(page: Page, trees: list[Record]) -> None:
    page.open(f"/tree/{mixed(trees)['uid']}").says("[data-part=selected]", "node 1")
    page.look("""
        const there = document.querySelector("[data-part=sampled]");
        there.innerHTML = `<img src="/no" onerror="document.title='owned'">
            <a id=evil onclick="document.title='owned'">x`;
        const script = document.createElement("script");
        script.textContent = "document.title='owned'";
        there.append(script);
        document.querySelector("#evil").click();
    """)
    wait_until(lambda: any("Content Security Policy" in each["message"] for each in page.browser.get_log("browser")))
    assert page.browser.title != "owned"


def test_an_advantage_is_explained_with_context_baseline_and_scale(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    node = next(each for each in tree["nodes"] if each["differences"][0]["baseline_from"] == "context")
    (term,) = node["differences"]
    page.open(f"/tree/{tree['uid']}?node={node['index']}")
    page.says("[data-part=explained]", f"({term['value']:.2f} over {term['baseline']:.2f}")
    page.says("[data-part=explained]", "turns in the same context")
    page.says("[data-part=explained]", f"multiplied by {term['scale']:.2f}")
    page.click("[data-node='0']")
    page.says("[data-part=panel]", f"Value of the prompt {tree['root_value']:.2f}: the mean reward")


def test_turns_of_equal_contexts_elsewhere_are_shown(
    chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    tree = next(demo_trees(1))
    for node in tree["nodes"][:3]:
        node["context"] = 1
    (tmp_path / "trees-1.jsonl").write_text(json.dumps(tree) + "\n")
    page = Page(chromium, open_viewer(tmp_path).address)
    page.open("/").says("[data-part=count]", "1 of 1 trees")
    page.open(f"/tree/{tree['uid']}?node=1").says("[data-part=siblings]", "(")
    page.click("[data-part=siblings]")
    page.says("[data-part=elsewhere]", "AFTER EQUAL TURNS OF OTHER TRAJECTORIES")
    page.click("[data-part=sibling-2]")
    page.says("[data-part=diff]", "NODE 2")


def test_a_trajectory_is_read_in_the_order_in_which_it_happened(page: Page, trees: list[Record]) -> None:
    tree = mixed(trees)
    page.open(f"/tree/{tree['uid']}?node=1").says("[data-part=transcript]", "turn 1: search(")
    words = page.text("[data-part=transcript]")
    places = [
        words.index(each) for each in ("turn 1: search(", "search answered after", "worked in", "turn 2:", "reward ")
    ]
    assert places == sorted(places)
    page.says("[data-part=transcript]", f"{tree['nodes'][0]['advantage']:+.2f} =")


def test_the_health_of_a_run_is_shown_and_alarms_are_said(
    chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    write_demo(tmp_path, 16)
    page = Page(chromium, open_viewer(tmp_path).address)
    page.open("/").says("[data-part=health]", "entropy")
    assert {"KL", "clipped", "gradient norm", "reward"} <= set(page.text("[data-part=figure]").split("\n"))
    assert not page.all("[data-part=alarm]")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        for step in (3, 4, 5):
            data = {"atpo/equal_rewards_share": 1.0, "actor/grad_norm": float("nan")}
            file.write(json.dumps({"step": step, "data": data}) + "\n")
    page.says("[data-part=alarm]", "The last 3 steps taught nothing")
    page.says("[data-part=health]", "NaN")
    week = time.time() - 7 * 86400
    for path in tmp_path.rglob("*.jsonl"):
        os.utime(path, (week, week))
    page.says("[data-part=alarm]", "No news for 7.0 days")


def test_runs_of_a_folder_are_picked_from_and_laid_side_by_side(
    chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    for name, seed, start in (("one", 0, "20260101-000000-a"), ("two", 5, "20260102-000000-b")):
        write_demo(tmp_path / name, 16, seed=seed)
        path = tmp_path / name / "trees" / "trees-1.jsonl"
        path.write_text(path.read_text().replace("20260102-030405-demo", start).replace("demo-0", f"{name}-0"))
    page = Page(chromium, open_viewer(tmp_path).address)
    page.open("/").says("[data-part=count]", "32 of 32 trees")
    page.click("[data-part=run]")
    page.says(".q-menu", "one/trees, started 2026-01-01 00:00:00, steps 1 to 2, 16 trees")
    page.click(".q-menu .q-item:nth-child(3)")
    page.says("[data-part=count]", "16 of 32 trees")
    assert "one-000" in page.look("return document.querySelector('.tree-table a').href")
    page.open("/compare").says("[data-part=tasks]", "rival of")
    wait_until(lambda: len(page.all("[data-part=compared] canvas")) >= 8)
    assert "-0.00" not in page.text("[data-part=tasks]")


def test_validation_trajectories_are_shown(page: Page, demo_folder: Path) -> None:
    page.open("/validation").says("[data-part=validation-facts]", "8 trajectories, mean score")
    page.says("[data-part=validation]", "answer: ")
    page.click("[data-part=validation] tbody tr")
    page.says("[data-part=validation-trajectory]", "<tool_response>")


def test_where_turns_were_selected_is_counted(page: Page) -> None:
    page.open("/").says("[data-part=count]", "80 of 80 trees")
    page.says("[data-part=selections]", "where turns were selected for re-sampling")
    page.click("[data-part=selections] .q-item")
    wait_until(lambda: len([each for each in page.all("[data-part=bars] canvas") if each.is_displayed()]) == 3)


def test_search_finds_failures(page: Page, trees: list[Record]) -> None:
    wanted = [tree for tree in trees if tree["failed"] or any(branch["failures"] for branch in tree["trajectories"])]
    page.open("/?text=ToolOutage").says("[data-part=count]", f"{len(wanted)} of 80 trees")
    assert 0 < len(wanted) < 80


def test_what_the_index_skipped_is_said(chromium: Any, open_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    page = Page(chromium, open_viewer(tmp_path).address)
    page.open("/").says(
        "[data-part=count]", f"no trees in {tmp_path} yet: a run writes them with algorithm.atpo.dump_dir"
    )
    tree = next(demo_trees(1))
    odd = json.dumps({**tree, "uid": "odd", "nodes": [{"index": "x"}]})
    (tmp_path / "trees-1.jsonl").write_text(f"nonsense\n{json.dumps(tree)}\n{odd}\n")
    page.says("[data-part=skipped]", "2 lines hold no tree; the first: no JSON")
    page.says("[data-part=count]", "1 of 1 trees")
