"""Makes the layout that a record names."""

from token_worker.keys.layout_record import LayoutName
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.layout import Layout


def make_layout(name: LayoutName, *, has_foreign: bool = False) -> Layout:
    """Return a layout for one token storage. It keeps ciphers and checks, so each storage needs its own.

    Args:
        name: of the layout.
        has_foreign: whether the record says that there may be foreign entries.
    """
    return DenseLayout(has_foreign=has_foreign) if name == "dense" else AcraLayout()
