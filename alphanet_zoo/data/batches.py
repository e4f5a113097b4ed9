"""Batches of images: for training, a function of (seed, step); for evaluation, the source in order.

An epoch's order is drawn from (seed, epoch), and what happens to an image from (seed, epoch, index). So no training
batch depends on the ones before it, on the number of workers, or on the number of processes that share it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from alphanet_zoo.data.augment import constant, normalise, warp
from alphanet_zoo.data.broken import BrokenImages
