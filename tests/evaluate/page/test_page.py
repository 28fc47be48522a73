"""The page of some results stands by itself, links every number and fits a phone."""

import json
from functools import partial
from pathlib import Path

import pytest

from megatron_ettin.commands.evaluate import main
from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.page.document import Evidence
from megatron_ettin.evaluate.page.figures import draw_scores, figure
from megatron_ettin.evaluate.page.scores import results_page
from megatron_ettin.evaluate.suites.columns import merged
from megatron_ettin.evaluate.suites.published import TEN_TASKS, WHOLE_SPLITS
from megatron_ettin.evaluate.suites.results import SCHEMA
from tests.evaluate.suites.test_table import result, write
from tests.support.html import assert_sound, browser, widths

KINDS = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")
PHONE, DESKTOP = 390, 1280
SMALLEST_LETTERS = 9.0
"""Pixels; what is smaller cannot be read at arm's length."""


def four_models(folder: Path) -> Path:
    """Results of all kinds in three suites: with chance, losses, averages, published figures, and a task not run."""
    chance = {"details": {"chance": 0.25}}
    loss = {"unit": "nats", "higher_is_better": False, "metric": "nats per token"}
    whole = WHOLE_SPLITS["generative"]
    models = {}
    for number, kind in enumerate(KINDS):
        suites = {
            "stdlib": {"module_of_function": result(0.3 + 0.1 * number, **chance),
                       "right_continuation": {"status": "not run", "reason": "no folder <x> & more"}},
            "losses": {"masked": result(3.0 + number, **loss)},
            "generative": {task: result(0.2 + 0.01 * number, examples=whole[task]) for task in TEN_TASKS},
        }  # fmt: skip
        models[kind] = {"kind": kind, "fingerprint": kind, "suites": suites}
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"schema": SCHEMA, "models": models}))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return results_page(merged([four_models(tmp_path_factory.mktemp("page") / "results")]))


def test_every_number_links_to_its_json_in_the_page(page):
    found = assert_sound(page)
    anchor = "json-decoder-generative-piqa"
    assert anchor in found.ids and f"#{anchor}" in found.links
    start = page.index(f'id="{anchor}"')
    assert "&quot;value&quot;: 0.21" in page[start : start + 1_000], "the entry holds the result"
    assert "json-decoder-generative-mean" in found.ids, "an average links to what it is made of"


def test_intervals_marks_and_guessing_are_told(page):
    assert ">60.0</a><small>[58.0, 62.0]</small>" in page and 'class="best"' in page and "\u2248" in page
    assert "dashed: guessing, 25.0" in page
    assert "no folder &lt;x&gt; &amp; more" in page, "reasons are text"
    assert "Ettin-Dec-150m" in page and "Published figures" in page


def test_names_from_results_cannot_be_markup(tmp_path):
    name = '<script>alert("x")</script>'
    scores = {name: {"<b>t": result(0.5)}, "b": {"<b>t": result(0.4)}}
    page = results_page(merged([write(tmp_path / "x", "s", **scores)]))
    assert_sound(page)
    assert "<b>" not in page


def test_the_same_results_give_the_same_page(page, tmp_path):
    assert results_page(merged([four_models(tmp_path / "results")])) == page


def test_colours_and_marks_of_a_plot_are_those_of_the_page():
    from megatron_ettin.evaluate.page.figures import Mark

    marks = {"one": Mark(value=1.0, interval=(0.5, 1.5), target="json-one", series=1)}
    draw = partial(draw_scores, marks=marks, title="T", unit="u", reference=None)
    shown = figure(draw, name="a b", caption="c", height=1.5)
    assert "var(--series-1)" in shown and "var(--ink)" in shown and 'href="#json-one"' in shown
    assert "#D55E00".lower() not in shown.lower() and "<metadata" not in shown and "<?xml" not in shown


def test_one_anchor_never_stands_for_two_entries():
    evidence = Evidence()
    assert evidence.anchor("a / b", {"x": 1}) == evidence.anchor("a / b", {"x": 1})
    anchors = [evidence.anchor(title, {"x": 2}) for title in ("a | b", "A (b)", "a | b")]
    assert anchors == ["json-a-b-2", "json-a-b-3", "json-a-b-2"]
    with pytest.raises(ValueError, match="the title of two entries"):
        evidence.anchor("a / b", {"x": 2})


def test_table_writes_the_page_where_it_is_asked_for(tmp_path, capsys):
    results = four_models(tmp_path / "results")
    target = tmp_path / "out" / "page.html"
    assert main(["--table", str(results), "--html", str(target)]) == 0
    assert_sound(target.read_text())
    assert "## stdlib" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="goes with --table"):
        main(["model", "--html", str(target)])


@pytest.mark.skipif(browser() is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_fits_the_screen_and_letters_can_be_read(width, page, tmp_path):
    needed, height, letters = widths(page, width, tmp_path)
    assert needed <= width and height > 844
    assert len(letters) == 13 and min(letters) >= SMALLEST_LETTERS
