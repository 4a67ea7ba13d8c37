"""What is proven about an image, and the evidence: the numbers that a certificate rests on.

The certifier and everybody who checks it later call the same `claim`: a radius is never stored without what it follows
from, and one that does not follow is found on reading.
"""

import importlib
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from .config import Config, differences, field_names, field_set, plain
from .registry import KINDS, unknown
from .threat import THREATS

if TYPE_CHECKING:
    from .certifier import Seed


@dataclass(frozen=True)
class Certificate:
    """What is proven about one input: no perturbation smaller than `radius` changes `prediction`."""

    prediction: int | None
    """The class, or None when the certifier abstains."""
    radius: float
    """Proven radius in the unit of the threat model, for all of ours pixels of [0, 1] images; rounded down; 0.0 when
    abstaining."""
    norm: str
    """Name of the threat model: "l2", "linf", ... (`holdfast.core.threat`)."""
    confidence: float
    """Probability that the statement is true: 1.0 for a deterministic proof, 1 - alpha for sampling."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """Every number needed to compute the radius again; values that JSON can hold."""

    def __str__(self) -> str:
        """In words, with the radius rounded down to four digits."""
        if self.prediction is None:
            return "abstains"
        radius = Context(prec=4, rounding=ROUND_FLOOR).create_decimal_from_float(self.radius)
        unit = THREATS[self.norm].unit
        return f"class {self.prediction}, radius {radius:f} in {self.norm} ({unit}), confidence {self.confidence!r}"

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf:
            raise ValueError(f"a radius is finite and not negative, got {self.radius}")
        if self.prediction is None and self.radius > 0:
            raise ValueError(f"an abstention has radius 0, got {self.radius}")
        if not 0 < self.confidence <= 1:
            raise ValueError(f"a confidence lies in (0, 1], got {self.confidence}")


@dataclass(frozen=True)
class Record:
    """One certified example of a data set."""

    index: int
    """Position of the example in its data set."""
    label: int
    certificate: Certificate

    @property
    def correct(self) -> bool:
        """The prediction is the label (an abstention is not)."""
        return self.certificate.prediction == self.label


TOLERANCE = 1e-9
"""Relative difference that another version of a special function may make."""


class Claim(NamedTuple):
    """What evidence proves."""

    prediction: int | None
    radius: float


@dataclass(frozen=True)
class Evidence(Config):
    """Base: counts or margins, with the settings that turn them into a radius."""

    unseen: ClassVar[str] = ""
    """Numbers among them that only the model can show to be true, in words; empty where there are none."""
    made_with: ClassVar[Mapping[str, Any]] = {}
    """Settings of a certifier that leaves this kind of evidence, beside those that are its fields."""

    @abstractmethod
    def claim(self) -> Claim:
        """The class and the radius that follow."""

    @property
    def confidence(self) -> float:
        """Probability that the claim is true: 1.0 for a proof without sampling."""
        return 1.0

    @property
    def norm(self) -> str | None:
        """Name of the threat model of the radius; None where the evidence does not decide it."""
        return None

    def settings(self) -> dict[str, Any]:
        """Settings of the certifier that it was made with, under their names there; other names are no settings."""
        return {name: getattr(self, name) for name in field_names(type(self))} | dict(self.made_with)

    def derived(self) -> dict[str, Any]:
        """Numbers on the way to the radius that a reader wants to see; recomputed and compared on reading."""
        return {}

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        """What was chosen before the votes or follows from the network alone, under what it was chosen for
        and by. All records of a run share them as far as they go: of two lists under one name, one begins like the
        other. Those of evidence inside."""
        inner = getattr(self, "inner", None)
        return inner.chosen() if isinstance(inner, Evidence) else {}

    def of_seed(self, seed: "Seed") -> bool:
        """Whether the random numbers that it holds beside its votes are those that its example draws."""
        inner = getattr(self, "inner", None)
        return not isinstance(inner, Evidence) or inner.of_seed(seed)

    def to_record(self) -> dict[str, Any]:
        """What a certificate stores; values that JSON can hold."""
        return self.to_dict() | self.derived()

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_record`.

        Raises:
            ValueError: a derived number does not follow from the others, or a field is unknown, missing or impossible.
        """
        kind = KINDS[data.get("kind", cls.kind())]
        told, computed = dict[str, Any](), dict[str, Any]()
        known = field_set(kind)
        for name, value in data.items():
            (told if name in known or name == "kind" else computed)[name] = value
        found = cls.from_dict(told)
        derived = found.derived()
        for name, value in computed.items():
            if name not in derived:
                raise unknown(f"number of {type(found).__name__}", name, {*known, "kind", *derived})
            if not _close(value, derived[name]):
                raise ValueError(f"{name} is {value!r}, but {derived[name]!r} follows from the other numbers")
        return found


@dataclass(frozen=True)
class MarginEvidence(Evidence):
    """Of a classifier with proven constants: by how much its top class leads, and how fast that can change."""

    unseen = "the constants and rounding errors of the network"

    threat: str
    """Name of the threat model that the constant is about."""
    prediction: int
    rival: int
    """The class that could overtake first."""
    margin: float | None
    """logit_prediction - logit_rival, in float64; None where a logit is not finite."""
    error: float
    """How far rounding can take the comparison of that margin at two images from the truth."""
    constant: float
    """A proven Lipschitz constant of the margin."""
    diameter: float
    """The largest distance between two images: no radius exceeds it."""
    program: str
    """Identity of the float64 network that was bounded and run. Its constants cannot be checked without it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prediction", "rival", "error", "constant", "diameter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number, 0 or more")

    @property
    def norm(self) -> str:
        return self.threat

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        pair = (self.prediction, self.rival)
        bounds: dict[tuple[Any, ...], Sequence[float | str]] = {
            ("constant", *pair): (self.constant,),
            ("error", *pair): (self.error,),
            ("diameter",): (self.diameter,),
            ("program",): (self.program,),
        }
        return bounds

    def claim(self) -> Claim:
        if self.margin is None or not self.margin > self.error:
            return Claim(None, 0.0)
        radius = (self.margin - self.error) / self.constant * (1 - 2**-50) if self.constant else math.inf
        return Claim(self.prediction, min(radius, self.diameter))


@dataclass(frozen=True)
class BoxEvidence(Evidence):
    """Of interval bounds: the radius that bisection found, from that of the margin on."""

    unseen = "the constants and rounding errors of the network, and its bounds in the box around each image"

    margin: MarginEvidence
    """Where bisection started."""
    steps: int
    radius: float
    """Of the largest box in which no other class catches up; 0.0 where none was looked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.radius <= self.margin.diameter:
            raise ValueError(f"radius is {self.radius}, expected a number in [0, {self.margin.diameter}]")
        if self.margin.threat != "linf":
            raise ValueError(f"threat is {self.margin.threat!r}, and boxes are balls of linf")

    @property
    def norm(self) -> str:
        return self.margin.norm

    def chosen(self) -> dict[tuple[Any, ...], Sequence[float | str]]:
        return self.margin.chosen()

    def claim(self) -> Claim:
        start = self.margin.claim()
        return start if start.prediction is None else Claim(start.prediction, max(start.radius, self.radius))


OWN = "own"
"""A threat that each classifier names for itself."""

MADE_BY: dict[str, tuple[type[Evidence], ...]] = {"Margin": (MarginEvidence,), "LInfBox": (BoxEvidence,)}
"""By the kind of certifier, what evidence it leaves; the certifiers of others may leave any."""


def _old_margin(_: Mapping[str, Any], found: Certificate) -> MarginEvidence:
    names = ("rival", "margin", "error", "constant")
    told = {name: found.evidence[name] for name in names} | {"program": found.evidence["weights"]}
    return MarginEvidence(**told, threat=found.norm, prediction=found.prediction or 0, diameter=math.inf)


Reader = Callable[[Mapping[str, Any], Certificate], Evidence | None]

OLD: dict[str, Reader] = {"Margin": _old_margin}
"""By the kind of certifier: from its settings and a certificate of versions before 0.2, the evidence of today; None
where these did not keep enough."""

HOMES = tuple(f"holdfast.smoothing.{name}" for name in ("evidence", "radius_tests"))
"""Modules that add to these tables, as text because they stand above."""

CONTEXT = {"seed", "index", "runtime"}
"""What `certify` notes beside evidence, and no radius depends on."""


def verified(certificate: Certificate, certifier: Mapping[str, Any], complete: bool = False) -> Evidence | None:
    """The evidence of a certificate that follows from it; None where not enough was kept to tell.

    Args:
        certificate: as it was read.
        certifier: settings of the certifier of its run, with their `kind`; empty where unknown.
        complete: whether our certifiers kept all of it, as they do since version 0.2.

    Raises:
        ValueError: the numbers contradict each other or the settings, or the certificate does not follow from them.
    """
    try:
        found = _evidence_of(certificate, certifier, {} if complete else OLD)
        if found is None:
            _check_bare(certificate, certifier, complete)
        else:
            _check_settings(found, certifier)
            _check_claim(found, certificate)
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"the evidence is none ({error!r}); was it edited?") from error
    return found


def _evidence_of(certificate: Certificate, certifier: Mapping[str, Any], old: Mapping[str, Reader]) -> Evidence | None:
    _fill_tables()
    kept = certificate.evidence
    if not CONTEXT.isdisjoint(kept):
        kept = {name: value for name, value in kept.items() if name not in CONTEXT}
    if "kind" in kept:
        return Evidence.from_record(kept)
    reader = old.get(str(certifier.get("kind")))
    return reader(certifier, certificate) if reader and kept else None


def ours(kind: object) -> bool:
    """Whether a kind is that of a certifier of ours."""
    _fill_tables()
    return kind in MADE_BY


@cache
def _fill_tables() -> None:
    for home in HOMES:
        importlib.import_module(home)


def _check_bare(certificate: Certificate, certifier: Mapping[str, Any], complete: bool) -> None:
    """What can be said without evidence, of our certifiers."""
    expected = MADE_BY.get(str(certifier.get("kind")))
    if expected is None:
        return
    if complete:
        raise ValueError(f"it has no {_names(expected)}, from which its radius would follow")
    alpha = certifier.get("inner", certifier).get("alpha")
    if certificate.confidence != 1 - (alpha or 0.0):
        raise ValueError(f"confidence is {certificate.confidence!r}, but alpha is {alpha} in the run")


UNSAID: dict[str, Any] = {}
"""What settings count as that the run.json of a certifier of ours does not tell; modules add to it as to `MADE_BY`."""


def _check_settings(evidence: Evidence, certifier: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse evidence of another certifier than that of the run, or with other settings."""
    kind = certifier.get("kind")
    expected = MADE_BY.get(str(kind))
    if expected and type(evidence) not in expected:
        raise ValueError(f"{kind} leaves {_names(expected)}, found {type(evidence).__name__}")
    certifier = {**UNSAID, **certifier} if expected else certifier
    made_with = {name: value for name, value in evidence.settings().items() if name in certifier and name != "kind"}
    if certifier.get("threat") == OWN:
        made_with.pop("threat", None)
    if all(value == certifier[name] or plain(value) == certifier[name] for name, value in made_with.items()):
        return
    for name, value in made_with.items():
        inner = getattr(evidence, name, None)
        if isinstance(inner, Evidence):
            _check_settings(inner, certifier[name], f"{prefix}{name}.")
        elif changed := differences(plain(value), certifier[name], f"{prefix}{name}"):
            told = "; ".join(f"{key} is {here!r}, in the run {there!r}" for key, (here, there) in changed.items())
            raise ValueError(f"the evidence has other settings than its run: {told}")


def _names(kinds: tuple[type[Evidence], ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def _check_claim(evidence: Evidence, certificate: Certificate) -> None:
    """Refuse a certificate that does not follow from its evidence."""
    claim = evidence.claim()
    if claim.prediction != certificate.prediction or not _close(claim.radius, certificate.radius):
        raise ValueError(
            f"it claims class {certificate.prediction} with radius {certificate.radius!r}, but from its evidence "
            f"follows class {claim.prediction} with radius {claim.radius!r}"
        )
    for name in ("confidence", "norm"):
        found, expected = getattr(certificate, name), getattr(evidence, name)
        if expected is not None and found != expected:
            raise ValueError(f"{name} is {found!r}, but {expected!r} follows from its evidence")


def _close(found: Any, expected: Any) -> bool:
    if isinstance(found, float) and isinstance(expected, float):
        return math.isclose(found, expected, rel_tol=TOLERANCE, abs_tol=1e-15)
    return type(found) is type(expected) and found == expected
