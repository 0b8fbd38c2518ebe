"""The report: its numbers are those of the records, its sentence is honest both ways, and it loads nothing."""

import base64
import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotly.graph_objects import Figure

from drawstream import Catalog, FeatureTable, SwiftSampler, effective_sample_size
from drawstream.tools.report import Picture, SampledRows, by_percentile, compare, extremes, plane, write_report
from drawstream.tools.report.gallery import FRAME, framed
from drawstream.tools.report.groups import groups_of
from drawstream.tools.report.pages.search import shown_rows
from drawstream.tools.report.records import read_records
from drawstream.tools.runs import write_json
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, write_table

ROWS = 400
LAST = {"uniform": [70.0, 71.5, 69.25], "swift": [90.25, 91.75, 90.5]}
BEST = {"uniform": [89.0, 92.0, 90.0], "swift": [91.0, 92.5, 90.75]}


@pytest.fixture(scope="session")
def trains(make_run):
    """Write three seeds of methods, by their last and best accuracies."""

    def act(folder: Path, last: dict[str, list[float]], best: dict[str, list[float]]) -> Path:
        for method, values in last.items():
            for seed, value in enumerate(values):
                make_run(folder / f"{method}-{seed}", method, seed, value, best=best[method][seed])
        return folder

    return act


@pytest.fixture(scope="module")
def demo(searched: Path, trains, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of two methods and one search, as a demo leaves them."""
    folder = trains(tmp_path_factory.mktemp("demo"), LAST, BEST)
    shutil.copytree(searched, folder / "search")
    return folder


def render(folder: Path, out: Path) -> str:
    write_report(folder, out)
    return out.read_text(encoding="utf-8")


def own(page: str) -> str:
    """The page without plotly.js."""
    start = page.index("<script>/**")
    return page[:start] + page[page.index("</script>", start) :]


def words(page: str) -> str:
    """What a reader sees, charts left out."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", own(page), flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", bare)))


def charts(page: str) -> list[dict]:
    return [
        json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, flags=re.S)
    ]


def cells(page: str, first: str) -> list[str]:
    """Texts of the table row that begins with a given cell."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    return next(row[1:] for row in found if row and row[0] == first)


def test_page_shows_the_numbers_of_the_records(demo: Path, tmp_path: Path):
    page = render(demo, tmp_path / "report.html")
    assert cells(page, "Uniform, last epoch") == ["70.25", "± 1.15", "70.00", "71.50", "69.25"]
    assert cells(page, "Swift Sampler, last epoch") == ["90.83", "± 0.80", "90.25", "91.75", "90.50"]
    assert cells(page, "Uniform, best epoch (oracle)") == ["90.33", "± 1.53", "89.00", "92.00", "90.00"]
    assert cells(page, "Uniform, early stopping")[2:] == ["88.50", "91.50", "89.50"]
    text = words(page)
    assert "digits, 40 % label noise" in text
    assert "picked in hindsight" in text
    result = charts(page)[0]
    assert result["data"][0]["x"] == LAST["uniform"]


def test_sampler_statistics_equal_those_of_its_probabilities(demo: Path, searched: Path, tmp_path: Path):
    page = render(demo, tmp_path / "report.html")
    catalog, sampler = Catalog.open(searched / "data"), SwiftSampler.load(searched / "sampler.json")
    p = sampler.probabilities(FeatureTable.open(searched / "features").columns("loss", "entropy"))
    noisy = catalog.label != catalog.clean_label
    assert cells(page, "Effective sample size (rows)") == ["400", f"{effective_sample_size(p):,.0f}"]
    assert cells(page, "Draws with a wrong label (%)") == [f"{100 * noisy.mean():.1f}", f"{100 * p[noisy].sum():.1f}"]
    assert p[noisy].sum() < 0.5 * noisy.mean()
    assert cells(page, "Rows with probability 0 (%)") == ["0.0", f"{100 * (p == 0).mean():.1f}"]
    bars = [trace for figure in charts(page) for trace in figure["data"] if trace["type"] == "bar"]
    after = [100 * p[catalog.label == label].sum() for label in range(10)]
    assert bars[0]["y"] == pytest.approx(np.bincount(catalog.label) / 4)
    assert bars[1]["y"] == pytest.approx(after)


def test_plane_and_percentiles_hold_every_row(searched: Path):
    sampling = SampledRows.open(read_records(searched)[1][0])
    cut = plane(sampling, *sampling.axes())
    assert cut.names == ("loss", "entropy")
    assert cut.rows.sum() == ROWS
    seen = cut.rows > 0
    assert (cut.rows[seen] * cut.ratio[seen]).sum() == pytest.approx(ROWS)
    assert cut.noisy is not None
    assert (cut.rows[seen] * cut.noisy[seen]).sum() == pytest.approx(sampling.noisy.sum())
    assert np.isnan(cut.ratio[~seen]).all()
    loss = sampling.table.columns("loss")["loss"]
    corner = loss <= np.sort(loss)[ROWS // len(cut.rows) - 1]  # the first column: the rows of lowest loss
    assert cut.rows[:, 0].sum() == pytest.approx(corner.sum(), abs=1)
    centres, means = by_percentile(sampling, "loss")
    assert centres.tolist() == [2.5 + 5 * i for i in range(20)]
    assert means.mean() == pytest.approx(1)  # 400 rows of distinct loss: 20 in each bin
    assert means[0] == pytest.approx(sampling.ratio[np.argsort(loss)[:20]].mean())


def test_trials_and_confirmation_are_drawn_as_recorded(demo: Path, searched: Path, tmp_path: Path):
    record = json.loads((searched / "search.json").read_text())
    figures = charts(render(demo, tmp_path / "report.html"))
    trials = next(figure for figure in figures if figure["layout"]["xaxis"]["title"]["text"] == "Trial")
    points, best, *lost = trials["data"]
    scores = [trial["value"] for trial in record["trials"] if trial["value"] is not None]
    assert points["y"] == scores
    assert best["y"] == [max(scores[: i + 1]) for i in range(len(scores))]
    assert [trace["name"] for trace in lost] == ["Degenerate, not run", "Uniform, in this search"]
    assert lost[1]["y"] == [scores[0]] * 2  # the first of the designed starts
    assert len(lost[0]["x"]) == sum(trial["state"] == "pruned" for trial in record["trials"])
    confirm = next(figure for figure in figures if figure["layout"]["xaxis"]["title"]["text"] == "Candidate")
    control = [point["value"] for point in record["confirmation"] if point["candidate"] == -1]
    assert confirm["data"][0]["name"] == "Uniform"
    assert confirm["data"][0]["y"] == control


def test_images_carry_labels_true_labels_and_probability(demo: Path, tmp_path: Path):
    page = render(demo, tmp_path / "report.html")
    assert own(page).count('src="data:image/png;base64,') == 48
    assert len(re.findall(r"<b>true: \d</b>", page)) >= 12  # the least likely are nearly all noisy


def test_every_figure_is_valid_plotly(demo: Path, tmp_path: Path):
    figures = charts(render(demo, tmp_path / "report.html"))
    assert len(figures) == 11
    for figure in figures:
        assert Figure(figure).data
        titles = [figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
        assert all(titles) or titles == ["Accuracy on the test set (%)", ""]


def test_page_loads_and_sends_nothing(demo: Path, tmp_path: Path):
    page = render(demo, tmp_path / "report.html")
    assert "http://" not in own(page)
    assert "https://" not in own(page)
    assert not re.search(r'<link (?!rel="icon" href="data:,">)|<iframe|<script[^>]+src=|@import|url\(', own(page))
    assert "default-src 'none'" in page
    assert "showSendToCloud: false, plotlyServerURL: ''" in page  # plotly's own default offers an upload
    assert page.count("plotly.js v") == 1
    assert len(page) < 12e6


def test_same_records_give_the_same_bytes(demo: Path, tmp_path: Path):
    assert render(demo, tmp_path / "a.html") == render(demo, tmp_path / "b.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


@pytest.mark.parametrize(
    ("swift", "told"),
    [
        ([90.0, 91.0, 90.0], "After the last epoch: better, +20.1 points"),
        ([60.0, 61.0, 59.0], "After the last epoch: worse, −10.2 points"),
        ([60.0, 90.0, 69.5], "After the last epoch: not shown to differ, +2.9 points"),
        ([90.0], "After the last epoch: +20.0 points at one seed, which cannot rule out chance"),
    ],
)
def test_the_verdict_claims_no_more_than_the_seeds_show(tmp_path: Path, trains, swift: list[float], told: str):
    text = words(render(trains(tmp_path, {**LAST, "swift": swift}, BEST), tmp_path / "report.html"))
    assert told in text


def test_the_verdict_tells_when_uniform_at_its_best_epoch_is_not_beaten(tmp_path: Path, trains):
    best = {"uniform": [95.0, 96.0, 95.5], "swift": [96.0, 96.0, 96.0]}
    text = words(render(trains(tmp_path, LAST, best), tmp_path / "report.html"))
    assert "With Swift Sampler 90.8 %, with uniform sampling 70.2 % (95.0 % with early stopping)" in text
    assert "After the last epoch: better" in text
    assert "Against the best epoch of uniform: worse, −4.7 points" in text and "higher at 0 of 3 seeds" in text


def test_best_epoch_is_read_off_the_history_whatever_the_record_calls_best(tmp_path: Path, make_run):
    make_run(tmp_path, best=88.0)
    _edit(tmp_path / "run.json", result={"set": "test", "last": 70.0, "best": 87.5, "best_epoch": 2})
    entries = {entry.kind: entry.spread.mean for entry in compare(groups_of(read_records(tmp_path)[0]))}
    assert entries == {"last": 70.0, "chosen": 87.5, "best": 88.0}


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([("swift", 0)], ["No uniform run lies here"]),
        ([("uniform", 0)], ["there is no sampler to compare them with", "No search lies below this folder"]),
        ([("uniform", 0), ("swift", 1)], ["no seed in common"]),
    ],
)
def test_nothing_is_claimed_without_control_sampler_or_common_seed(tmp_path: Path, make_run, runs, told):
    for method, seed in runs:
        make_run(tmp_path / method, method, seed)
    text = words(render(tmp_path, tmp_path / "report.html"))
    assert all(each in text for each in told)


def test_settings_that_differ_are_told(tmp_path: Path, trains):
    folder = trains(tmp_path, LAST, BEST)
    _edit(folder / "swift-1/run.json", recipe={"epochs": 90, "lr": 0.1, "seed": 1})
    assert "(epochs: 5, 90)" in words(render(folder, tmp_path / "report.html"))


def test_search_that_kept_uniform_says_so(tmp_path: Path, make_search):
    make_search(tmp_path, prefers_clean=False)
    text = words(render(tmp_path, tmp_path / "report.html"))
    assert "In 1 of 1 searches (seed 0) no candidate beat uniform sampling" in text
    assert "No evaluated training run lies below this folder." in text
    assert "Effective sample size (% of rows) 100.0 100.0" in text


def test_further_searches_are_folded_with_fewer_images(searched: Path, tmp_path: Path):
    for seed in (1, 0):
        shutil.copytree(searched, tmp_path / f"s{seed}")
        record = json.loads((tmp_path / f"s{seed}/search.json").read_text())
        write_json(tmp_path / f"s{seed}/search.json", {**record, "seed": seed})
    page = render(tmp_path, tmp_path / "report.html")
    assert own(page).count('src="data:image/png;base64,') == 48 + 24
    assert "Sampler over the (loss, entropy) plane (search of seed 0)" in page
    assert f"<details><summary>Search of seed 1 ({tmp_path / 's1'})" in page
    assert cells(page, "Seed 1")[0] == "swift"


def test_searches_of_several_kinds_are_told_apart_and_drawn_together(searched: Path, tmp_path: Path):
    """Two agents, two seeds of one: a colour each, thin lines and a mean where there are two."""
    for i, (seed, agent) in enumerate([(0, "gp"), (1, "gp"), (0, "random")]):
        shutil.copytree(searched, tmp_path / f"s{i}")
        record = json.loads((tmp_path / f"s{i}/search.json").read_text())
        record |= {"seed": seed, "options": {"agent": agent}}
        for k, trial in enumerate(record["trials"]):
            trial |= {"seconds": 2.0 + i, "propose_seconds": 0.5, "number": k}
        write_json(tmp_path / f"s{i}/search.json", record)
    page = render(tmp_path, tmp_path / "report.html")
    assert cells(page, "Seed 0, random search")[0] == cells(page, "Seed 1, GP")[0] == "swift"
    assert "(search of seed 0, GP)" in page
    found = {figure["layout"]["xaxis"]["title"]["text"]: figure for figure in charts(page)[:3]}
    scores = [trial["value"] for trial in record["trials"] if trial["value"] is not None]
    best = np.maximum.accumulate(scores).tolist()
    for axis in ("Candidates scored", "Seconds of the search"):
        shown = {trace["name"]: trace for trace in found[axis]["data"]}
        assert list(shown) == ["GP, seed 0, s0", "GP, seed 1, s1", "GP, mean of 2", "random search"]
        assert shown["random search"]["y"] == shown["GP, seed 0, s0"]["y"] == best
    assert shown["GP, seed 0, s0"]["x"] == [2.5 * (k + 1) for k in range(8)]
    assert shown["random search"]["x"] == [4.5 * (k + 1) for k in range(8)]
    lines = found["Percentile of the loss (%)"]["data"]
    assert [trace["name"] for trace in lines][-2:] == ["random search", "Uniform (N·P = 1)"]
    assert lines[2]["y"] == pytest.approx(lines[0]["y"])


@pytest.mark.parametrize("names", [("loss",), ("mine",), ("loss", "entropy", "a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_any_number_of_features_makes_a_page(tmp_path: Path, names: tuple[str, ...], make_search):
    make_search(tmp_path, prefers_clean=True, features=names)
    page = render(tmp_path, tmp_path / "report.html")
    assert cells(page, "Features") == [", ".join(names)]
    assert f"Probability against {names[0]} percentile" in page and "all searches" not in page
    assert (" plane</h2>" in page) == (names != ("mine",))


def test_data_without_true_labels_shows_all_rows(tmp_path: Path, make_search):
    folder = tmp_path / "run"
    make_search(folder, prefers_clean=True)
    images = PIXELS[:ROWS]
    catalog = array_catalog(folder / "data", images, LABELS[:ROWS], overwrite=True)
    rng = np.random.default_rng(1)
    scores = {name: rng.random(ROWS).astype(np.float32) for name in ("loss", "entropy")}
    write_table(folder / "features", catalog, scores)
    text = words(render(folder, tmp_path / "report.html"))
    assert "true labels not recorded" in text
    assert "their true labels are not known" in text
    assert "Draws with a wrong label" not in text


def crops_of(whole: SampledRows, folder: Path) -> SampledRows:
    """The same rows as mirrored crops of the upper right."""
    window = {"y0": 0.0, "x0": 0.25, "y1": 0.5, "x1": 1.0}
    columns = {name: np.full(ROWS, edge, np.float32) for name, edge in window.items()}
    columns |= {"flip": np.ones(ROWS, bool), **whole.table.columns("loss", "entropy")}
    write_table(folder, whole.catalog, columns)
    return replace(whole, table=FeatureTable.open(folder))


def test_windows_of_crops_are_drawn_on_their_images(searched: Path, tmp_path: Path):
    whole = SampledRows.open(read_records(searched)[1][0])
    plain, crop = (shown_rows(sampling, np.array([3]))[0] for sampling in (whole, crops_of(whole, tmp_path)))
    image, drawn = pixels(plain), pixels(crop).astype(int)
    assert image.shape == (8, 8) and drawn.shape == (96, 96, 3)
    large = np.kron(image, np.ones((12, 12), int))[:, :, None].repeat(3, axis=2)
    inside = (slice(2, 46), slice(26, 94))  # rows 0:48, columns 24:96 but for the frame of two pixels
    np.testing.assert_array_equal(drawn[inside], large[inside])
    for side in (drawn[:2, 24:], drawn[46:48, 24:], drawn[:48, 24:26], drawn[:48, 94:]):
        assert (side == FRAME).all()
    for outside in ((slice(48, 96), slice(0, 96)), (slice(0, 96), slice(0, 24))):
        np.testing.assert_array_equal(drawn[outside], np.rint(0.45 * large[outside]))
    assert crop.key == f"{plain.key}, mirrored crop"


@pytest.mark.parametrize("window", [(0, 0, 1, 1), (0.999, 0.999, 1, 1), (0.3, 0, 0.3, 0), (0, 0.2, 0.02, 0.9)])
@pytest.mark.parametrize("size", [(8, 8), (28, 96), (96, 40)])
def test_any_window_can_be_drawn(window: tuple[float, ...], size: tuple[int, int]):
    drawn = framed(Image.new("L", size, 200), np.array(window, np.float32))
    assert max(drawn.size) <= 96
    assert FRAME in {colour for _, colour in drawn.getcolors()}


def pixels(picture: Picture) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.png))))
    assert image.shape[:2] == (picture.height, picture.width)
    return image


def test_extremes_break_ties_at_random_but_always_alike():
    ratio = np.array([0.0] * 50 + [1.0, 3.0, 2.0] + [0.0] * 50)
    most, least = extremes(ratio, 3)
    assert most.tolist() == [51, 52, 50]
    assert (ratio[least] == 0).all()
    assert least.tolist() == extremes(ratio, 3)[1].tolist()
    assert least.tolist() != [0, 1, 2]


def test_text_of_records_cannot_become_markup(tmp_path: Path, make_run):
    make_run(tmp_path / "u", "<script>alert(1)</script>")
    page = render(tmp_path, tmp_path / "report.html")
    assert "<script>alert" not in page
    assert "<script>alert(1)</script>, last epoch" in html.unescape(page)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "search.json").write_text("{"), "search.json: not readable as JSON"),
        (lambda folder: shutil.rmtree(folder / "features"), "no feature table there"),
        (lambda folder: shutil.rmtree(folder / "data"), "no such catalog"),
        (lambda folder: (folder / "sampler.json").unlink(), "sampler.json"),
        (lambda folder: (folder / "sampler.json").write_text("[]"), "is no sampler"),
        (lambda folder: _edit(folder / "search.json", kind="train"), "search.json: not the record of a search"),
        (lambda folder: _edit(folder / "search.json", format=99), "format 99 is newer"),
        (lambda folder: _edit(folder / "search.json", trials=None), "damaged record"),
        (lambda folder: _edit(folder / "search.json", trials=[{}]), "it has no 'number'"),
        (lambda folder: _edit(folder / "search.json", options=3), "damaged record: its options"),
        (lambda folder: _edit(folder / "search.json", join=[1]), "search.json: damaged record"),
        (lambda folder: _edit(folder / "search.json", features="\0"), "damaged record: no path"),
        (lambda folder: _flip(folder / "data/shard-000000.tar"), "do not match the checksum"),
    ],
)
def test_damage_is_one_clear_line_and_leaves_the_old_page(searched: Path, tmp_path: Path, damage, told: str):
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    damage(folder)
    out = tmp_path / "report.html"
    out.write_text("old")
    refused(re.escape(told), write_report, folder, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_run_of_other_data_than_its_catalog_is_refused(searched: Path, tmp_path: Path, make_run):
    make_run(tmp_path, catalog=searched / "data")
    write_report(tmp_path, tmp_path / "report.html")
    _edit(tmp_path / "run.json", catalog_fingerprint="0" * 32)
    refused("trained on catalog 000000000000, but", write_report, tmp_path, tmp_path / "report.html")


def test_folders_without_records_are_refused(tmp_path: Path):
    refused(r"no run\.json and no search\.json", write_report, tmp_path, tmp_path / "report.html")
    refused("no such folder", write_report, tmp_path / "absent", tmp_path / "report.html", error=FileNotFoundError)


def _edit(path: Path, **entries: object) -> None:
    write_json(path, {**json.loads(path.read_text()), **entries})


def _flip(path: Path) -> None:
    """Damage every image of a shard; its length stays."""
    data = bytearray(path.read_bytes())
    for i in range(0, len(data), 16):
        data[i] ^= 1
    path.write_bytes(data)


def test_other_metrics_and_classes_are_means_over_the_seeds(trains, tmp_path):
    text = html.unescape(render(trains(tmp_path, LAST, BEST), tmp_path / "report.html"))
    found = re.findall(r"<td[^>]*>([^<]*)</td>", text[text.index("Top-5 and balanced accuracy") :])
    mean = np.mean(LAST["uniform"])
    at = found.index(f"{mean + 20:.2f}")
    assert found[at + 1] == f"{mean - 3:.2f}"
    found = re.findall(r"<td[^>]*>([^<]*)</td>", text[text.index("Accuracy of every class") :])
    at = found.index(f"{mean + 2:.2f}")
    assert found[at + 1] == f"{mean - 2:.2f}" and len(found[at:]) > 2


@pytest.mark.parametrize("metric", ["map", "rmse"])
def test_metrics_of_other_labels(tmp_path: Path, make_run, metric: str):
    """Verdict and best epoch take the lower error; a page of both kinds keeps them apart."""
    scale = 1 if metric == "map" else 0.01
    for method, values in {"uniform": [50.0, 52.0, 51.0], "swift": [40.0, 42.5, 40.5]}.items():
        for seed, value in enumerate(values):
            result = {"set": "test", "metric": metric, "last": scale * value, "best": scale * value, "best_epoch": 2}
            result |= {"metrics": {metric: scale * value, **({} if metric == "map" else {"mae": scale * value / 2})}}
            result |= {"classes": {"left": scale * value + 1, "right": scale * value}}
            make_run(tmp_path / f"{method}-{seed}", method, seed, value, result=result)
    text = words(page := render(tmp_path, tmp_path / "report.html"))
    if metric == "map":
        assert "With Swift Sampler 41.0 %, with uniform sampling 51.0 %" in text
        assert "After the last epoch: worse, −10.0 points" in text and "mAP over epochs" in text
        assert "Average precision of every class" in text and "mAP on the test set (%)" in page
    else:
        assert "With Swift Sampler RMSE 0.41, with uniform sampling RMSE 0.51" in text
        assert (
            "After the last epoch: better, RMSE lower by 0.1 (95 % interval" in text and "lower at 3 of 3 seeds" in text
        )
        assert "Mean absolute error" in text and "RMSE of every value" in text and "RMSE on the test set" in page
    make_run(tmp_path / "other", "uniform", 0, 70.0)
    text = words(render(tmp_path, tmp_path / "report.html"))
    names = {"Accuracy", "mAP" if metric == "map" else "RMSE"}
    assert "Top-5 and balanced accuracy" in text
    assert any(f"{a} and {b} over epochs" in text for a, b in (sorted(names), sorted(names, reverse=True)))
