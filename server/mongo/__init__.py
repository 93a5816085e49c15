"""The connection to MongoDB, and a mongod of our own."""
