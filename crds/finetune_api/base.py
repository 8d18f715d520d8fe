"""Building blocks of the API types: the model base, validation rules and bounded scalars.

A :class:`Rule` states one constraint twice, as CEL for the API server and as a Python check for runs without one, with
the one message that both give. They stand side by side so that a reader sees whether they agree, and the API server
tests feed both with the same cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator
from pydantic.alias_generators import to_camel

__all__ = [
    "SUBDOMAIN",
    "ApiModel",
    "ConfigMapKey",
    "DecimalString",
    "Digest",
    "LabelName",
    "LocalName",
    "Rule",
    "SecretRef",
    "SpecModel",
    "Timestamp",
    "moved",
    "not_yet",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One cross-field constraint of an object.

    Attributes
    ----------
    cel
        The expression for ``x-kubernetes-validations``; ``self`` is the object.
    message
        Names the field by its whole path below spec (below the object, where a type stands in several places), and the
        mend; at most 2048 characters (Kubernetes' bound).
    check
        The same constraint in Python; returns whether the object is valid.
    field
        The one field of the object that is wrong, as it stands on the wire; empty where several are at odds.
    cluster_only
        Not checked in local runs (``context={"local": True}``).
    """

    cel: str
    message: str
    check: Callable[[Any], bool]
    field: str = ""
    cluster_only: bool = False


def not_yet(cel: str, what: str, check: Callable[[Any], bool], *, field: str = "", mend: str = "leave it out") -> Rule:
    """Refuse a field whose behaviour this version doesn't have, rather than accept and ignore it."""
    message = f"{what} is not supported by this version of the operator; {mend}"
    return Rule(cel=cel, message=message, check=check, field=field)


def moved(field: str, to: str, check: Callable[[Any], bool], *, empty: str = "") -> Rule:
    """Refuse a field that an earlier version had, rather than let the API server drop what it says.

    ``empty`` is CEL for a value that says nothing: stored objects carry what the earlier version filled in, which must
    not stand in the way of every later edit.
    """
    cel = f"!has(self.{field})" + (f" || {empty}" if empty else "")
    return Rule(cel=cel, message=f"{field} has moved; write {to}", check=check, field=field)


class ApiModel(BaseModel):
    """Base of all API types: frozen, camelCase on the wire, tolerant of fields it doesn't know.

    Tolerance serves an older operator under a newer CRD; callers that read a user's file pass ``extra="forbid"`` to
    ``model_validate``. ``rules`` run after field validation, and all violations are reported at once.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _check_rules(self, info: ValidationInfo) -> Self:
        local = bool(info.context and info.context.get("local"))
        broken = [r.message for r in type(self).rules if not (r.cluster_only and local) and not r.check(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON-able camelCase form without absent fields, as it stands in manifests and status."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class SpecModel(ApiModel):
    """Base of what users write, read as the API server reads it.

    As strict about types, so ``epochs: "3"`` is refused here too; and a null, such as a key whose children are all
    commented out, counts as absent.
    """

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

CONFIG_MAP_KEY: Final = r"^[.]?[-_A-Za-z0-9][-._A-Za-z0-9]*$"
"""None begins with '..', since kubelet keeps its own links there."""

LocalName = Annotated[str, Field(min_length=1, max_length=253, pattern=SUBDOMAIN)]
"""Name of an object in the same namespace (or of a cluster-scoped one): a DNS-1123 subdomain."""

LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=SUBDOMAIN)]
"""Name of an object that the value of a label names too, which is shorter."""

DecimalString = Annotated[str, Field(max_length=24, pattern=r"^[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$")]
"""A number as text; Kubernetes' conventions keep floats out of objects."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]

Timestamp = Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC with whole seconds, as metav1.Time prints it."""


class ConfigMapKey(SpecModel):
    """Names a key of a ConfigMap in the job's own namespace."""

    name: LocalName = Field(description="Name of a ConfigMap in the namespace of the FineTuneJob.")
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=CONFIG_MAP_KEY)] = Field(
        description="Key of the ConfigMap whose text is taken."
    )

    @property
    def uri(self) -> str:
        """The same as a URI."""
        return f"configmap://{self.name}/{self.key}"


class SecretRef(SpecModel):
    """Names a Secret in the job's own namespace."""

    name: LocalName = Field(description="Name of a Secret in the namespace of the FineTuneJob.")
