"""The operator's HTTP API, under `/api`: what there is, and what an operator may do about it.

    http ──▶ router ──▶ access (who may ask), arguments (what is asked)
                   └──▶ clients, channels, mailboxes, messages, overview ──▶ node, engines
    stream: samples and happenings as server-sent events      openapi: all of it as a document

`operations` is the one table that the router, the document and the page for people are made from.
"""
