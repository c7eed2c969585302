"""A CPU's passes, in C++ that the machine's own compiler makes on first use."""
