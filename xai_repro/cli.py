"""The command line: thin commands over the public functions. Heavy imports wait until a command needs them."""

import json
import math
import os
import sys
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Optional

import typer
from typer.core import TyperGroup

from xai_repro.errors import UnknownName, short, unknown, whole_number
from xai_repro.registry import expected

_EXPECTED = (UnknownName, ValueError, TypeError, OSError, ModuleNotFoundError)
_DEEPEST = 20  # Python itself reads no more than 200 brackets in brackets
_NOBODY_READS = 141  # 128 + SIGPIPE: what a shell says of other programs in `... | head`


class _Commands(TyperGroup):
    """Errors that say what was given and what is possible are told in one line; the rest keep their traceback."""

    def make_context(self, *arguments, **options):
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # what the terminal has no letter for becomes a question mark
        with _quiet_when_nobody_reads():
            return super().make_context(*arguments, **options)  # prints the help, too

    def invoke(self, context):
        try:
            with _quiet_when_nobody_reads():
                return super().invoke(context)
        except _EXPECTED as error:
            if context.params.get("traceback"):
                raise
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(2) from None


@contextmanager
def _quiet_when_nobody_reads():
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written goes nowhere
        raise typer.Exit(_NOBODY_READS) from None


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]}, rich_markup_mode=None)  # fmt: skip

Setting = Annotated[
    Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="A parameter; may be given several times.")
]
Pattern = Annotated[str, typer.Argument(help="Shell pattern, such as '*cam*' or '*drop*'.")]
Profile = Annotated[str, typer.Option(help="smoke, mini, photos or paper.")]
Results = Annotated[Path, typer.Option(help="Folder of the results.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Data = Annotated[str, typer.Option(help="Training images: mini-birds.")]
Base = Annotated[str, typer.Option(help="Relevance that CLAM makes stronger: lrp, clrp or sglrp.")]
Layers = Annotated[str, typer.Option(help="full, behind every convolution, or core, few.")]


def _version(asked):
    if asked:
        import xai_repro

        typer.echo(f"xai-repro {xai_repro.__version__}")
        raise typer.Exit


@app.callback()
def main(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")] = False,
):
    """Explanation methods for image classifiers, their metrics, and five papers on them, re-run."""


@app.command()
def methods(pattern: Pattern = "*"):
    """List the explanation methods."""
    import xai_repro as xr

    for name, width in _named("method", pattern):
        info = xr.method_info(name)
        typer.echo(f"{name:{width}}  {info.family:10}  {info.summary}")


@app.command()
def metrics(pattern: Pattern = "*"):
    """List the metrics, and whether more or less is better."""
    import xai_repro as xr

    for name, width in _named("metric", pattern):
        info = xr.metric_info(name)
        typer.echo(f"{name:{width}}  {'more' if info.higher_is_better else 'less'}  {info.summary}")


def _named(kind, pattern):
    """The names that match, and the width of the longest; who matches none is told before torch is loaded."""
    known = expected(kind)
    names = [name for name in known if fnmatchcase(name, pattern)]
    if not names:
        raise unknown(kind, pattern, known)
    return [(name, max(map(len, names))) for name in names]


@app.command()
def explain(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos, of any size.")],
    model: Annotated[str, typer.Option(help="efficientnet-lite0, a torchvision name such as vgg16, timm/NAME, or mini-vgg.")] = "efficientnet-lite0",
    weights: Annotated[
        Optional[str], typer.Option(help="imagenet, random, mini-birds, mini-scenes, or a .safetensors file; by default the trained ones.")
    ] = None,
    methods: Annotated[str, typer.Option(help="Names, separated by commas.")] = "grad-cam,lift-cam,gradient",
    layer: Annotated[Optional[str], typer.Option(help="Layer of the CAM methods; by default the last convolutional one.")] = None,
    target: Annotated[
        Optional[str], typer.Option("--class", help="Class to explain, by number or name; by default the top-1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Picture to write: one row per photo, one column per method.")] = Path("panel.png"),
    device: Device = "auto",
    set_: Setting = None,
):
    """Explain photos by several methods; writes one labelled picture and prints the three likeliest classes."""
    from xai_repro.photos import explain_photos

    names = [name.strip() for name in methods.split(",")]
    typer.echo(explain_photos(images, model, weights, names, layer, target, out, device, _settings(set_)))


@app.command()
def run(
    notebooks: Annotated[
        Optional[list[str]], typer.Argument(metavar="[NOTEBOOK]...", help="Names, numbers or patterns; by default all.")
    ] = None,
    profile: Profile = "mini",
    results: Results = Path("results"),
    jobs: Annotated[Optional[int], typer.Option(help="Notebooks at a time; by default as many as there are cores.")] = None,
    scheduler: Annotated[Optional[str], typer.Option(metavar="ADDRESS", help="Of a Dask cluster that computes, tcp://HOST:PORT; by default what XAI_REPRO_SCHEDULER says.")] = None,
    set_: Setting = None,
):
    """Run the notebooks that are not current."""
    from xai_repro.site.driver import run as run_notebooks

    if not run_notebooks(notebooks or None, profile, _settings(set_), results, jobs, scheduler=scheduler):
        raise typer.Exit(1)


@app.command()
def table(
    paper: Annotated[str, typer.Argument(help="lift_cam, lfi_cam, collection_cam, gradient_hedging or clam.")],
    number: Annotated[str, typer.Argument(help="As the paper numbers its tables.")],
    profile: Profile = "mini",
    results: Results = Path("results"),
    json_: Annotated[bool, typer.Option("--json", help="All numbers, with what they rest on.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="The csv of the page.")] = False,
):
    """Print a table of a paper and ours beside it.

    The notebook that makes it, and no other, is run first where it is not current.
    """
    if json_ and csv:
        raise ValueError("--json and --csv: which one?")
    from xai_repro.site import lookup

    parts = lookup.table(paper, number, profile, results)
    if json_:
        typer.echo(lookup.as_json(paper, number, profile, parts))
    else:
        typer.echo("\n".join(part["shown"] if csv else lookup.told(part) + "\n" for part in parts), nl=False)


@app.command()
def claims(
    paper: Annotated[Optional[str], typer.Option(help="Only those of one paper, such as lift_cam.")] = None,
    profile: Profile = "mini",
    results: Results = Path("results"),
    json_: Annotated[bool, typer.Option("--json", help="All that is known of each.")] = False,
):
    """Print the papers' claims and whether they hold here."""
    from xai_repro.site import lookup

    found = lookup.claims(paper, profile, results)
    typer.echo(json.dumps(lookup.records(found), indent=1, ensure_ascii=False) if json_ else lookup.told_of_claims(found))


@app.command()
def estimate(rate: Annotated[float, typer.Option(help="TFLOP/s that the GPU sustains in float32.")] = 20.0):
    """Say what the profile paper would cost: forward passes, arithmetic, hours on one GPU."""
    from xai_repro.study.estimate import by_paper, estimate

    table = estimate("paper", rate)
    for part in (table, by_paper(table)):
        typer.echo(part.to_string(index=False, float_format=lambda number: f"{number:,.2f}") + "\n")
    typer.echo(f"assumed: {table.attrs['assumed']}")


@app.command()
def book(
    profile: Profile = "mini",
    results: Results = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder to build in.")] = Path("build"),
    page: Annotated[Optional[list[str]], typer.Option(metavar="NOTEBOOK", help="Only the page of this notebook, in seconds; may be given several times.")] = None,
):
    """Build the website from the executed notebooks."""
    from xai_repro.site.book import book as build_book

    if not build_book(profile, results, out, alone=page or None):
        raise typer.Exit(1)


@app.command()
def train(
    model: Annotated[str, typer.Option(help="One that begins with mini-; for real data lfi-NAME, abn-NAME or a backbone, such as lfi-resnet18.")] = "mini-vgg",
    data: Annotated[str, typer.Option(help="mini-birds or mini-scenes; or cifar100, stl10, catsdogs, imagenet.")] = "mini-birds",
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    batch: Annotated[Optional[int], typer.Option(help="Images a step.")] = None,
    rate: Annotated[Optional[float], typer.Option(help="Of learning.")] = None,
    decay: Annotated[Optional[float], typer.Option(help="Of the weights.")] = None,
    root: Annotated[Optional[Path], typer.Option(help="The folder where real data is.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch real data that is not there.")] = False,
    workers: Annotated[int, typer.Option(help="Processes that read real images.")] = 4,
    head: Annotated[bool, typer.Option("--head", help="Only a new last layer, on any network with its own weights frozen: --model resnet50 --data cub.")] = False,
    out: Annotated[Optional[Path], typer.Option(help="The .safetensors file to write.")] = None,
    device: Device = "auto",
):
    """Train a model and print how good it is: an embedded one on drawn data, one of the papers' on real data (several GPUs: under torchrun), or a new head."""
    from xai_repro.models import train as train_model
    from xai_repro.models import train_head, train_protocol
    from xai_repro.models.recipes import RECIPES
    from xai_repro.models.zoo import EMBEDDED, TRAINED

    options = dict(epochs=epochs, seed=seed, batch=batch, rate=rate, decay=decay, out=out, device=device)
    options = {name: value for name, value in options.items() if value is not None}
    if head:
        return _tell(train_head(model, data, root=root, workers=workers, **options))
    if root is None and (data in RECIPES or model in TRAINED):
        raise ValueError(f"{model} on {data}: real data is needed with --root FOLDER, {', '.join(RECIPES)}; without it one of {', '.join(EMBEDDED)} is trained on drawn data")
    if root is None and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"{model} is trained by one process; torchrun is for real data, with --root")
    if root is None:
        found = train_model(model, data, **options)
    else:
        found = train_protocol(model, data, root, workers=workers, download=download, **options)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first one speaks
        _tell(found)


def _tell(found):
    for name, value in found.items():
        typer.echo(f"{name}: {value}")


@app.command()
def fit(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What needs fitting: clam.")],
    model: Annotated[str, typer.Option(help="mini-vgg, or a torchvision name such as vgg16.")] = "mini-vgg",
    data: Data = "mini-birds",
    base: Base = "clrp",
    layers: Layers = "full",
    weights: Annotated[Optional[str], typer.Option(help="Of the model; by default those trained on the data.")] = None,
    images: Annotated[Optional[int], typer.Option(help="How many training images are looked at.")] = None,
    negatives: Annotated[Optional[str], typer.Option(help="patch, the same patches for another class, or random, patches at random places.")] = None,
    normaliser: Annotated[Optional[str], typer.Option(help="Of the distances: size or count.")] = None,
    mask: Annotated[Optional[str], typer.Option(help="Of the layers above while a layer is learnt: corner or patch.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="At most, a layer.")] = None,
    patience: Annotated[Optional[int], typer.Option(help="Epochs that get no better before a layer is done.")] = None,
    batch: Annotated[Optional[int], typer.Option(help="Images a step.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of attributes and order.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="The .safetensors file to write.")] = None,
    device: Device = "auto",
):
    """Learn what a method needs: the attributes of CLAM."""
    if what != "clam":
        raise unknown("thing to fit", what, ["clam"])
    import xai_repro as xr

    options = dict(weights=weights, images=images, negatives=negatives, normaliser=normaliser, mask=mask)
    options |= dict(epochs=epochs, patience=patience, batch=batch, seed=seed, out=out)
    given = {name: value for name, value in options.items() if value is not None}
    typer.echo(f"written: {xr.fit_clam(model, data, base, layers, device=device, **given)}")


@app.command()
def examples(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO", help="A photo, of any size.")],
    model: Annotated[str, typer.Option(help="mini-vgg, or another model that attributes were fitted to.")] = "mini-vgg",
    weights: Annotated[Optional[str], typer.Option(help="Of the model; by default those trained on the data.")] = None,
    base: Base = "clrp",
    layers: Layers = "full",
    attributes: Annotated[Optional[Path], typer.Option(help="A file that `xai-repro fit clam` wrote; by default the shipped ones.")] = None,
    data: Data = "mini-birds",
    images: Annotated[int, typer.Option(help="How many training images are looked at.")] = 2000,
    target: Annotated[Optional[str], typer.Option("--class", help="Class to explain, by number or name; by default the top-1.")] = None,
    out: Annotated[Path, typer.Option(help="Picture to write: one row per layer.")] = Path("examples.png"),
    device: Device = "auto",
):
    """Explain a photo by the training images most like it; writes a picture and prints their names, layer by layer."""
    from xai_repro.photos import examples_of_photo

    typer.echo(examples_of_photo(photo, model, weights, base, layers, attributes, data, images, target, out, device))


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(help="maps, curves, shapley, relevance or all.")] = "all",
    quick: Annotated[bool, typer.Option("--quick", help="Small networks: a minute or two in place of an hour.")] = False,
    threads: Annotated[int, typer.Option(help="Threads of torch, for ours and theirs.")] = 1,
    results: Results = Path("results"),
):
    """Measure time, memory and agreement against the peers (pip install xai-repro[bench])."""
    from xai_repro.store.files import writable

    whole_number("--threads", threads)
    for ending in ("csv", "json", "svg"):
        writable(results / "bench" / f"bench.{ending}")
    from xai_repro.bench import run, write

    table = run(suite, quick=quick, threads=threads)
    for row in table.to_dict("records"):
        ratio = row["cpu_ratio" if threads == 1 else "ratio"]
        setting = f"{row['network']:9}  {row['images']:2}  {row['task']:33}  {ratio:7.2f} x  {row['peer']:32}"
        typer.echo(f"{setting}  {row['verdict']:7}  cosine {row['cosine']:.4f}  {row['note']}".rstrip())
    typer.echo(write(table, results / "bench"))


@app.command()
def doctor(results: Results = Path("results")):
    """Say what this machine has, what is missing, and how to mend it."""
    from xai_repro.doctor import examine

    marks = {True: "ok", False: "MISSING", None: "optional"}
    findings = examine(results)
    for name, good, found, fix in findings:
        typer.echo(f"{marks[good]:8}  {name:14}  {found}" + (f"\n{'':26}to mend: {fix}" if fix else ""))
    if any(good is False for _, good, _, _ in findings):
        raise typer.Exit(1)


def _settings(texts):
    """NAME=VALUE texts as a dict; a value is JSON (5, 1e-3, true, ["a"]) or else the text itself."""
    found = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"--set takes NAME=VALUE, got '{short(text)}'")
        if name in found:
            raise ValueError(f"--set gives {short(name)} twice")
        try:
            found[name] = json.loads(value, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
            if _depth(found[name]) > _DEEPEST:
                raise RecursionError
        except json.JSONDecodeError:
            found[name] = value
        except RecursionError:
            raise ValueError(f"--set {short(name)}: lists in lists, more than {_DEEPEST} deep") from None
        except ValueError as error:
            raise ValueError(f"--set {short(name)}: {error}") from None
    return found


def _depth(value):
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _whole(text):
    if len(text) > 18:  # what 64 bits hold
        raise ValueError(f"{short(text, 40)} is too large a number")
    return int(text)


def _finite(text):
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{short(text, 40)} is no finite number")
    return number


if __name__ == "__main__":
    app()
