"""A classifier captured once, as a graph of torch operations: it runs, it is proven, it is hashed, it is stored."""

from .capture import OnCopy, capture
from .graph import Batch, Node, Place, Ref, Weight
from .program import Program

__all__ = ["Batch", "Node", "OnCopy", "Place", "Program", "Ref", "Weight", "capture"]
