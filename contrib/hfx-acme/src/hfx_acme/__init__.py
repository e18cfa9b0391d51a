"""What Acme adds to hfx: its policy, its audit trail, its document store."""
