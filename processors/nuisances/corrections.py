"""correctionlib files (schema version 2): opened once per process, checked by sha256, errors in the user's words."""

# correctionlib's evaluate is annotated as a union of everything it may return.
# pyright: reportArgumentType=false

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, InputError
from ...workspace import file_digest
from ..features import Columns
from .base import Jagged, check_name, column, interpolate

Side = Literal["nominal", "up", "down"]
SIDES = ("nominal", "up", "down")
#: Correction files kept open in a process.
OPEN_FILES = 32
_WHAT = re.compile(r"(?P<abs>abs\()?(?P<event>event\.)?(?P<branch>[A-Za-z]\w*)(?(abs)\))\Z")
_ARGUMENT = re.compile(r"input argument (\d+)")


@lru_cache(maxsize=OPEN_FILES)
def open_corrections(path: str, sha256: str) -> Any:
    """The correction set of a JSON or JSON.gz file. Raises `InputError` where it is missing, changed or damaged."""
    try:
        import correctionlib
    except ModuleNotFoundError:
        raise ConfigError(f"{path} needs correctionlib; install it with: pip install correctionlib") from None
    if not Path(path).is_file():
        raise InputError(f"correction file {path} does not exist; give its path from search.yaml's folder")
    found = file_digest(Path(path))
    if sha256 and found != sha256:
        raise InputError(
            f"correction file {path} has sha256 {found}, expected {sha256}; put the file back, or take the new sum "
            "and process again"
        )
    try:
        return correctionlib.CorrectionSet.from_file(path)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"correction file {path} is not correctionlib JSON, schema 2 ({error})") from None


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else ""


@dataclass(frozen=True)
class Correction:
    """One correction of a correctionlib file, and where each of its inputs comes from.

    ``inputs`` maps the correction's own input names to
      * a branch, for example Pileup_nTrueInt; for objects of a collection the branch's second part alone (eta for
        Jet_eta), or event.Rho_fixedGridRhoFastjetAll for one number of their event; abs(eta) takes the modulus;
      * a number, or {value: text}, that is the same everywhere;
      * {nominal: text, up: text, down: text}: the correction's names for nu = 0, 1 and -1.
    ``sha256``: of the file; where it is given, another content is an `InputError`.
    """

    file: str
    correction: str
    inputs: Mapping[str, str | float | int | Mapping[str, str | float | int]] = field(default_factory=dict)
    sha256: str = ""

    def __getstate__(self) -> dict[str, Any]:
        # The evaluator is opened again where this arrives.
        return {k: v for k, v in self.__dict__.items() if k != "evaluator"}

    @property
    def varies(self) -> bool:
        """Whether an input is named for nominal, up and down."""
        return any(isinstance(v, Mapping) and "up" in v for v in self.inputs.values())

    def branches(self, collection: str | None) -> tuple[str, ...]:
        """The branches the inputs are taken from."""
        sources = (_source(v, collection) for v in self.inputs.values() if isinstance(v, str))
        return tuple(dict.fromkeys(branch for branch, _, _ in sources))

    @cached_property
    def evaluator(self) -> Any:
        """The correctionlib object. Raises `ConfigError` for a wrong name or input and says which there are."""
        known = open_corrections(self.file, self.sha256)
        names = [*known, *known.compound]
        if self.correction not in names:
            raise ConfigError(
                f"{self.file} has no correction '{self.correction}'{_nearest(self.correction, names)} "
                f"There are: {', '.join(names)}"
            )
        found = known.compound[self.correction] if self.correction not in known else known[self.correction]
        self._check_inputs({v.name: v.type for v in found.inputs})
        return found

    def _check_inputs(self, types: Mapping[str, str]) -> None:
        where = f"{self.file}, correction '{self.correction}'"
        listed = ", ".join(f"{n} ({t})" for n, t in types.items())
        for name, value in self.inputs.items():
            if name not in types:
                hint = _nearest(name, list(types))
                raise ConfigError(f"{where} has no input '{name}'{hint} Its inputs: {listed}")
            if isinstance(value, Mapping) and set(value) not in ({"value"}, set(SIDES)):
                raise ConfigError(
                    f"{where}, input {name}: found {dict(value)}, expected {{value: ...}} or nominal, up and down"
                )
            if isinstance(value, str) and (types[name] == "string" or not _WHAT.match(value)):
                raise ConfigError(
                    f"{where}, input {name} ({types[name]}): '{value}' is taken for a branch; write "
                    f"{{value: {value}}} for a text, or {{nominal: ..., up: ..., down: ...}}"
                )
        missing = [n for n in types if n not in self.inputs]
        if missing:
            raise ConfigError(f"{where}: input '{missing[0]}' is not given. Its inputs: {listed}")

    def evaluate(self, columns: Columns, collection: str | None, side: Side, who: str) -> NDArray[np.float64]:
        """Values for every event (n,), or for every object (N,) of ``collection``, at the nominal, up or down names.

        Raises `InputError` naming file, correction and value where a number lies outside the binning.
        """
        return self.evaluate_where(columns, collection, side, who, None)

    def evaluate_where(
        self, columns: Columns, collection: str | None, side: Side, who: str, use: NDArray[np.bool_] | None
    ) -> NDArray[np.float64]:
        """`evaluate` for the objects or events of the mask alone, in their order; None: for all."""
        evaluator = self.evaluator
        arguments = []
        for variable in evaluator.inputs:
            value = self.inputs[variable.name]
            if isinstance(value, Mapping):
                arguments.append(_typed(value.get(side, value.get("value")), variable.type))
            elif isinstance(value, str):
                content = _content(columns, value, collection, who)
                if variable.type == "int" and content.dtype.kind == "f":
                    raise InputError(
                        f"nuisance '{who}': {self.file}, correction '{self.correction}', input {variable.name} is an int, "
                        f"but {value} is {content.dtype}; give a branch of whole numbers"
                    )
                arguments.append(_typed(content if use is None else content[use], variable.type))
            else:
                arguments.append(_typed(value, variable.type))
        try:
            made = np.asarray(evaluator.evaluate(*arguments), dtype=np.float64)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise self._explain(error, who) from None
        if made.ndim:
            return made
        return np.full(_length(columns, collection, who) if use is None else int(use.sum()), float(made))

    def _explain(self, error: Exception, who: str) -> InputError:
        found = _ARGUMENT.search(str(error))
        name = f", input {self.evaluator.inputs[int(found[1])].name}" if found else ""
        return InputError(
            f"nuisance '{who}': {self.file}, correction '{self.correction}'{name}: {error}; the events reach outside "
            "what the correction was made for: cut them, or take a correction that clamps"
        )


def _source(text: str, collection: str | None) -> tuple[str, bool, bool]:
    """(branch, whether it is one number per event, whether to take the modulus) of an input's text."""
    found = _WHAT.match(text)
    if found is None:
        raise ConfigError(f"'{text}' is no branch; expected for example eta, abs(eta) or event.genWeight")
    per_event = collection is None or found["event"] is not None
    branch = found["branch"] if per_event else f"{collection}_{found['branch']}"
    return branch, per_event, found["abs"] is not None


def _content(columns: Columns, text: str, collection: str | None, who: str) -> NDArray[Any]:
    """The numbers of an input: (n,) for events, (N,) for the objects of a collection."""
    branch, per_event, modulus = _source(text, collection)
    if not per_event:
        out = Jagged.of(columns, branch, who).content
    else:
        values = column(columns, branch, who)
        if getattr(values, "ndim", 0) != 1:
            raise InputError(f"nuisance '{who}': {branch} is jagged; give the collection it belongs to")
        out = np.asarray(values)
        if collection is not None:
            out = np.repeat(out, _counts(columns, collection, who))
    return np.abs(out) if modulus else out


def _counts(columns: Columns, collection: str, who: str) -> NDArray[np.int64]:
    return Jagged.of(columns, f"{collection}_pt", who).counts


def _length(columns: Columns, collection: str | None, who: str) -> int:
    if collection is None:
        return len(next(iter(columns.values())))
    return int(_counts(columns, collection, who).sum())


def _typed(value: Any, kind: str) -> Any:
    """A value as correctionlib takes it: texts as they are, numbers in the input's own type."""
    if kind == "string":
        return str(value)
    number = np.int64 if kind == "int" else np.float64
    return (
        np.ascontiguousarray(value, dtype=number) if isinstance(value, np.ndarray) else number(value).item()
    )


@dataclass(frozen=True)
class CorrectionWeight:
    """Any correction of a correctionlib file as an event weight: w0 (w_side / w0)^|nu|, see `interpolate`.

    Without ``collection`` it is evaluated once per event; with one, for its objects with pT above ``min_pt`` and |eta|
    below ``max_abs_eta``, and multiplied up (1 for an event without any). ``inputs`` as in `Correction`; one must name
    nominal, up and down.
    """

    name: str
    file: str
    correction: str
    inputs: Mapping[str, str | float | int | Mapping[str, str | float | int]]
    collection: str | None = None
    min_pt: float | None = None
    max_abs_eta: float | None = None
    sha256: str = ""
    optional: tuple[str, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.source.varies:
            raise ConfigError(
                f"nuisance '{self.name}': no input of '{self.correction}' names nominal, up and down, so nothing varies"
            )
        if self.collection is None and (self.min_pt is not None or self.max_abs_eta is not None):
            raise ConfigError(
                f"nuisance '{self.name}': min_pt and max_abs_eta select objects; give a collection"
            )

    @property
    def source(self) -> Correction:
        """The correction."""
        return Correction(self.file, self.correction, self.inputs, self.sha256)

    @property
    def branches(self) -> tuple[str, ...]:
        """The inputs' branches and those that select objects."""
        wanted = self.source.branches(self.collection)
        if self.collection is not None:
            cuts = () if self.max_abs_eta is None else (f"{self.collection}_eta",)
            wanted = (*wanted, f"{self.collection}_pt", *cuts)
        return tuple(dict.fromkeys(wanted))

    def factor(self, columns: Columns, nu: float) -> NDArray[np.float64]:
        """Weights (n,). Raises `InputError` for values outside the binning."""
        use = self._selected(columns)
        nominal = self._side(columns, "nominal", use)
        if nu == 0.0:
            return nominal
        side = self._side(columns, "up" if nu > 0 else "down", use)
        return interpolate(nominal, side, side, nu)

    def _side(self, columns: Columns, side: Side, use: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        values = self.source.evaluate_where(columns, self.collection, side, self.name, use)
        if self.collection is None or use is None:
            return values
        pt = Jagged.of(columns, f"{self.collection}_pt", self.name)
        every = np.ones(len(use))
        every[use] = values
        return np.asarray(ak.to_numpy(ak.prod(pt.like(every), axis=1)), dtype=np.float64)

    def _selected(self, columns: Columns) -> NDArray[np.bool_] | None:
        """The objects that count, (N,); None for a weight of the event."""
        if self.collection is None:
            return None
        pt = Jagged.of(columns, f"{self.collection}_pt", self.name).content
        use = np.ones(len(pt), bool) if self.min_pt is None else pt > self.min_pt
        if self.max_abs_eta is not None:
            use &= np.abs(Jagged.of(columns, f"{self.collection}_eta", self.name).content) < self.max_abs_eta
        return use
