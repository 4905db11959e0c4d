"""What both sides agree on: container, trust, manifest, slots and the install state machine.

Modules are imported by name, so that whoever reads a bundle's slot never loads the trust code.
"""
