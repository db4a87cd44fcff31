"""The main job on real input: Wikipedia summaries, a MiniLM encoder, SmolLM2. The library never imports this package.

Importing it sets environment variables, where they are not set yet, that keep the model libraries off the network and
quiet. They are read when those libraries are imported, so this is the last moment.
"""

import os as _os

for _name, _value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # torch's threads would spin at barriers, ruinous beside another busy program
}.items():
    _os.environ.setdefault(_name, _value)
