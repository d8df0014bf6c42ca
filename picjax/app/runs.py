"""The runs that the app offers, by name, loaded when first used."""

import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from picjax import checkpoints
from picjax.buckets import is_remote
from picjax.cli import UserError, check_choice
from picjax.data.labelled import class_names
from picjax.inputs import translates
from picjax.model import EMBEDDED, Model, load
from picjax.system import Config, image_shape

FOLDER = Path("runs")  # where runs are looked for if none is named
SAMPLERS = 4  # variants of one run with other samplers that are kept
SETTINGS = ("preset", "label", "guidance")  # of config.sampler, for a request
LOG = logging.getLogger("picjax.app")

Sampler = Mapping[str, str]


class RunInfo(NamedTuple):
    """What can be asked of a run.

    Attributes:
      system: the method.
      size: height and width at which it works.
      completes: whether it completes holes.
      samplers: presets of its sampler; none if it draws in one way.
      data: name of the training data.
      classes: of its label maps, by name; none if it has no label maps.
      instances: how many a layout may have.
    """

    system: str
    size: tuple[int, int]
    completes: bool
    samplers: tuple[str, ...]
    data: str
    classes: tuple[str, ...]
    instances: int


class Runs:
    """Runs by name, of which a few are in memory.

    Args:
      workdirs: folders (or exported files) to offer; none: those under `runs/`, which
        are looked for at every call of `names`, or the embedded model.
      max_loaded: models in memory; the one that was used longest ago is dropped.
    """

    def __init__(self, workdirs: Sequence[str] = (), max_loaded: int = 2):
        self._given = bool(workdirs)
        self._max_loaded = max_loaded
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, OrderedDict[str, Model]] = OrderedDict()
        self._sources = by_name(workdirs) if workdirs else discover()

    def names(self) -> list[str]:
        """The names, newest run first where none was given."""
        if not self._given:
            self._sources = discover()
        return list(self._sources)

    def source(self, name: str) -> str:
        """The workdir of a run, as the command line has it.

        Raises:
          UserError: if there is no such run.
        """
        if name not in self._sources:
            check_choice("run", name, self.names())
        return self._sources[name]

    def info(self, name: str) -> RunInfo:
        """What can be asked of a run; its weights are not read.

        Raises:
          UserError: if there is no such run, or it cannot be read.
        """
        with self._lock:
            loaded = next(iter(self._loaded.get(name, {}).values()), None)
        source = Path(self.source(name))
        if loaded is not None or not source.is_dir():
            return info_of((loaded or self.model(name)).config)
        with named(name):
            return info_of(checkpoints.read_config(source))

    def infos(self) -> dict[str, RunInfo]:
        """The runs that can be read, by name."""
        found = {}
        for name in self.names():
            with contextlib.suppress(UserError):  # it was logged
                found[name] = self.info(name)
        return found

    def model(self, name: str, sampler: Sampler | None = None) -> Model:
        """A run's model, loaded if it is not in memory.

        Raises:
          UserError: if there is no such run or sampler, or it cannot be loaded.
        """
        source = self.source(name)
        key = repr(sorted((sampler or {}).items()))
        with self._lock:
            variants = self._loaded.get(name)
            if variants is None:
                with named(name):
                    variants = OrderedDict({repr([]): load(source)})
                self._loaded[name] = variants
                while len(self._loaded) > self._max_loaded:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            if key not in variants:
                plain = variants[repr([])]
                variants[key] = plain.with_sampler(sampler or {})
                if len(variants) > SAMPLERS:
                    del variants[list(variants)[1]]  # the first is without a sampler
            return variants[key]

    def loaded(self) -> list[str]:
        """The names of the models in memory."""
        return list(self._loaded)


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Turn an error about a workdir into one that names the run, not its path.

    Raises:
      UserError: for errors of the block.
    """
    try:
        yield
    except (UserError, OSError) as error:
        LOG.warning("run %s: %s", name, error)
        raise UserError(
            f"run '{name}' cannot be loaded; the server's log says why"
        ) from None


def discover(folder: Path = FOLDER) -> dict[str, str]:
    """Workdirs with a checkpoint in a folder and the folders in it, newest first.

    Without any, the model that is installed with picjax.
    """
    workdirs = [path.parent for path in folder.glob("*/config.json")]
    workdirs += [path.parent for path in folder.glob("*/*/config.json")]
    saved = [path for path in workdirs if checkpoints.saved_steps(path)]
    saved.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = {path.relative_to(folder).as_posix(): path.as_posix() for path in saved}
    return found or {"demo": EMBEDDED}


def by_name(workdirs: Sequence[str]) -> dict[str, str]:
    """Workdirs by their last part, or by their whole where that is not unique.

    Raises:
      UserError: if one does not exist.
    """
    for workdir in workdirs:
        if not is_remote(workdir) and not Path(workdir).exists():
            raise UserError(f"--workdir '{workdir}' does not exist; correct it")
    short = [Path(workdir).name or workdir for workdir in workdirs]
    return {
        name if short.count(name) == 1 else workdir: workdir
        for name, workdir in zip(short, workdirs, strict=True)
    }


def info_of(config: Config) -> RunInfo:
    """What can be asked of a run with this config."""
    samplers: tuple[str, ...] = ()
    if config.system == "painter":
        from picjax.methods.painter.settings import POSTERIOR_PRESETS, PRESETS

        samplers = (*PRESETS, *POSTERIOR_PRESETS)
    maps = config.data.get("maps")
    return RunInfo(
        system=config.system,
        size=image_shape(config),
        completes=not maps and not translates(config),
        samplers=samplers,
        data=config.data.name,
        classes=class_names(config.data) if maps else (),
        instances=maps.instances if maps else 0,
    )


def parse_sampler(text: str) -> dict[str, str]:
    """`fast`, or `preset=fast,label=3`, as settings of `config.sampler`.

    Raises:
      UserError: for a setting that a request may not change.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    pairs = [word.split("=", 1) if "=" in word else ["preset", word] for word in words]
    settings = dict(pairs)
    for key in settings:
        check_choice("sampler setting", key, SETTINGS)
    return settings
