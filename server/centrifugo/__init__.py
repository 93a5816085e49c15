"""Centrifugo's client protocol and server API, for clients and back ends that speak them: adapters on the use cases."""
