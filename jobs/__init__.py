"""Command lines. Configures logging before anything imports Beam, which logs while it is imported."""

import logging
import sys

logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
logging.getLogger("transforms").setLevel(logging.WARNING)  # ours: what they warn of is meant to be read
