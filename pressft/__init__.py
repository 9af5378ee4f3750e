"""Which decoder layer can be removed, and what does that cost once the model is fine-tuned?"""

import logging

# said on import of bitsandbytes, of a kernel pack for CPUs that we do not use
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
