"""placeholder"""
import json
def read(c):
    if not c.path.exists(): return []
    return [json.loads(x) for x in c.path.read_text().splitlines()]
def write_report(): pass
