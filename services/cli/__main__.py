"""`python -m services.cli`: the command line without its console script, as child processes are started.

Owns nothing; see services.cli.main.
"""

from services.cli.main import main

main()
