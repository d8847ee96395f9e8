"""The run: from plan to receipts. Relays and adds ciphertexts, holds no key."""
