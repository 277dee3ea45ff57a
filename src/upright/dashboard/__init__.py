"""The dashboard: a local page on which runs are compared, agents watched, and training stopped.

following.py    metrics.jsonl, read as it grows · sampling.py    many points as few, with no peak lost
catalogue.py    the runs in a folder, by ids · playing.py    an episode of a saved policy, drawn in a worker process
guard.py        who may ask at all · server.py    the pages and what they ask for · beside.py    a dashboard with a run
static/         HTML, CSS, JavaScript modules and uPlot, as the browser gets them: there is no build step

It reads what runs write and takes no lock. It writes nothing but the requests of `upright.control`.
"""
