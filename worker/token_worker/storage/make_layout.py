"""Makes the layout that a record names."""

from token_worker.keys.layout_record import LayoutName
from token_worker.storage.acra.layout import AcraLayout
from token_worker.storage.dense.layout import DenseLayout
from token_worker.storage.layout import Layout


def make_layout(name: LayoutName) -> Layout:
    """Return a layout for one token storage. It keeps ciphers and checks, so each storage needs its own."""
    return DenseLayout() if name == "dense" else AcraLayout()
