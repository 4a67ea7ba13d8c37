"""tmp"""

from .driver import check as check
