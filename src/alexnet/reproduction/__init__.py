"""The paper's claims, each tested by one command: `alexnet reproduce NAME --data DIR`.

claims.py is the table of claims; running.py trains what a claim needs, once; measures.py compares; intervals.py says
how sure one can be; figures.py draws; results.py writes what was found and reads it back.
"""
