"""Many checkpoints: found, shared out, audited each in its own process, and never twice.

finding     which checkpoints there are below the directories, globs and lists that were given
sharding    which of them are this machine's
identity    what an audit depends on, as one key
entries     one audit's report under its name, and the marker that vouches for it
results     the directory of results: claims, reports, markers, rows
working     one checkpoint from path to published report, in whichever process
processes   the local engine: a process a checkpoint, forked from one that has torch already
clusters    the Ray engine
batch       all of it together
stillness   which checkpoints lie still, and so may be whole
watching    checkpoints audited as they appear
series      what is written about the checkpoints together
status      how far a results directory is
"""
