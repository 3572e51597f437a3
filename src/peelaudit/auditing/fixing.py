"""A mended checkpoint from settings to directory: made, judged on *held-out*, written, and read back."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from peelaudit.auditing.adapting import adapter_factors, check_adaptable
from peelaudit.auditing.delivering import Written, write_adapter, write_network
from peelaudit.auditing.effort import extent
from peelaudit.auditing.mending import Bench, Cure
from peelaudit.auditing.prepare import Prepared, prepared, versions
from peelaudit.auditing.shrinking import cheapest_layer, check_smaller, write_smaller
from peelaudit.checkpoints import open_checkpoint
from peelaudit.checkpoints.placing import check_place, placed
from peelaudit.errors import ConfigError, NothingToFix, OutputError
from peelaudit.filenames import FIX_RECORD
from peelaudit.method.statistics.panel import Losses
from peelaudit.network.families import admit
from peelaudit.progress import SILENT, Progress
from peelaudit.records import Estimate, Fix, FixKind
from peelaudit.records.json import dump
from peelaudit.settings.audit import AuditConfig
from peelaudit.settings.rules import Selector

__all__ = ["Wish", "fix"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become of a checkpoint.

    Attributes:
        out: the directory that is written.
        layers: that are refined, one after another; those that an audit names; None for all together.
        head: whether the head is refitted too.
        untie: whether one that is tied to the embedding is made one of its own for that.
        rank: of the adapter that is written instead of a network; None for none.
        drop: the layers that are left out, or `best` for the one that costs least; None for none.
        force: whether what an earlier fix wrote there is replaced.
    """

    out: Path
    layers: Selector | Literal["named"] | None = None
    head: bool = False
    untie: bool = False
    rank: int | None = None
    drop: Selector | Literal["best"] | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class _Mended:
    """A network with changes: the checkpoint's, or that without some layers. `numbers` are its layers' in the first."""

    bench: Bench
    cure: Cure
    numbers: tuple[int, ...]
    dropped: tuple[int, ...] = ()


def fix(config: AuditConfig, wish: Wish, *, progress: Progress = SILENT) -> Fix:
    """Write the checkpoint with blocks that predict better.

    Args:
        config: the settings; the readout is the network's own head, or the one that is refitted.
        wish: what is done, and where it is written.
        progress: told of each stage.

    Raises:
        NothingToFix: no change gains on *held-out*, interval and all, or leaving layers out costs more than the
            tolerance, or what comes of it is worse than guessing; nothing was written.
        PeelauditError: as `audit_config`.
    """
    check_place(wish.out, Path(config.checkpoint), force=wish.force)
    config = dataclasses.replace(config, parent=None)
    with prepared(config, progress=progress) as audit, contextlib.ExitStack() as opened:
        head, notes = _head(audit, wish)
        bench = Bench(_reading(audit, head=head), exact=wish.rank is not None)
        if wish.rank is not None:
            check_adaptable(bench)
        mended = _refined(bench, wish) if wish.drop is None else _smaller(bench, wish, opened)
        written = _written(bench, mended, wish)
        with placed(wish.out) as directory:
            found = written(directory)
            audit.checkpoint.check_unchanged()
            bench.calibration.check_unchanged()
            record = _record(bench, mended, found, wish, notes)
            (directory / FIX_RECORD).write_text(dump(record, Fix), encoding="utf-8")
    return record


def _head(audit: Prepared, wish: Wish) -> tuple[bool, tuple[str, ...]]:
    """Whether the head is refitted, and what to say where it isn't though it was asked for."""
    if wish.head and audit.checkpoint.info.tied_head and not wish.untie:
        return False, ("the head is tied to the embedding: without --untie it was left as it is",)
    return wish.head, ()


def _reading(audit: Prepared, *, head: bool) -> Prepared:
    """The same, the network read by its own head, or by the one that is refitted."""
    readout: Literal["refit", "own"] = "refit" if head else "own"
    return dataclasses.replace(audit, config=dataclasses.replace(audit.config, readout=readout))


def _refined(bench: Bench, wish: Wish) -> _Mended:
    """The network with what was asked for.

    Raises:
        ConfigError: a layer isn't there, or none is refined alone with that effort.
        NothingToFix: nothing helps on *select*.
    """
    if wish.layers is None:
        cure = bench.refined()
    else:
        reach = bench.audit.extent.alone
        if reach is None:
            raise ConfigError("--layers needs --effort default or thorough")
        layers = bench.named(reach) if wish.layers == "named" else _chosen("--layers", wish.layers, bench)
        cure = bench.one_by_one(layers, reach)
    if not cure.layers and cure.head is None:
        raise NothingToFix("nothing that was tried gains on the text that decides: nothing was written")
    return _Mended(bench, cure, tuple(range(1, bench.decoder.n_layers + 1)))


def _chosen(flag: str, selector: Selector, bench: Bench) -> tuple[int, ...]:
    """The layers that a selector names. Raises ConfigError where there is none of that number."""
    n_layers = bench.decoder.n_layers
    if missing := selector.beyond(n_layers):
        raise ConfigError(f"{flag} has {', '.join(missing)}: the network has {n_layers} layers")
    return tuple(layer for layer in range(1, n_layers + 1) if layer in selector)


def _smaller(bench: Bench, wish: Wish, opened: contextlib.ExitStack) -> _Mended:
    """The network without some layers, the others refined; open as long as `opened`.

    Raises:
        ConfigError: a layer isn't there, or all would go.
        UnsupportedCheckpoint: the configuration can't say it.
        OutputError: there is no room for it.
    """
    drop = (cheapest_layer(bench),) if wish.drop == "best" else _chosen("--drop", wish.drop or Selector(()), bench)
    kept = tuple(layer for layer in range(1, bench.decoder.n_layers + 1) if layer not in drop)
    if not kept:
        raise ConfigError(f"--drop has all {bench.decoder.n_layers} layers")
    try:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix=".peelaudit-", dir=wish.out.parent)))
        write_smaller(bench, drop, folder)
    except OSError as error:
        raise OutputError(f"{wish.out} can't be written: {error.strerror or error}") from error
    audit = bench.audit
    config = dataclasses.replace(audit.config, config=None, adapter=None)
    checkpoint = opened.enter_context(open_checkpoint(folder, admit=admit, progress=audit.clock))
    smaller = Bench(
        dataclasses.replace(audit, checkpoint=checkpoint, config=config, extent=extent(config, len(kept))),
        bench.calibration,
    )
    check_smaller(bench, drop, smaller)
    return _Mended(smaller, smaller.refined(), kept, drop)


def _written(bench: Bench, mended: _Mended, wish: Wish) -> Callable[[Path], Written]:
    """What writes it into an empty directory; nothing is begun that wouldn't be good enough.

    Raises:
        NothingToFix: it isn't.
    """
    if wish.rank is not None:
        rank, factors = wish.rank, adapter_factors(bench, mended.cure, wish.rank)

        def adapter(directory: Path) -> Written:
            found = write_adapter(bench, factors, rank, directory)
            _judge(bench, found.losses, wish)
            return found

        return adapter
    cure, where = mended.cure, mended.bench
    losses = where.losses_of(cure.decoder, cure.head)
    _judge(bench, losses, wish)
    untie = cure.head is not None and where.audit.checkpoint.info.tied_head
    return lambda directory: write_network(where, cure, losses, directory, untie=untie)


def _judge(bench: Bench, losses: Losses, wish: Wish) -> None:
    """Raise NothingToFix unless the whole interval of the gain is above 0; where layers are left out, unless that of
    the cost is within the tolerance. Nor is a network a mended one that is worse than guessing.
    """
    after, uniform = bench.estimate(losses), math.log(bench.decoder.vocabulary)
    if after.low > uniform:
        raise NothingToFix(
            f"the best that was found has a loss of {after.value:.2f}, worse than guessing all tokens alike "
            f"({uniform:.2f}): see whether the file is whole and its tokenizer its own; nothing was written"
        )
    gain, tolerance = bench.estimate(bench.losses - losses), bench.audit.config.tolerance
    if wish.drop is not None:
        if -gain.low > tolerance:
            cost = Estimate(-gain.value, -gain.high, -gain.low)
            words = f"above the tolerance of {tolerance:g}: nothing was written"
            raise NothingToFix(f"leaving that out costs {_told(cost)} on held-out text, {words}")
    elif gain.low <= 0:
        raise NothingToFix(f"what was refined gains {_told(gain)} on held-out text: nothing was written")


def _told(figure: Estimate) -> str:
    return f"{figure.value:+.4f} nats/token, {figure.low:+.4f} to {figure.high:+.4f},"


def _record(bench: Bench, mended: _Mended, found: Written, wish: Wish, notes: tuple[str, ...]) -> Fix:
    info, cure = bench.audit.checkpoint.info, mended.cure
    kind = FixKind.REFINED if wish.layers is None else FixKind.LAYERS
    kind = FixKind.DROPPED if mended.dropped else FixKind.ADAPTER if wish.rank is not None else kind
    return Fix(
        kind=kind,
        checkpoint=info.path,
        checkpoint_sha256=info.sha256,
        out=str(wish.out),
        written_sha256=found.sha256,
        same_files=found.same_files and not mended.dropped,
        data=bench.calibration.info,
        effort=bench.audit.config.effort,
        layers=tuple(mended.numbers[layer - 1] for layer in cure.layers),
        dropped=mended.dropped,
        head=cure.head is not None,
        rank=wish.rank,
        steps=cure.steps,
        products=cure.products,
        before=bench.estimate(bench.losses),
        after=bench.estimate(found.losses),
        gain=bench.estimate(bench.losses - found.losses),
        notes=(*notes, *found.notes, *bench.audit.checkpoint.notes),
        versions=versions(),
    )
