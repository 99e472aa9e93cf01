"""Compiled sampling under any intervention: prefill, decode, shared prefixes, refilling."""
