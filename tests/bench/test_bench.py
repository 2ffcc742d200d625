"""The benchmark runs, agrees with its peers where they compute the same, leaves all as it was, and says what is missing."""

import ast
import importlib
import inspect
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xai_repro as xr
from toys import state
from typer.testing import CliRunner

from xai_repro.cli import app
from xai_repro.errors import UnknownName

for peer in ("captum", "pytorch_grad_cam", "torchcam", "zennit", "quantus", "sklearn", "torchray"):
    pytest.importorskip(peer)

from xai_repro import bench
from xai_repro.bench import measure, networks
from xai_repro.bench.measure import agreement, always, compare, flops, peak, Peer, Task, verdict

SMALL = {
    "networks": {"mini-resnet": 32, "mini-vgg": 32}, "relevance": {"mini-vgg": 32}, "batches": (1, 3), "repeats": 2, "channels": 16, "steps": 4, "samples": 4, "points": 5,
    "permutations": 3, "coalitions": 140,
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "CALLS", 1)
        return bench.run(**SMALL)


def test_every_task_has_its_peers(table):
    found = table[table["images"] == 1].groupby("task", sort=False)["peer"].agg(lambda peers: sorted(set(peers)))
    packages = {task: [peer.split()[0] for peer in peers] for task, peers in found.items()}
    assert packages == {
        "grad-cam": ["captum", "grad-cam", "torchcam"],
        **{f"{name}-cam{plus}": ["grad-cam", "torchcam"] for name, plus in (("grad", "++"), ("xgrad", ""), ("layer", ""))},
        "gradient": ["captum"],
        "guided-backprop": ["captum", "zennit"],
        "deconvnet": ["captum", "zennit"],
        "integrated-gradients, 4 steps": ["captum"],
        "smoothgrad, 4 samples": ["captum", "zennit"],
        "ablation-cam": ["grad-cam"],
        "score-cam, softmax": ["grad-cam", "torchcam"],
        "insertion and deletion, 5 points": ["torchcam"],
        "deletion, per point": ["quantus"],
        "shap-cam, 3 permutations": ["captum"],
        "ablation-cam of the head": ["captum"],
        "lime-cam, 140 samples": ["captum"],
        "kshap-cam, 140 samples": ["captum"],
        **{f"lrp, {rule}": ["zennit"] for rule in ("epsilon-plus", "epsilon-alpha2beta1", "epsilon-gamma, z-box")},
        "lrp, epsilon": ["captum"],
        "excitation-backprop, to the images": ["zennit"],
        "excitation-backprop": ["torchray"],
        "contrastive-excitation-backprop": ["torchray"],
        "fullgrad": ["grad-cam"],
        **{name: ["none"] for name in xr.methods() if xr.method_info(name).family == "relevance" and "excitation" not in name and not xr.method_info(name).files},
    }
    assert set(table.loc[table["suite"] == "shapley", "network"]) == {"mini-vgg"} and set(table["network"]) == set(SMALL["networks"])
    assert set(table.loc[table["images"] == 3, "task"]) == {
        "grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "gradient", "guided-backprop", "deconvnet",
        "insertion and deletion, 5 points", "deletion, per point",
    }  # fmt: skip


def test_what_is_the_same_agrees(table):
    drawn = table["note"].str.contains("other draws")
    assert set(table.loc[drawn, "task"].str.split(",").str[0]) == {"smoothgrad", "lime-cam", "kshap-cam"}
    assert table.loc[drawn, ["cosine", "max_difference"]].isna().all(axis=None)
    masks = table["task"] == "score-cam, softmax"  # masks differ by how they are upsampled
    assert (table.loc[masks, "cosine"] > 0.9).all()
    stabilised = table["peer"].str.contains("zennit Epsilon")  # divides by 1e-6 more, which small activations notice
    assert (table.loc[stabilised, "cosine"] > 0.999).all() and table.loc[stabilised, "same"].all()
    exact = table[table["same"] & ~drawn & ~masks & ~stabilised]
    assert (exact["cosine"] > 0.99999).all() and (exact["max_difference"] < 2e-3).all()
    assert list(table.loc[~table["same"], "peer"].unique()) == ["torchcam GradCAMpp", "zennit ExcitationBackprop", "grad-cam FullGrad", measure.NOBODY]


def test_numbers_are_whole(table):
    columns = [name for name in table if name.startswith(("ours_", "peer_", "ratio", "cpu_", "least", "greatest"))]
    alone, ours = table["peer"] == measure.NOBODY, [name for name in columns if name.startswith("ours_")]
    assert len(columns) == 14 and (table.loc[~alone, columns] > 0).all(axis=None) and (table.loc[alone, ours] > 0).all(axis=None)
    assert table.loc[alone, [name for name in columns if name not in ours]].isna().all(axis=None)
    table = table[~alone]
    for kind in ("", "cpu_"):
        assert (table[f"{kind}least"] <= table[f"{kind}ratio"]).all() and (table[f"{kind}ratio"] <= table[f"{kind}greatest"]).all()
    assert (table["threads"] == 1).all() and table["version"].str.match(r"\d+\.\d").all() and (table["torch"] == torch.__version__).all()


def test_arithmetic_is_counted(table):
    spent = table[(table["images"] == 1) & (table["network"] == "mini-vgg")].drop_duplicates("task").set_index("task")
    assert spent.loc["grad-cam", "ours_forwards"] < 1.2 and spent.loc["grad-cam", "peer_forwards"] == pytest.approx(2, abs=0.05)  # grad-cam's
    assert spent.loc["gradient", "ours_forwards"] == pytest.approx(2, abs=0.05)
    assert spent.loc["integrated-gradients, 4 steps", "peer_forwards"] == pytest.approx(8, abs=0.2)
    both = spent.loc["insertion and deletion, 5 points"]
    assert both["ours_forwards"] == pytest.approx(9) and both["peer_forwards"] == pytest.approx(8)  # torchcam shares the empty image
    assert spent.loc["deletion, per point", ["ours_forwards", "peer_forwards"]].tolist() == pytest.approx([1, 1])
    assert spent.loc["score-cam, softmax", "peer_forwards"] == pytest.approx(128)  # 16 channels measured, times 8


def test_one_verdict_per_task(table):
    for _, rows in table[table["suite"] != "relevance"].groupby(["task", "network", "images"]):
        (judged,) = rows[rows["verdict"] != ""].to_dict("records")
        assert judged["same"] and judged["cpu_ratio"] == rows.loc[rows["same"], "cpu_ratio"].min()
        assert judged["verdict"] == verdict(judged["cpu_ratio"], judged["cpu_least"])
    assert table.loc[table["cpu_ratio"] < 1 / 1.1, "note"].str.contains("slower").all()
    assert not table.loc[table["cpu_ratio"] >= 1 / 1.1, "note"].str.contains("slower").any()


def test_files(table, tmp_path):
    bench.write(table, tmp_path / "new")
    again = pd.read_csv(tmp_path / "new" / "bench.csv", keep_default_na=False)
    assert again["task"].tolist() == table["task"].tolist() and again["verdict"].tolist() == table["verdict"].tolist()
    assert [row["peer"] for row in json.loads((tmp_path / "new" / "bench.json").read_text())] == table["peer"].tolist()
    assert (tmp_path / "new" / "bench.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bench.csv", "bench.json", "bench.svg"]


def test_figure_shows_every_row_once(table):
    drawn = bench.figure(table)
    table = table[table["peer"] != measure.NOBODY]
    assert [axis.get_title(loc="left") for axis in drawn.axes] == list(SMALL["networks"])
    for axis, (_, part) in zip(drawn.axes, table.groupby("network", sort=False)):
        markers = [line for line in axis.lines if line.get_marker() != "None" and len(line.get_xdata()) == 1]
        assert sorted(float(line.get_xdata()[0]) for line in markers) == sorted(part["cpu_ratio"])
        assert sum(line.get_markerfacecolor() == "white" for line in markers) == (~part["same"]).sum()
    labels = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert labels[:3] == ["grad-cam", "grad-cam, 3 images", "grad-cam++"] and len(labels) == len(set(labels))
    wall = bench.figure(table.assign(threads=2))
    assert {float(line.get_xdata()[0]) for axis in wall.axes for line in axis.lines if len(line.get_xdata()) == 1} == set(table["ratio"])


# -- what a comparison does -----------------------------------------------------------------------------------------------------


def test_peers_leave_networks_and_images_as_they_were(monkeypatch):
    monkeypatch.setattr(measure, "CALLS", 1)
    settings = bench.FULL | SMALL
    for case in networks.cases(settings["networks"], (1, 2)):
        before, x = state(case.model), case.x.clone()
        for suite in bench.SUITES.values():
            for task in suite(case, settings):
                if task.name.split(",")[0] not in ("lime-cam", "kshap-cam", "smoothgrad"):  # as the others of their packages, and slow
                    compare(task, 1, 1, cpu=True)
                    assert state(case.model) == before, task.name
        assert torch.equal(case.x, x) and not case.x.requires_grad and case.x.grad is None


def test_settings_of_the_process_come_back(capfd):
    def everything():
        return torch.get_num_threads(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), warnings.filters[:], dict(os.environ)

    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    before = everything()
    try:
        bench.run("maps", tasks="[ad]*", threads=1, **SMALL | {"networks": {"mini-resnet": 32}, "batches": (1,)})
        assert everything() == before
        with pytest.raises(ValueError, match="shapley has no task 'grad-cam' for mini-resnet"):
            bench.run("shapley", tasks="grad-cam", threads=1, networks={"mini-resnet": 32})
        assert everything() == before
    finally:
        torch.set_num_threads(threads)
    assert capfd.readouterr() == ("", "")  # nor do peers or the profiler print


def test_setting_up_is_not_measured_and_ends_every_turn():
    log = []

    class Ready:
        def __enter__(self):
            log.append("up")
            return lambda: log.append("call") or torch.ones(1, 2)

        def __exit__(self, *error):
            log.append("down")

    def ours():
        assert log.count("up") == log.count("down")
        return torch.ones(1, 2) @ torch.eye(2)

    (row,) = compare(Task("a", ours, [Peer("captum B", Ready)]), 1, 2, cpu=True)
    assert log.count("up") == log.count("down") >= 3 and row["cosine"] == pytest.approx(1) and row["version"]


def test_the_fastest_chunk_and_the_fastest_peer_of_our_definition(monkeypatch):
    ticks = iter(range(10**6))
    clock = [0.0]
    monkeypatch.setattr(measure, "_timed", lambda call: (call(), (clock[0], clock[0]))[1])

    def lasting(seconds):
        def call(chunk=1):
            next(ticks)
            clock[0] = seconds * (1 + abs(chunk - 8))
            return torch.ones(1, 2)

        return call

    task = Task("a", lasting(2.0), [
        Peer("captum Slow", always(lasting(8.0)), note="a note"),
        Peer("captum Chunked", always(lasting(1.5)), chunks=(2, 8, 32)),
        Peer("captum Other", always(lasting(0.25)), same=False),
        Peer("captum Part", always(lasting(1.0)), times=10),
    ], slower="a reason", times=0.5)  # fmt: skip
    rows = {row["peer"].split()[1]: row for row in compare(task, 1, 3, cpu=True)}
    # `call` without a chunk lasts 8 times as long
    assert [row["ratio"] for row in rows.values()] == [8.0, pytest.approx(1.5 / 8), 0.25, 10.0]
    assert {name: row["verdict"] for name, row in rows.items()} == {"Slow": "", "Chunked": "slower", "Other": "", "Part": ""}
    assert rows["Slow"]["note"] == "a note"
    assert rows["Chunked"]["note"] == "chunk 8; slower by 6.5e+03 ms at the same arithmetic (0 x a forward pass): a reason"


def test_verdicts_give_the_peer_the_benefit_of_the_doubt():
    ratios = [(1.2, 1.05), (1.2, 0.99), (1.05, 1.01), (0.95, 0.8), (0.9, 0.9), (0.8, 0.1)]
    assert [verdict(*pair) for pair in ratios] == ["faster", "equal", "equal", "equal", "slower", "slower"]


def test_why_counts_first():
    row = {"ours_forwards": 9, "peer_forwards": 8, "ours_cpu_seconds": 0.9, "peer_cpu_seconds": 0.8}
    assert measure.why(row, "cpu_", "shared") == "slower, as it costs 9 forward passes against 8: shared"
    assert measure.why(row | {"ours_forwards": 8}, "cpu_") == "slower by 1e+02 ms at the same arithmetic (8 x a forward pass)"


def test_agreement():
    a = torch.tensor([[[1.0, 0], [0, 2]], [[0, 0], [0, 0]]])
    assert agreement(a, a) == {"cosine": 1, "max_difference": 0}
    b = a.clone()
    b[0, 0, 1] = 1
    found = agreement(a, b)
    assert found["cosine"] == pytest.approx(5 / np.sqrt(5 * 6)) and found["max_difference"] == 0.5
    assert all(np.isnan(value) for value in agreement(a, b, drawn=True).values())


def test_instruments():
    a, b = torch.ones(1000, 500), torch.ones(500, 200)
    assert flops(lambda: a @ b) == 2 * 1000 * 500 * 200
    conv, x = torch.nn.Conv2d(3, 4, 3), torch.ones(2, 3, 5, 5)
    spent = 2 * 2 * 4 * 9 * 27  # images, outputs, positions, multiplications and additions
    assert flops(lambda: conv(x)) == spent
    with torch.inference_mode():
        assert flops(lambda: conv(x)) == spent
    assert flops(lambda: conv(x).sum().backward()) == 2 * spent  # and the gradient of the weights
    assert peak(lambda: (a + 1) * 2) == pytest.approx(2 * 4 * 500_000 / 2**20, rel=0.01)


def test_networks_have_logits_that_spread():
    one, three = networks.cases({"mini-resnet": 32}, (1, 3))
    assert torch.equal(one.x, three.x[:1]) and three.x.shape == (3, 3, 32, 32) and one.single and not three.single
    assert three.model(three.x).std() == pytest.approx(networks.LOGITS, rel=0.3) and not any(p.requires_grad for p in one.model.parameters())
    assert torch.equal(three.y, three.model(three.x).argmax(1)) and one.layer == "layer4"


# -- the door ---------------------------------------------------------------------------------------------------------------------


def test_every_setting_is_said_to_be_one():
    assert set(bench.QUICK) <= set(bench.FULL)
    with pytest.raises(UnknownName, match="unknown setting of the benchmark 'sample'; did you mean 'samples'"):
        bench.run(sample=3)
    assert list(inspect.signature(bench.run).parameters) == ["suite", "quick", "threads", "tasks", "changes"]
    for settings in (bench.FULL, bench.FULL | bench.QUICK):
        assert all(size**2 % (settings["points"] - 1) == 0 for size in settings["networks"].values())


@pytest.mark.parametrize("missing", ["pytorch_grad_cam", "quantus"])
def test_missing_peers_are_named(monkeypatch, missing):
    plain = importlib.import_module
    monkeypatch.setattr("xai_repro.bench.peers.import_module", lambda name: _without(missing, name) or plain(name))
    result = CliRunner().invoke(app, ["bench", "--quick"])
    assert result.exit_code == 2 and f"{missing} is missing: pip install xai-repro[bench]" in result.stderr


def _without(missing, name):
    if name == missing:
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)


def test_the_bench_is_imported_without_its_peers():
    peers = {"captum", "pytorch_grad_cam", "torchcam", "zennit", "quantus", "sklearn"}
    for file in Path(bench.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text()).body:  # inside functions they may be imported
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not peers & {module.split(".")[0] for module in modules}, file


def test_unknown_benchmark():
    result = CliRunner().invoke(app, ["bench", "shaply"])
    assert result.exit_code == 2 and "unknown benchmark 'shaply'; did you mean 'shapley'" in result.stderr


def test_command_line(monkeypatch, table, tmp_path):
    asked = {}
    monkeypatch.setattr(bench, "run", lambda suite, **options: asked.update(options, suite=suite) or table)
    result = CliRunner().invoke(app, ["bench", "maps", "--quick", "--threads", "1", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert asked == {"suite": "maps", "quick": True, "threads": 1}
    lines = result.stdout.splitlines()
    assert len(lines) == len(table) + 1 and lines[-1] == str(tmp_path / "bench" / "bench.svg")
    assert all(row["peer"] in line and row["task"] in line and row["verdict"] in line for line, row in zip(lines, table.to_dict("records")))


@pytest.mark.slow
def test_quick_on_the_command_line(tmp_path, monkeypatch):
    quick = bench.QUICK | {"repeats": 1, "batches": (1,), "networks": {"mini-vgg": 96}, "relevance": {"mini-vgg": 64}}  # every task once is enough here
    monkeypatch.setattr(bench, "QUICK", quick)
    result = CliRunner().invoke(app, ["bench", "--quick", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "bench" / "bench.csv", keep_default_na=False)
    assert set(table["suite"]) == set(bench.SUITES) and set(table["network"]) == {*quick["networks"], *quick["relevance"]} and set(quick) == set(bench.QUICK)
    assert "slower" not in set(table.loc[table["task"].str.startswith(("ablation-cam", "shap-cam")), "verdict"])
