"""Families of generative model, one file each; `VARIANTS` finds them by name."""

from importlib import import_module

from lekhani import params
from lekhani.variants.base import Variant

VARIANTS: dict[str, type[Variant]] = {
    name: getattr(import_module(f"{__name__}.{name}"), settings.__name__)
    for name, settings in params.VARIANT_SETTINGS.items()
}
"""The class `FlowMatching` in flow_matching.py for `flow_matching`, and so on: called as its settings in params are."""

__all__ = ["VARIANTS", "Variant"]
