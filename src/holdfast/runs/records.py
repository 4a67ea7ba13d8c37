"""tmp"""

from .store import *
from .store import RecordWriter as RecordWriter
from .store import count_records as count_records
from .store import read_records as read_records
