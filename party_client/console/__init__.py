"""The party's console: server-rendered pages over the desk, for the people of this party only.

Everything on a page comes from `party_client.desk`, which checks the role and writes the access
log; nothing here opens a file or a database of the party. No scripts, no outside sources.
"""

from party_client.console.pages import mount

__all__ = ["mount"]
