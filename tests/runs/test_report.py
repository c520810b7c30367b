"""The report: its numbers are those of the files, and it is one file that asks for nothing."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gaal_fast import compare, train
from gaal_fast.errors import UserError
from gaal_fast.runs import analysis as files
from gaal_fast.runs import report
from gaal_fast.runs.folder import RunFolder
from gaal_fast.runs.report import charts
from tests.commands.conftest import Answer, flags, run_command, trees  # noqa: F401
from tests.runs.browser import Browser, chromium

EVIL = "<script>alert(1)</script>"
LONG = 'a&b "c" $x_1$ ' + "y" * 60
BREAKS = "</td><img src=x onerror=alert(1)>"
# What a page may not hold, and where it may link to: into itself, or below its own folder.
FORBIDDEN = ("<script", "javascript:", "http:", "https:", "@import", "<link", "<iframe", "xmlns")
LINK = re.compile(r"#[\w-]+|(?!/|\.\.|\w+:)[\w./%-]+/report\.html")


class Read(HTMLParser):
    """The numbers of a page with their places, and all that it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[dict[str, str]] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.charts: list[dict[str, str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        assert not any(name.startswith("on") for name in found), found
        if tag == "data":
            self.numbers.append({**found, "text": ""})
        if tag == "img":
            self.images.append(found)
        if tag == "svg":
            self.charts.append(found)
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        self.links += [found[name] for name in ("href", "xlink:href", "srcset") if name in found]
        if "src" in found:
            assert found["src"].startswith("data:image/jpeg;base64,")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.lasttag == "data" and self.numbers and not self.numbers[-1]["text"]:
            self.numbers[-1]["text"] = data


def at(content: object, dotted: str) -> object:
    """What a JSON file holds under a dotted key."""
    for key in dotted.split("."):
        assert isinstance(content, dict)
        content = content[key]
    return content


def check_numbers(page: Path) -> int:
    """Every number of a page equals the file beside it, in value and in the digits shown; how many
    there are.
    """
    found = Read(page.read_text(encoding="utf-8")).numbers
    frames: dict[str, pd.DataFrame] = {}
    for number in found:
        source, column = number["data-source"], number["data-column"]
        value = float(number["value"])
        if source == files.MISTAKES:
            rows = json.loads((page.parent / source).read_text())["rows"]
            expected = rows[int(number["data-row"])][column]
        elif source.endswith(".json"):
            expected = at(json.loads((page.parent / source).read_text()), column)
        else:
            if source not in frames:
                path = page.parent / source
                frames[source] = pd.read_csv(path, dtype=str, keep_default_na=False)
            expected = float(frames[source][column].iloc[int(number["data-row"])])
        assert value == expected, number
        shown = number["text"].replace("\N{MINUS SIGN}", "-")
        percent = shown.endswith("%")
        digits = len(shown.rstrip("%").partition(".")[2])
        scale = 100 if percent else 1
        assert float(shown.rstrip("%")) == pytest.approx(
            value * scale, abs=0.5000001 * 10**-digits, rel=6e-4
        ), number
    return len(found)


def check_alone(page: Path) -> Read:
    """The page needs nothing but itself."""
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < report.LARGEST
    for word in FORBIDDEN:
        assert word not in text, word
    assert not re.search(r"url\((?!#)", text)
    found = Read(text)
    for link in found.links:
        assert LINK.fullmatch(link) or link.startswith("data:image/png;base64,"), link
    assert all(image["alt"] for image in found.images)
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in found.charts)
    assert found.headings[0] == "h1" and found.headings.count("h1") == 1
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    return found


def write_evil(folder: Path, rows: int = 120) -> Path:
    """A table whose names, cells and labels are HTML, with two images that cannot be used."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, rows)
    images = folder / "images"
    images.mkdir(parents=True)
    for row in range(rows):
        pixels = rng.integers(0, 200, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{row:03d}.png")
    (images / "000.png").write_bytes(b"no image")
    names = np.array([f"<b>{EVIL}", '"NA"', "007"])
    frame = pd.DataFrame(
        {
            "photo": [f"{row:03d}.png" for row in range(rows)],
            EVIL: np.round(label + rng.normal(0, 1, rows), 2),
            LONG: rng.choice([BREAKS, "w" * 150], rows),
            "always": "same",
            "species": names[label],
        }
    )
    frame.to_csv(folder / "evil.csv", index=False)
    return folder / "evil.csv"


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evil")
    run = folder / "run"
    assert train.main(flags(write_evil(folder), run)) == 0
    return run


@pytest.fixture(scope="module")
def values(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A regression."""
    run = tmp_path_factory.mktemp("values") / "run"
    more = ["--data.target", "age", "--data.task", "regression", "--data.val-fraction", "0.4"]
    assert train.main([*flags(trees, run), *more]) == 0
    return run


@pytest.fixture(scope="module")
def compared(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    run = tmp_path_factory.mktemp("compared") / "run"
    more = ["--methods", "gaal,table", "--train.seeds", "2", "--train.epochs", "1"]
    assert compare.main([*flags(trees, run), *more]) == 0
    return run


def pages(evil: Path, values: Path, compared: Path) -> Iterator[Path]:
    yield from (evil / files.REPORT, values / files.REPORT, compared / files.REPORT)
    yield from (compared / "gaal" / files.REPORT, compared / "table" / "seed-0" / files.REPORT)


def test_every_number_is_that_of_the_file_beside_it(
    evil: Path, values: Path, compared: Path
) -> None:
    assert check_numbers(evil / files.REPORT) > 100
    assert check_numbers(values / files.REPORT) > 80
    assert check_numbers(compared / files.REPORT) >= 14
    assert check_numbers(compared / "gaal" / files.REPORT) >= 8


def test_a_number_that_differs_is_seen(evil: Path, tmp_path: Path) -> None:
    shutil.copytree(evil, tmp_path / "run")
    scores = tmp_path / "run" / files.SCORES
    frame = pd.read_csv(scores)
    frame.loc[frame["part"] == "test", "value"] += 1e-12
    frame.to_csv(scores, index=False)
    with pytest.raises(AssertionError, match=r"'data-source': 'scores\.csv'"):
        check_numbers(tmp_path / "run" / files.REPORT)


def test_a_report_is_one_file_that_asks_for_nothing(
    evil: Path, values: Path, compared: Path
) -> None:
    for page in pages(evil, values, compared):
        check_alone(page)


def test_what_the_table_says_is_text(evil: Path) -> None:
    found = check_alone(evil / files.REPORT)
    for words in (EVIL, f"<b>{EVIL}", LONG, BREAKS, '"NA"', "007"):
        assert words in found.text, words


def test_the_first_screen_has_verdict_scores_and_alerts(evil: Path) -> None:
    text = Read((evil / files.REPORT).read_text()).text
    assert re.search(r"On 24 test rows the fused prediction has an accuracy of 0\.\d{3} \(95", text)
    told = text[text.index("Alerts") : text.rindex("By class")]
    assert "the test part has 24 rows" in told
    assert 'column "photo"' in told and "row 1;" in told
    assert 'column "always": is constant' in told
    assert len(json.loads((evil / files.MISTAKES).read_text())["rows"]) <= 12


def test_ceilings_are_shown_beside_the_scores(evil: Path, compared: Path, tmp_path: Path) -> None:
    """On the pages of a run, of several seeds and of a comparison."""
    for source in (evil, compared, compared / "gaal"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(source, tmp_path / "run")
        folder = RunFolder(tmp_path / "run")
        folder.file("ceilings.csv").write_text(
            "name,inputs,learner,features,chosen,train_rows,val,test\n"
            "table trees,table,trees,table,9 rounds,48,0.5,0.987654\n"
            "not measured,image,trees,image,9 rounds,48,,\n"
        )
        page = folder.file(files.REPORT)
        report.write(folder, page)
        check_numbers(page)
        text = Read(page.read_text()).text
        assert "Simple models on the same rows are hollow" in text
        assert "0.988" in text and "not measured" not in text
        if source is evil:
            assert "; of the simple models table trees reaches more, 0.988." in text
        elif source == compared:  # in the column of its modality, after those of fused and image
            assert "table trees––0.988" in text


def test_a_folder_of_an_earlier_version_has_a_report_of_what_it_holds(
    evil: Path, tmp_path: Path
) -> None:
    shutil.copytree(evil, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for name in (*files.COLUMNS, files.FACTS, files.MISTAKES, files.CALIBRATION, files.OUTCOMES):
        folder.file(name).unlink(missing_ok=True)
    page = folder.file(files.REPORT)
    report.write(folder, page)
    assert check_numbers(page) > 5
    text = check_alone(page).text
    assert "Learning curves" in text and "accuracy of 0." in text and "Calibration" not in text
    folder.file("metrics.csv").write_text("epoch\n")  # a file that was cut off
    report.write(folder, page)
    assert "Learning curves" not in check_alone(page).text


def test_any_single_file_may_be_absent(
    evil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "_draw", lambda alt, *_, **__: f"<svg>{alt}</svg>")
    shutil.copytree(evil, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    for name in (
        *files.COLUMNS,
        files.FACTS,
        files.MISTAKES,
        files.CALIBRATION,
        "environment.json",
    ):
        if folder.file(name).is_file():
            content = folder.file(name).read_bytes()
            folder.file(name).unlink()
            assert "<h1>" in report.html(folder), name
            folder.file(name).write_bytes(content)


def test_a_comparison_links_to_its_runs_and_compares_in_pairs(compared: Path) -> None:
    found = check_alone(compared / files.REPORT)
    links = [link for link in found.links if not link.startswith("#")]
    assert links == [
        f"{method}/{place}report.html"
        for method in ("gaal", "table")
        for place in ("", "seed-0/", "seed-1/")
    ]
    assert all((compared / link).is_file() for link in links)
    row = pd.read_csv(compared / files.DIFFERENCES).iloc[0]
    assert (row["method"], row["seeds"], row["score"]) == ("table", 2, "accuracy")
    means = pd.read_csv(compared / "comparison.csv").query("modality == 'fused'")
    gap = means["accuracy"].iloc[1] - means["accuracy"].iloc[0]
    assert row["difference"] == pytest.approx(gap)
    assert row["low"] <= row["difference"] <= row["high"]


def test_the_same_files_give_the_same_page(evil: Path, values: Path) -> None:
    for run in (evil, values):
        assert report.html(RunFolder(run)) == (run / files.REPORT).read_text(encoding="utf-8")


def test_a_run_outlives_a_report_that_cannot_be_written(
    trees: Path,  # noqa: F811
    tmp_path: Path,
    run_command: Callable[..., Answer],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.html")

    monkeypatch.setattr(report, "write", full)
    run = tmp_path / "run"
    answer = run_command("train", *flags(trees, run), "--train.epochs", "1")
    assert answer.code == 0
    assert (run / "summary.json").is_file() and not (run / files.REPORT).exists()
    (line,) = [line for line in answer.err.splitlines() if "report.html" in line]
    assert line.startswith("warning: no report.html for") and "No space left" in line


def test_evaluate_makes_the_report_again_without_the_data(
    evil: Path,
    tmp_path: Path,
    run_command: Callable[..., Answer],  # noqa: F811
) -> None:
    shutil.copytree(evil, tmp_path / "run")
    out = tmp_path / "again.html"
    given = ("evaluate", "--run", tmp_path / "run", "--report")
    answer = run_command(*given, out)
    assert (answer.code, answer.err) == (0, "")
    assert out.read_bytes() == (evil / files.REPORT).read_bytes()
    answer = run_command(*given, out)
    assert answer.code == 2 and "exists and is not overwritten" in answer.err
    answer = run_command(*given, tmp_path / "b.html", "--split", "val")
    assert answer.code == 2 and answer.err.startswith("error: --split does not go with --report")
    (tmp_path / "run" / "summary.json").unlink()
    answer = run_command(*given, tmp_path / "b.html")
    assert answer.code == 2 and "the run has not finished" in answer.err
    assert not (tmp_path / "b.html").exists()
    folder = RunFolder(tmp_path / "run")
    folder.write_json("summary.json", {"test": {"rows": {"fused": 3}}})
    with pytest.raises(UserError, match="do not fit together"):
        report.html(folder)


@pytest.mark.skipif(chromium() is None, reason="needs Chromium; there is none here")
def test_in_a_browser_nothing_is_asked_for_and_nothing_overflows(
    evil: Path, values: Path, compared: Path, tmp_path: Path
) -> None:
    with Browser(tmp_path) as browser:
        for page in pages(evil, values, compared):
            grounds = set()
            for width, height in ((1280, 800), (390, 844)):
                for dark in (False, True):
                    browser.open(page, width=width, height=height, dark=dark)
                    asked = [url for url in browser.requests() if not url.startswith("data:image/")]
                    assert asked == [page.absolute().as_uri()]
                    assert browser.evaluate("innerWidth") == width
                    assert browser.evaluate("document.documentElement.scrollWidth") <= width
                    # Wide tables scroll inside their own box.
                    wide = browser.evaluate(
                        "[...document.querySelectorAll('body *')].filter(e => !e.closest('svg') &&"
                        " !e.closest('.scroll') && e.getBoundingClientRect().right >"
                        " innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
                    )
                    assert wide == []
                    script = "typeof alerted + document.scripts.length"
                    assert browser.evaluate(script) == "undefined0"
                    ground = "getComputedStyle(document.body).backgroundColor"
                    grounds.add(browser.evaluate(ground))
                    shot = tmp_path / "shot.png"
                    browser.screenshot(shot, whole=False)
                    pixels = np.asarray(Image.open(shot).convert("L"), dtype=np.float64)
                    assert pixels.shape == (height, width)
                    # Mostly ground, with ink on it: read on light as on dark.
                    assert (np.median(pixels) < 80) == dark and pixels.std() > 15
                    complaints = [e for e in browser.events if e["method"] == "Log.entryAdded"]
                    assert complaints == []
            assert len(grounds) == 2
