"""What runs on the vehicle: readings, gate, features, scorer, detector, events and the daemon.

Training borrows all of it, so that both sides do the same by being the same.
"""
