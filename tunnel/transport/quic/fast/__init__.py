"""The fast engine: aioquic's connection with the bulk path of 1-RTT packets written anew.

Handshake, path validation, connection ids, key derivation and every rare frame stay aioquic's.
What is done for each packet of a transfer is ours: `chunks` and `sender` hold what is to be sent,
`sending` fills packets from them, `sealing` protects a batch of packets at once; `receiving` takes
them apart, `codec` knows the few frames that both do themselves. `records` and `settling` keep one
entry for a burst of equal packets of one stream, a run, which `recovery` splits when only a part of
it is acknowledged or lost. `repeating` sends twice what is little, where the path loses. `engine`
is the whole.

It reaches into aioquic's private attributes, hence the exact pin (docs/decisions/0006).
"""
