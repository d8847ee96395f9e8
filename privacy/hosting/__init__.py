"""What both services share and must not write twice: processes, web access, migrations."""
