"""`python -m services.cli`: the command line without its console script, as child processes are started.

Owns nothing; see services.cli.main.
"""

from trainshed_client.launch import as_utf8, end_at_interrupt

end_at_interrupt()
as_utf8()

from services.cli.main import main

main()
