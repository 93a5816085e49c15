"""Consumers: what happens in channels reaches a back end of the user's own, at least once and in order per channel,
also after it, or all of us, have been away. docs/consumers.md tells it to users.

A consumer is a configuration, a record in MongoDB (states.py) and a cursor in each of its channels (cursors.py). The
log is the queue: nothing is copied, and what a consumer has not had is what lies behind its cursor.

Who does it      Channels belong to groups, and each group is one node's at a time, for all consumers (leases.py). A
                 lease runs out by MongoDB's clock, is taken over by compare-and-set within 10 s, and has a fence that
                 goes up with each change of hands; a cursor moves by compare-and-set under that fence. So a holder that
                 was stopped and wakes up can send something once more, but not move anything back.
What is new      Never asked for by a consumer. A commit wakes the channel at once if it is ours, else it is told to the
                 others together with what else is new within 20 ms; the heads that nodes announce once a second anyhow
                 say it again. What nobody was told of (all nodes were down, Redis has lost it) is found by one look
                 through the index of heads for all consumers together (server/log/survey.py): at the start, when
                 groups change hands, when a peer goes silent, and with the sweeps, every 30 s. It takes a twentieth of
                 the time at most. 200 idle consumers cost what one costs: a lease's renewal and such a look.
In memory        Channels with something new, 10,000 per consumer at most, and some that have had (deliveries.py).
One batch        at a time per channel, the same until it is delivered: same messages, same id (batches.py, channel.py).
                 Channels take turns, so many at a time (schedule.py), over all nodes together: each has its share.
Where it starts  A channel without a cursor begins at the first message since the consumer was first seen, by time, so
                 that a new consumer costs nothing for channels that exist. Its first cursor is written when its first
                 message is seen, so what retention takes after that is a gap.
Gaps             What retention has taken, and `reason: "epoch"`, when the database was restored or a collection's
                 history was lost: then the new history is delivered from its beginning.
What comes twice What was delivered in the last moments before a crash (cursors are written 50 ms behind, together),
                 what a holder had under way that lost its lease, and what the back end has taken without saying so in
                 time.
"""
