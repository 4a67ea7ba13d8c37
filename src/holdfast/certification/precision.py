"""tmp"""

from .driver import PRECISIONS as PRECISIONS
from .driver import Reduced as Reduced
from .driver import in_precision as in_precision
