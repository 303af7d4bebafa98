//! Exactly-once: the replicated table of clients, requests and answers.
