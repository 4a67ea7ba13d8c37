"""tmp"""
from .store import *
from .store import read_records as read_records, count_records as count_records, RecordWriter as RecordWriter
