"""The built-in plugins of hfx, one file each."""
