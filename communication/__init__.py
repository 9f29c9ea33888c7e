"""Messages between ranks: the transports, the ledger of their traffic, the recorded trace, and mailboxes."""
