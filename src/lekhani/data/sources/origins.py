"""Who wrote and collected the images of the sources we know, under which licence, and how to cite them."""

from dataclasses import dataclass

from lekhani import params


@dataclass(frozen=True)
class Origin:
    """What goes into source.json and from there into the data card; None where it is unknown."""

    origin: str | None = None
    licence: str | None = None
    citation: str | None = None
    openml: int | None = None  # the same images there, for which nobody needs an account


DHCD = Origin(
    "Devanagari Handwritten Character Dataset, by Shailesh Acharya, Ashok Kumar Pant and Prashnna Kumar Gyawali "
    "(UCI data set 389)",
    "CC BY 4.0",
    "S. Acharya, A. K. Pant, P. K. Gyawali: Deep Learning Based Large Scale Handwritten Devanagari Character "
    "Recognition. SKIMA 2015.",
    40923,
)
MNIST = Origin(
    "MNIST, digits of US Census Bureau employees and high school students, collected by NIST; by Yann LeCun, "
    "Corinna Cortes and Christopher Burges",
    "CC BY-SA 3.0",
    "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-Based Learning Applied to Document Recognition. "
    "Proceedings of the IEEE 86(11), 1998.",
    554,
)
_KAGGLE = {
    "rishianand/devanagari-character-set": DHCD,
    "ashokpant/devanagari-character-dataset-large": DHCD,
    "berlinsweird/devanagari": DHCD,
    "hojjatk/mnist-dataset": MNIST,
}
_HUGGINGFACE = {"ylecun/mnist": MNIST}
_OPENML = {40923: DHCD, 554: MNIST}
_EMBEDDED = {
    "devanagari": Origin(
        "drawn by Lekhani from Noto Sans Devanagari and Noto Serif Devanagari", "OFL 1.1 (the typefaces)"
    ),
    "mnist": Origin(
        "Optical Recognition of Handwritten Digits, test set (UCI data set 80), as scikit-learn ships it",
        "CC BY 4.0",
        "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998.",
    ),
}


def origin_of(name: str, data: params.Data) -> Origin:
    """The origin of dataset `name`: what `data` says, else what we know of its source, else nothing."""
    known = Origin()
    if data.source == "kaggle" and data.kaggle:
        known = _KAGGLE.get(data.kaggle.slug.lower(), known)
    elif data.source == "openml" and data.openml:
        known = _OPENML.get(data.openml, known)
    elif data.source == "huggingface" and data.huggingface:
        known = _HUGGINGFACE.get(data.huggingface.repo.lower(), known)
    elif data.source == "embedded":
        known = _EMBEDDED.get(name, known)
    return Origin(
        data.origin or known.origin, data.licence or known.licence, data.citation or known.citation, known.openml
    )
