"""Command lines. Configures logging before anything imports Beam, which logs while it is imported."""

import logging
import sys

logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
