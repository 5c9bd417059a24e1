"""
Read a YAML file of the catalogue and check it against its JSON schema.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final, cast

import yaml
from jsonschema import Draft202012Validator, ValidationError

from tokenworks.foundation.errors import InvalidError

_PACKAGE: Final = "tokenworks.catalogue"


class CatalogueError(InvalidError):
    """
    A catalogue file cannot be used; the message says the file, the place in it and why.
    """

    code = "catalogue_invalid"

    def __init__(self, *, file: str, place: str, reason: str) -> None:
        super().__init__(
            f"{file}, at {place}: {reason}",
            param=place,
            details={"file": file, "place": place, "reason": reason},
        )


class _UniqueKeyLoader(yaml.SafeLoader):
    """
    YAML's safe loader, except that a key written twice is an error.

    PyYAML silently keeps the last one, so that an edited price could be the dead copy.
    """

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002  PyYAML's own signature
    ) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # pyright: ignore[reportUnknownMemberType]  PyYAML has no types here
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_catalogue(name: str) -> Mapping[str, object]:
    """
    Return the checked content of ``name``.yaml as shipped with the package.

    Raises:
        CatalogueError: The file does not fit ``name``.schema.json.
    """
    return read_file(resources.files(_PACKAGE).joinpath(f"{name}.yaml"), schema=name)


def read_file(file: Traversable, *, schema: str) -> Mapping[str, object]:
    """
    Return the checked content of a YAML file, e.g. an operator's own.

    Args:
        file: The file; any ``pathlib.Path`` will do.
        schema: Name of the schema in this package, without ``.schema.json``.

    Raises:
        CatalogueError: The file is missing, no YAML, or does not fit the schema.
    """
    content = _parse(file)
    schema_text = (
        resources.files(_PACKAGE).joinpath(f"{schema}.schema.json").read_text(encoding="utf-8")
    )
    try:
        Draft202012Validator(json.loads(schema_text)).validate(content)  # pyright: ignore[reportUnknownMemberType]  its stub
    except ValidationError as error:
        place = ".".join(str(part) for part in error.absolute_path) or "the top"
        raise CatalogueError(file=file.name, place=place, reason=f"{error.message}.") from error
    return cast("Mapping[str, object]", content)


def _parse(file: Traversable) -> Any:  # noqa: ANN401  whatever the YAML says
    try:
        return yaml.load(  # a SafeLoader: it builds no objects
            file.read_text(encoding="utf-8"),
            Loader=_UniqueKeyLoader,  # noqa: S506 - a safe loader
        )
    except OSError as error:
        raise CatalogueError(file=file.name, place="the top", reason=str(error)) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}" if mark is not None else "the top"
        reason = f"{error.problem}."
        raise CatalogueError(file=file.name, place=place, reason=reason) from error
