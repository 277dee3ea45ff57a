"""The dashboard: a local page on which runs are compared, agents watched, and training stopped.

following.py    metrics.jsonl, read as it grows · sampling.py    many points as few, with no peak lost
catalogue.py    the runs in a folder, by ids · answers.py    what their files say, as the pages ask for it
player.py       a worker process that plays episodes · playing.py    what it plays: a saved policy, step by step
episodes.py     the episodes that were asked for
streams.py      what changes, told to every page that looks on
guard.py        who may ask at all · app.py    the pages, and what they may ask
server.py       the socket that all is served from · beside.py    a dashboard with a run
static/         HTML, CSS, JavaScript modules and uPlot, as the browser gets them: there is no build step

It reads what runs write and takes no lock. It writes nothing but the requests of `upright.runs.control`.
"""
