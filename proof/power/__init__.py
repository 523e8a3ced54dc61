# SPDX-License-Identifier: Apache-2.0
"""Power loss: runs recorded below the engine, cut at every record, reopened, compared with what was promised.

``recorder`` is a file system that hands everything on and notes it; ``medium`` says what of it may be left
when the power goes; ``script`` does things to Fisks; ``promises`` knows what must be there at each moment;
``judge`` opens what is left and compares; ``replay`` keeps what went wrong.
"""
