"""Two small plugins for hfx, to copy and change: an optimizer's wrapper and a listener."""
