"""Real servers as child processes of a test: mongod, replica sets, redis-server and run.py.

Every class here is an async context manager. It belongs to no event loop, so one may be started in a session's fixture
and used by tests that each have a loop of their own. Everything listens on loopback, writes its log into the directory
it was given, removes its data when it is left, and dies with pytest even if pytest is killed.
"""

from tests.support.mongod import Mongod, ReplicaSet, mongod_binary
from tests.support.ports import LOOPBACK, free_port
from tests.support.process import ROOT, Process, Startable
from tests.support.redis_servers import Redis, RedisCluster, SentinelSet, redis_binary
from tests.support.server import UNLIMITED, Response, Server

__all__ = [
    "LOOPBACK",
    "ROOT",
    "UNLIMITED",
    "Mongod",
    "Process",
    "Redis",
    "RedisCluster",
    "ReplicaSet",
    "Response",
    "SentinelSet",
    "Server",
    "Startable",
    "free_port",
    "mongod_binary",
    "redis_binary",
]
