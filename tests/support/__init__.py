"""What tests share: waiting with a deadline, a real nats-server, and a raw NATS socket."""

from tests.support.deadline import eventually
from tests.support.nats import NatsServer
from tests.support.raw import RawNats

__all__ = ["NatsServer", "RawNats", "eventually"]
