"""tmp"""

from .loop import augment as augment
