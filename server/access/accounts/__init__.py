"""Accounts, for products without a user database of their own (`auth.accounts`).

    service.py      the use cases of who has an account: making one, signing in and out, the password, the sessions
    store.py        accounts        {_id: name in lower case, user: name, password: argon2 hash, info: JSON text, …}
    families.py     refresh_tokens  a sign-in, and which of its refresh tokens is the good one
    openid.py                       signing in elsewhere
    passkeys.py                     signing in with a passkey
    credentials.py  passkeys        their public keys
    administration.py               what operators do
    one_time.py     account_tokens  what is mailed, and good once
    recovery.py     forgotten passwords, addresses of e-mail        mail.py         who sends what is mailed
    passwords.py    hashing, bounded                attempts.py     waits between wrong passwords

`meta {_id: "secret", secret: …}` signs the tokens where auth.secret is null.
"""
