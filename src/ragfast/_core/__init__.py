"""The extension module, and the checks that every input passes before C reads it."""
