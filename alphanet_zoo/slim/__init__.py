"""Slimmable networks: any convolutional classifier at any width, from one copy of its weights."""
