"""What a security reviewer must read: messages, signatures, mechanisms, ledger, encryption."""
