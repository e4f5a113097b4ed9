"""Every runtime that an export runs in, behind one small interface: load, infer, close."""
