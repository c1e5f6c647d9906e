"""Gaussian mixtures: families, statistics, M-step, prior, repair, queries."""

from streamgmm.mixture import m_step, stats

stats.Stats._m_step = m_step.m_step  # here, because mixtures make statistics, and statistics are made into mixtures
