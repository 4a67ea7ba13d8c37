"""A classifier captured once, as a graph of torch operations: it runs, it is proven, it is hashed, it is stored."""

from .capture import capture, capture_on_copy
from .comparison import refuse_difference
from .graph import Batch, Node, Place, Ref, Weight
from .program import Program

__all__ = ["Batch", "Node", "Place", "Program", "Ref", "Weight", "capture", "capture_on_copy", "refuse_difference"]
