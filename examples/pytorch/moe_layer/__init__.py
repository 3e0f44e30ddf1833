# SPDX-License-Identifier: Apache-2.0
"""One MoE layer, computed in several ways that share all arithmetic; what layer_forward.py measures.

launch     ranks of this machine, where no launcher starts them
shapes     layers of published models, by name
routing    which experts the tokens choose
rows       tokens sorted by expert
experts    the weights, and SwiGLU over a group of experts by grouped GEMMs
combine    the weighted sum of what a token's experts gave
ways       all experts here; Cardea; all-to-all
reference  the plain layer that every way is checked against
timing, report   medians over ranks, and the table
"""
