"""What kills a run, at every message that it sends: the database must come out right each time."""
