"""Files of any kind: whole or not at all, remote names, the manifest."""
