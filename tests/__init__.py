"""The tests. Their workers share the processor's cores: threads beyond these would wait for each other."""

import os

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    for threads in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(threads, str(max(1, (os.cpu_count() or 1) // int(workers))))
