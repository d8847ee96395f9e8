"""Server-rendered pages of a service, for its own people: what both services' pages share.

A service gives a `site.Site`: its desk, which checks the role and writes the log, the way in, a
menu and words. Here are the frame of a page, forms, languages, signing in, people and tokens.
"""
