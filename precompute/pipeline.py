"""The sentence: models and images → clean pass → classifier → interventions → rows → Parquet.

Every step leaves finished files behind and skips those it finds, so that running again after a
crash does only what is left, and adding a model or images does only what is new. What is to be
done on which images is in `precompute.stages`; who does it, in `precompute.shards`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from precompute import images, models
from precompute.batches import batches, part_rows, unit_sizes
from precompute.cost import tell_cost
from precompute.describe import choose_classifier, class_map, describe, tell_labels
from precompute.freshness import digest, read_note, write_made
from precompute.matching import match_all
from precompute.models import Vit
from precompute.orders import fractions, make_orders, split
from precompute.others import settle_reference
from precompute.patterning import lay_out
from precompute.progress import Progress, say
from precompute.register import complete_row, read_folder, register_images, register_model
from precompute.repair import repair
from precompute.samples import register, spread
from precompute.series import line_up
from precompute.shards import Crew, Terms, hire
from precompute.stages import DERIVED, RANDOM_ORDERS, SAMPLED, STAGES, Derived
from precompute.synergy import choose_pairs
from precompute.trial import try_out
from precompute.workers import Task, keep, settle
from store import places
from store.errors import AtlasError, ModelError
from store.reader import Store
from store.writer import StoreWriter


@dataclass(frozen=True)
class Request:
    """What `headatlas precompute` was asked for. Sizes and names are one per model, or None.

    `samples`: on how many images a sampled stage is done (None: all), where it is not the default.
    """

    models: Sequence[str]
    images: Path
    store: Path
    labels: Path | None = None
    names: Sequence[str] = ()
    sizes: Sequence[tuple[int, int]] = ()
    limit: int | None = None
    device: str = "cpu"
    batch: int | None = None
    samples: Mapping[str, int | None] = field(default_factory=dict)
    reference: int = 64
    draws: int = 1
    precision: str = "float32"
    despite_selftest: bool = False
    engine: str = "local"
    workers: int | None = None
    address: str | None = None
    plan: bool = False
    latent: int | None = None
    refit_patterns: bool = False

    @property
    def terms(self) -> Terms:
        return Terms(self.engine, self.workers, self.device, self.address)

    def wanted(self, stage: str) -> int | None:
        """On how many images a stage is to be done; None for all."""
        return self.samples.get(stage, STAGES[stage].images)


@dataclass(frozen=True)
class Job:
    """A request, the store it is for, and who works on it."""

    request: Request
    writer: StoreWriter
    crew: Crew


def precompute(request: Request) -> None:
    """Bring the store up to the models and images asked for.

    Raises AtlasError subclasses for whatever a user can mend; the store can be resumed after any.
    """
    settle(request.device)
    given = read_folder(request.images, images.list_images(request.images), request.labels,
                        request.limit)
    vits = load_models(request)
    if (request.store / places.MARKER).exists():
        repair(StoreWriter(request.store), given.folder)
    writer = register_images(request.store, given)
    for name, vit in vits.items():
        register_tried(writer, name, vit, request)
    tell_cost(writer, vits, {stage: request.wanted(stage) for stage in STAGES}, request.draws,
              request.terms.count)
    if request.plan:
        return
    with hire(request.terms) as crew:
        job = Job(request, writer, crew)
        for name, vit in vits.items():
            analyse(job, name, vit)
        finish_others(job, vits)
    lay_out(writer, request.latent, request.refit_patterns)
    match_all(writer)
    line_up(writer)


def load_models(request: Request) -> dict[str, Vit]:
    """Every model asked for, by the name it is shown by."""
    count = len(request.models)
    sizes: list[tuple[int, int] | None] = [*request.sizes] or [None]
    vits = [models.load(spec, size, request.device)
            for spec, size in zip(request.models, sizes * count if len(sizes) == 1 else sizes,
                                  strict=True)]
    names = list(request.names) or [vit.shown for vit in vits]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ModelError(f"two models would be called {repeated[0]!r}: give each a --name")
    return dict(zip(names, vits, strict=True))


def register_tried(writer: StoreWriter, name: str, vit: Vit, request: Request) -> None:
    """Put a model on the books, after it was tried on the store's first images."""
    known: dict[str, object] = {}
    if name not in places.models_of(writer.path):
        store = Store(writer.path, tables=("images",))
        first = part_rows(store, places.parts_of(writer.path)[0])[:2]
        (batch,) = batches(vit, first, request.images.absolute(), 2)
        known = try_out(name, vit, batch.pixels, request.precision, request.despite_selftest)
    register_model(writer, name, vit, **known)


def analyse(job: Job, name: str, vit: Vit, further: bool = True) -> None:
    """All that a store holds about one model. Unless `further`, samples stay as they are."""
    keep(vit)
    writer = job.writer
    do_stages(job, name, ["clean"])
    classifier = choose_classifier(writer, name, vit)
    store = Store(writer.path, tables=("images",))
    class_of = class_map(store, vit, classifier)
    tell_labels(store, name, vit, class_of)
    describe(writer, name, vit, classifier, class_of)
    for after in (False, True):
        stages = [stage for stage in STAGES.values() if stage.after == after]
        if further:
            for stage in stages:
                choose_sample(job, name, vit, stage.name)
        do_stages(job, name, [stage.name for stage in stages])
        derive(writer, name)


def choose_sample(job: Job, name: str, vit: Vit, stage: str) -> None:
    """Register the images of a sampled stage, and what else is settled for all of them."""
    wanted = job.request.wanted(stage)
    if stage not in SAMPLED or wanted == 0:
        return
    store = Store(job.writer.path, tables=("images", "head_scores"), model=name)
    candidates = spread(store)
    fixed: dict[str, object] = {}
    if STAGES[stage].donors and len(candidates) < 2:
        return
    if STAGES[stage].reference:
        settle_others(job, name, vit)
    if stage == "curves":
        candidates, fixed = judges(store, name)
    if stage == "pairs":
        pairs = choose_pairs(store, name)
        candidates, fixed = candidates if pairs else [], {"pairs": pairs}
    register(job.writer, name, stage, candidates, wanted, fixed, STAGES[stage].largest)


def settle_others(job: Job, name: str, vit: Vit) -> None:
    """Whose head outputs are put in place of an image's own."""
    settled = settle_reference(job.writer, name, vit, job.request.images.absolute(),
                               job.request.reference, job.request.draws, job.request.batch)
    complete_row(job.writer, name, {"reference_images": len(settled["reference"]),
                                    "resample_draws": settled["draws"]})


def judges(store: Store, name: str) -> tuple[list[int], dict[str, object]]:
    """The images that may judge pruning orders, and the orders that the others make."""
    rows = store.query("SELECT image, sha256 FROM images ORDER BY image").to_pylist()
    ranking, judging = split([(row["image"], row["sha256"]) for row in rows])
    orders = make_orders(store, name, ranking, RANDOM_ORDERS)
    heads = len(orders[0].heads) if orders else 0
    return spread(store, judging), {
        "orders": [(o.measure, o.order, o.heads) for o in orders],
        "steps": fractions(heads), "ranking_images": len(ranking)}


def do_stages(job: Job, name: str, stages: Iterable[str]) -> None:
    """Do the units of these stages that are missing."""
    path, request = job.writer.path, job.request
    tasks = [Task(path.absolute(), request.images.absolute(), name, stage, unit, count,
                  request.device, request.batch)
             for stage in stages
             for unit, count in unit_sizes(path, name, stage).items()]
    if tasks:
        named = ", ".join(dict.fromkeys(task.stage for task in tasks))
        with Progress(f"{name}: {named}", sum(task.images for task in tasks)) as progress:
            job.crew.run(tasks, progress)


def derive(writer: StoreWriter, name: str) -> None:
    """The tables that are made from the store's own rows, where those have changed."""
    for derived in DERIVED:
        if is_stale(writer.path, name, derived):
            with writer.lock():
                if is_stale(writer.path, name, derived):  # another run may have been quicker
                    _derive(writer, name, derived)


def is_stale(path: Path, name: str, derived: Derived) -> bool:
    """Whether a table is to be made from other units than it was made from."""
    made_from = _made_from(path, name, derived)
    file = places.model_folder(path, name) / f"{derived.table}.parquet"
    return bool(made_from) and read_note(file) != made_from


def _made_from(path: Path, name: str, derived: Derived) -> bytes:
    """A hash of the units that a table is to be made from; nothing where the first stage has none.
    """
    if not places.done_units(path, name, derived.reads[0]):
        return b""
    units = [f"{stage}/{unit}" for stage in derived.reads
             for unit in places.done_units(path, name, stage)]
    return digest(units)


def _derive(writer: StoreWriter, name: str, derived: Derived) -> None:
    made_from = _made_from(writer.path, name, derived)
    rows = derived.make(Store(writer.path, model=name), name)
    file = places.model_folder(writer.path, name) / f"{derived.table}.parquet"
    write_made(writer, file, rows, made_from)


def finish_others(job: Job, done: Mapping[str, Vit]) -> None:
    """All models of a store see the same images: bring those not named up to date as well."""
    path = job.writer.path
    for name in places.models_of(path):
        if name in done or not (places.lacks(path, name)
                                or any(is_stale(path, name, derived) for derived in DERIVED)):
            continue
        (row,) = Store(path, tables=("models",)).query(
            "SELECT spec, image_h, image_w FROM models WHERE model = ?", [name]).to_pylist()
        say(f"{name}: in the store, but not complete; finishing it")
        try:
            vit = models.load(row["spec"], (row["image_h"], row["image_w"]), job.request.device)
            register_model(job.writer, name, vit)
            analyse(job, name, vit, further=False)
        except AtlasError as error:
            say(f"{name}: left incomplete: {error} (to drop it, remove "
                f"{places.model_folder(path, name)})")
