"""YAML that holds nothing but mappings, lists, text, numbers, true, false and null, of a size that people write.

Numbers are those of YAML 1.2: 1e-3 is one, and 1:30, 1_0 and 017 are text, as `off` and dates are. Keys are text.
"""

import re
from typing import Any

import yaml

MAX_CHARACTERS = 1 << 20
MAX_NODES = 20_000  # with each alias counted as what it stands for
MAX_DEPTH = 30


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own attribute, filled below
    yaml_constructors = {
        f"tag:yaml.org,2002:{name}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{name}"]
        for name in ("null", "bool", "int", "float", "str", "seq", "map")
    } | {None: yaml.SafeLoader.yaml_constructors[None]}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        known = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key `{key}` is no text, {_place(node)}; put it in quotes")
            if key in known:
                raise yaml.YAMLError(f"the key `{key}` stands twice, {_place(node)}")
            known.add(key)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if re.search("[\0-\x08\x0b-\x1f\x7f\ud800-\udfff]", value):
            raise yaml.YAMLError(f"a text holds characters that cannot be shown, {_place(node)}")
        return value


_FLOAT = r"[-+]?(\.\d+|\d+\.\d*)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9]\d{0,17})", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def load(text: str) -> Any:
    """What one YAML document holds; raises yaml.YAMLError whose text is the end of a sentence."""
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters, and {MAX_CHARACTERS:,} is the most")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node, [])
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise yaml.YAMLError(f"{what}, near line {mark.line + 1 if mark else 1}") from None
    except RecursionError:
        raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except (ValueError, KeyError, AttributeError) as error:  # of PyYAML, where a tag and its value do not fit
        raise yaml.YAMLError(f"a tag such as `!!int` stands before another kind of value ({error})") from None
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, above: list[yaml.Node]) -> int:
    """The number of nodes; raises yaml.YAMLError where there are too many, and for an alias within what it stands for.

    Aliases may make a document of a few lines larger than any memory.
    """
    if any(node is one for one in above):
        raise yaml.YAMLError(f"an alias stands within what it stands for, {_place(node)}")
    if len(above) >= MAX_DEPTH:
        raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels, {_place(node)}")
    count, children = 1, node.value if isinstance(node, yaml.CollectionNode) else []
    for child in children:
        for one in child if isinstance(child, tuple) else (child,):
            count += _check_size(one, [*above, node])
            if count > MAX_NODES:
                raise yaml.YAMLError(f"it holds more than {MAX_NODES:,} values")
    return count


def _place(node: yaml.Node) -> str:
    return f"near line {node.start_mark.line + 1}"
