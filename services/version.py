"""The release that runs here.

Owns one string; knows nothing else.
"""

VERSION = "0.1.0"
