"""Families of generative model, one file each; `VARIANTS` finds them by name."""

from lekhani.variants.base import Variant
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.flow_matching import FlowMatching

VARIANTS: dict[str, type[Variant]] = {variant.name: variant for variant in (Dcgan, FlowMatching)}

__all__ = ["VARIANTS", "Variant"]
