"""The coordinator's pages: server-rendered, over the desk, for the coordinator's own people.

Everything on a page comes from `coordinator.desk`, which checks the role and writes the audit log;
nothing here opens a store. One small script follows a run that is under way; without it the page
says how to read on. No outside sources.
"""

from coordinator.dashboard.pages import mount

__all__ = ["mount"]
