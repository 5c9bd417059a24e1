"""
Attack an x402 facilitator as dishonest clients and broken networks do, and say what came of it.

Owns: the published safety suite behind ``tokenworks x402 audit``: its attacks, the two rails it
can pay on (a hub's own network, and ``eip155`` with EIP-3009), the verdicts, and the table of what
the official SDK's defaults do under the same attacks.
Does not own: the hub's facilitator (``agents/payments``, ``web/x402_api``) nor the client that
people pay with (``sdk/``): the suite shares no code with what it judges and writes its own
signatures, also wrong ones.
Invariants:
- a verdict is ``survived`` only after an honest payment went through on the same rail, before the
  first attack: a facilitator that refuses everything survives nothing; each audit ends with one;
- each attack pays with authorisations of its own, never longer valid than ten minutes;
- ``failed`` names what was lost in figures; ``not applicable`` names the reason.
"""
