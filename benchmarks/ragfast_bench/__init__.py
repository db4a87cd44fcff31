"""Every installed peer beside ragfast, in one process, in turns: ``ragfast bench``. The library never imports this.

Importing it sets environment variables, where they are not set yet. Threads of OpenMP read theirs when they start, so
this is the last moment.
"""

import os as _os

for _name, _value in {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait are tens of times slower beside a busy program
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    _os.environ.setdefault(_name, _value)
