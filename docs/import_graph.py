"""Draw docs/images/imports.svg: the packages of src/lekhani in their layers, and which imports which.

An import that is implied by others is left out (transitive reduction), or there would be nothing to see but arrows.

Run from the project folder: `python docs/import_graph.py`.
"""

import tomllib
from pathlib import Path

import grimp
import matplotlib as mpl
import networkx as nx
from matplotlib.figure import Figure

BASE = "params, paths, errors, text, machine ..."


def layers() -> list[list[str]]:
    """The layers of the import contract, from the top down; what is lowest is drawn as one box."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    rows = [row.split(" : ") for row in project["tool"]["importlinter"]["contracts"][0]["layers"]]
    return [*rows[:-1], [BASE]]


def imports(rows: list[list[str]]) -> nx.DiGraph:
    """Which package imports which, without what follows from the other imports."""
    graph, names, found = grimp.build_graph("lekhani"), {name for row in rows for name in row}, nx.DiGraph()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = [one.split(".")[1] if "." in one else "" for one in (module, other)]
            importer, imported = (one if one in names else BASE for one in pair)
            if "" not in pair and "__main__" not in pair and importer != imported:
                found.add_edge(importer, imported)
    return nx.transitive_reduction(found)


def draw() -> Figure:
    """One row a layer, and an arrow from each package to those it imports; long arrows bend around others."""
    rows = layers()
    place = {name: (2.2 * i, -row) for row, names in enumerate(rows) for i, name in enumerate(names)}
    figure = Figure(figsize=(6, 0.55 * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))
    for i, (importer, imported) in enumerate(sorted(imports(rows).edges)):
        (x0, y0), (x1, y1) = place[importer], place[imported]
        bend = 0.0 if y0 - y1 <= 1 else 0.45 * (-1) ** i
        style = {"arrowstyle": "-|>", "color": "#5b7fa6", "lw": 1.1, "connectionstyle": f"arc3,rad={bend}"}
        axes.annotate("", (x1, y1 + 0.3), (x0, y0 - 0.3), arrowprops=style | {"shrinkA": 0, "shrinkB": 0})
    for name, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.35", "facecolor": "#f4efe4", "edgecolor": "#7a5c2e"}
        axes.text(x, y, name, ha="center", va="center", fontsize=10, bbox=box)
    axes.set_xlim(-2.6, 3.4)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_axis_off()
    return figure


if __name__ == "__main__":
    mpl.rcParams |= {"svg.hashsalt": "lekhani", "svg.fonttype": "path"}
    draw().savefig("docs/images/imports.svg", metadata={"Date": None})
