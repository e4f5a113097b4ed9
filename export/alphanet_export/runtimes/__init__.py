"""The runtimes that run an exported file, behind one interface: load, infer, close."""
