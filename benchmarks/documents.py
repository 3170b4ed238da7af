"""Documents with marked places that commands fill: ``<!-- begin: NAME -->`` to ``<!-- end: NAME -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_MARKED = re.compile(r"(<!-- begin: (?P<name>[^>]+?) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def fill(document: str, sections: Mapping[str, Callable[[], str]]) -> str:
    """The document with its marked places filled; raises ``ValueError`` for a place that no section fits."""
    places = [match["name"] for match in _MARKED.finditer(document)]
    begun = re.findall(r"<!-- begin: ([^>]+?) -->", document)
    if places != begun:
        raise ValueError(f"no end for {', '.join(name for name in begun if name not in places)}")
    unknown = [name for name in places if name not in sections]
    if unknown or not places:
        raise ValueError(f"no section {', '.join(unknown)}" if unknown else "no marked place")
    return _MARKED.sub(lambda match: f"{match[1]}\n{sections[match['name']]()}\n\n{match[3]}", document)
