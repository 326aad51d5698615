"""One BLAS thread, as in training: conv_net and predict then use threads of their own, and those are to be tested."""

import os

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')               # read once, when NumPy is imported
