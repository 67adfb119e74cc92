"""YAML without traps: one document, every key once, no aliases."""

from __future__ import annotations

import yaml

from meshpki.errors import UsageError


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what can be read in two ways (a key given twice) or grows (an alias)."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(problem="an alias", problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {str(key)[:80]!r} " + ("twice" if key in seen else "that is no text"),
                    problem_mark=key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load_yaml(content: bytes, name: str) -> object:
    """Read one YAML document: no aliases, no key twice, text keys only. Raises UsageError that names the place.

    The errors of the parser hold the text around the place, which may be a secret: none of them is chained.
    """
    problem = UsageError(f"{name} cannot be read as YAML", wanted="one YAML document in UTF-8")
    try:
        return yaml.load(content, Loader=_StrictLoader)  # noqa: S506  # a SafeLoader made stricter
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        what = str(error.problem)
        if what.startswith("but "):  # the second half of a sentence
            what = f"{error.context}, {what}"
        problem = UsageError(f"{where}: {what}", wanted="YAML, every key once, no aliases")
    except (yaml.YAMLError, RecursionError, ValueError):
        pass
    raise problem
