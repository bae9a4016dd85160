"""Families of generative model, one file each; `VARIANTS` finds them by name."""

from lekhani.variants.bare_bones import BareBones
from lekhani.variants.base import Variant
from lekhani.variants.cgan import Cgan
from lekhani.variants.dcgan import Dcgan
from lekhani.variants.draw import Draw
from lekhani.variants.flow_matching import FlowMatching
from lekhani.variants.mlp_gan import MlpGan
from lekhani.variants.r3gan import R3gan
from lekhani.variants.sngan import Sngan
from lekhani.variants.turbo import Turbo
from lekhani.variants.wgan_gp import WganGp

VARIANTS: dict[str, type[Variant]] = {
    variant.name: variant
    for variant in (BareBones, MlpGan, Cgan, Dcgan, WganGp, Sngan, R3gan, Draw, FlowMatching, Turbo)
}

__all__ = ["VARIANTS", "Variant"]
